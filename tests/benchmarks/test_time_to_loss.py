import json
import math

import numpy as np
import pytest
import torch

import time_to_loss
from cadran.corpus.shards import EncodedDocument, write_shard
from cadran.evaluate.bits_per_byte import bits_per_byte as own_bits_per_byte
from cadran.model.config import ModelConfig
from cadran.model.transformer import Transformer
from curve import Curve, Point, seconds_to
from held_out import bits_per_byte


def make_shard(folder, documents, seed, longest=60):
    generator = np.random.default_rng(seed)

    def document(number):
        start, length = generator.integers(1, 32), generator.integers(5, longest)
        ids = np.concatenate([[0], (start + np.arange(length)) % 31 + 1, [0]])
        return EncodedDocument(ids, text_bytes=2 * int(length), language="en" if number % 3 else "fr")

    return write_shard(folder, [document(number) for number in range(documents)], vocabulary=32)


@pytest.mark.parametrize("limit", [None, 2])
def test_bits_per_byte_equals_that_of_the_package(tmp_path, limit):
    shard = make_shard(tmp_path, 12, seed=1)
    model = Transformer(ModelConfig(32, 1, 16, 2, 2, 8, 32, context=16), seed=0)
    with torch.no_grad():  # it starts at zero: attention would not show
        model.model.layers[0].self_attn.o_proj.weight.normal_(generator=torch.Generator().manual_seed(0))
        expected = own_bits_per_byte(model, shard, 16, limit=limit)["all"]
    assert bits_per_byte(model, shard, 16, limit) == pytest.approx(expected, rel=1e-5)


def test_bits_per_byte_of_a_uniform_model_counts_every_target_once(tmp_path):
    shard = make_shard(tmp_path, 9, seed=2)
    targets = len(shard.tokens) - shard.documents
    expected = targets * math.log2(32) / int(shard.text_bytes.sum())
    assert bits_per_byte(lambda ids: torch.zeros(*ids.shape, 32), shard, 16) == pytest.approx(expected)


def test_clock_stands_still_while_a_point_is_taken():
    now = [0.0]

    def evaluate():
        now[0] += 100
        return 1.0

    curve = Curve(evaluate, clock=lambda: now[0])
    for step in range(3):
        curve.observe(step)
        now[0] += 5
    assert [point.seconds for point in curve.points] == [0, 5, 10]


def points(*pairs):
    return [Point(step, seconds, figure) for step, (seconds, figure) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("target", "expected"),
    [(3.0, 0.0), (2.5, 5.0), (2.0, 10.0), (1.75, 15.0), (1.5, 20.0), (1.4, None)],
)
def test_first_time_below_a_figure_is_read_between_points(target, expected):
    assert seconds_to(points((0, 3.0), (10, 2.0), (20, 1.5), (30, 1.6)), target) == expected


def test_ratio_compares_the_times_to_the_baselines_last_figure():
    one = time_to_loss.compare(points((0, 3.0), (60, 2.0)), points((0, 3.0), (20, 2.5), (40, 1.5)))
    assert (one["target_bits_per_byte"], one["baseline_seconds"], one["ours_seconds"], one["ratio"]) == (2, 60, 30, 2)
    assert time_to_loss.compare(points((0, 3.0), (60, 2.0)), points((0, 3.0), (20, 2.5)))["ratio"] is None


def test_race_on_a_small_run_writes_curves_and_the_chosen_rate(tmp_path, capsys):
    shards = tmp_path / "run" / "tokenizer" / "tokens"
    make_shard(shards / "train", 60, seed=3)
    make_shard(shards / "validation", 6, seed=4)
    arguments = (
        f"--run {tmp_path / 'run'} --out {tmp_path / 'out.json'} --steps 8,12 --seeds 2 --rates 1e-5,1e-2,1e6 "
        "--search-share 1 --layers 1 --width 16 --heads 2 --context 16 --rows 4 --evaluations 4 --threads 1"
    )
    threads = torch.get_num_threads()
    try:
        assert time_to_loss.main(arguments.split()) == 0
    finally:
        torch.set_num_threads(threads)
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["baseline_rate"] == 1e-2 and set(written["rate_search"]) == {"1e-05", "0.01", "1e+06"}
    assert abs(written["parameters"]["baseline"] / written["parameters"]["ours"] - 1) <= 0.03
    for seed in ("0", "1"):
        curves = written["seeds"][seed]["curves"]
        assert [point["step"] for point in curves["baseline"]] == [0, 2, 4, 6, 8]
        assert [point["step"] for point in curves["ours"]] == [0, 3, 6, 9, 12]
        for curve in curves.values():
            assert curve[0]["bits_per_byte"] > curve[-1]["bits_per_byte"] > 0
            assert curve[-1]["seconds"] > curve[0]["seconds"] >= 0
    assert written["seeds"]["0"]["curves"] != written["seeds"]["1"]["curves"]
    assert "baseline's peak rate 0.01" in capsys.readouterr().out


def test_missing_run_is_one_sentence_and_status_two(tmp_path, capsys):
    assert time_to_loss.main(["--run", str(tmp_path / "none")]) == 2
    assert "token shard" in capsys.readouterr().err
