"""``cadran bench`` on a tiny model: what it prints is what was measured, and it reads what it says it reads."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typed import cadran, tiny_model

from cadran.cli import bench as command
from cadran.engine import bench
from cadran.engine.bandwidth import read_bandwidth
from cadran.engine.torch_runner import TorchRunner
from cadran.errors import UserError
from cadran.model.checkpoint import load_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), context=1024)


@pytest.fixture(autouse=True)
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cadran.engine.bandwidth.BYTES", 8 << 20)


def test_the_figures_come_as_json(model: Path) -> None:
    options = ("--runner", "torch", "--prompt-tokens", "40", "--new-tokens", "8", "--rounds", "2", "--threads", "1")
    done = cadran("bench", str(model), *options, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["runner"] == "torch" and found["threads"] == 1 and found["together"] == 16
    for name in ("prefill", "first_token", "decode", "decode_together"):
        assert 0 < found[name]["low"] <= found[name]["median"] <= found[name]["high"]
    weights = (model / "model.safetensors").stat().st_size
    assert 0.9 * weights < found["weight_bytes"] <= weights
    assert found["memory_ratio"] == pytest.approx(found["memory_bytes"] / found["weight_bytes"])
    rate = found["bandwidth"]["bytes_per_second"]
    assert found["bandwidth_fraction"] == pytest.approx(found["decode"]["median"] * found["token_bytes"] / rate)
    assert found["load_seconds"] > 0


def test_the_table_has_a_row_for_each_figure(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    command.bench(str(model), prompt_tokens=40, new_tokens=8, rounds=1, runner="torch", threads=1, as_json=False)
    shown = " ".join(capsys.readouterr().out.split())
    for row in ("prefill of 40 tokens", "time to first token", "decode of 8 tokens", "decode, 16 sequences together",
                "load", "memory", "x the weights", "% of the measured"):  # fmt: skip
        assert row in shown
    assert "torch runner, 1 threads, 1 rounds" in shown


def test_a_prompt_over_several_chunks_and_shared_blocks_is_read_once(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batches of a round: the prompt in pieces, one answer, then sixteen of which each has its own end."""
    read: list[tuple[int, int]] = []  # tokens and sequences of each pass
    step = TorchRunner.step

    def counted(self: TorchRunner, batch: Any) -> Any:
        read.append((len(batch.ids), len(batch.starts) - 1))
        return step(self, batch)

    monkeypatch.setattr(TorchRunner, "step", counted)
    result = bench.bench(model, "torch", prompt_tokens=600, new_tokens=40, rounds=1, threads=1)
    one_round = [(512, 1), (88, 1)] + [(1, 1)] * 40 + [(16, 16)] * 40
    assert read == 2 * one_round
    kept = 2 * 16 * 4  # keys and values of a position, one layer, 32 bits
    weights = sum(p.numel() for p in load_model(model).parameters()) * 4
    assert result.token_bytes == int(weights + kept * 620.5)


def test_sequences_decoded_together_go_on_from_the_same_prompt(model: Path) -> None:
    """What the rig decodes in company is what each text would get by itself."""
    runner = TorchRunner(load_model(model), blocks=40, block_size=16)
    rig = bench._Rig(runner, prompt_tokens=37, new_tokens=20)
    assert rig.sequences == 16 and len({block for table in rig.tables for block in table[2:]}) == 32
    rig.round()
    for table in rig.tables:
        kept = [runner.read_block(block) for block in table[:2]]
        assert kept == [runner.read_block(block) for block in rig.tables[0][:2]]
        first = np.frombuffer(runner.read_block(table[2]), np.float32).reshape(2, 16, 16)[:, :5]
        expected = np.frombuffer(runner.read_block(rig.tables[0][2]), np.float32).reshape(2, 16, 16)[:, :5]
        assert np.array_equal(first, expected)


def test_fewer_sequences_are_decoded_together_where_memory_is_short(model: Path) -> None:
    transformer = load_model(model)
    assert bench._Rig(TorchRunner(transformer, blocks=11, block_size=16), 37, 20).sequences == 4
    with pytest.raises(UserError, match="need 4 blocks of memory and there are 3"):
        bench._Rig(TorchRunner(transformer, blocks=3, block_size=16), 37, 20)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"prompt_tokens": 0}, "--prompt-tokens is 0"),
        ({"rounds": -1}, "--rounds is -1"),
        ({"prompt_tokens": 1000, "new_tokens": 100}, "1000 and 100 tokens are more than this model's context of 1024"),
    ],
)
def test_numbers_out_of_range_are_refused(model: Path, options: dict[str, int], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        bench.bench(model, "torch", **options)  # type: ignore[arg-type]


def test_logits_that_are_no_numbers_are_said(model: Path) -> None:
    transformer = load_model(model)
    rig = bench._Rig(TorchRunner(transformer, blocks=40, block_size=16), 20, 4)
    transformer.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="no numbers"):
        rig._decode([3])


def test_the_bandwidth_is_plausible_and_says_how_it_was_measured() -> None:
    found = read_bandwidth(1, 4 << 20, 3)
    assert found.by in ("native", "numpy") and 1e8 < found.bytes_per_second < 1e13
