"""LoRA adapters in the compiled core: PyTorch's numbers, many adapters on one base, none disturbing another."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cadran.engine.adapters import NoSharingError, add_adapter
from cadran.engine.compute_thread import EngineClosedError
from cadran.engine.engine import Engine
from cadran.engine.native import library
from cadran.engine.native.runner import NativeRunner
from cadran.engine.runner import Batch
from cadran.errors import UserError
from cadran.model.checkpoint import load_model, save_model
from cadran.model.config import ModelConfig
from cadran.model.families import read_config
from cadran.model.lora import LoraConfig
from cadran.model.lora import add_adapter as put_adapter
from cadran.model.lora_files import load_adapter, save_adapter
from cadran.model.transformer import Transformer
from cadran.tokenizer.bpe import train_bpe

pytestmark = pytest.mark.skipif(not library.available(), reason=str(library.why_not()))

TEXTS = ["La rivière est calme.", "The river is calm.", "def add(a, b): return a + b"] * 4
SIZES = {
    "vocab_size": 77, "num_hidden_layers": 2, "hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2,
    "intermediate_size": 72, "max_position_embeddings": 128, "tie_word_embeddings": True,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama, biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "gemma2": {"model_type": "gemma2", "head_dim": 16, "sliding_window": 24, "query_pre_attn_scalar": 16,
               "hidden_activation": "gelu_pytorch_tanh"},
    "phi3, stacked": {"model_type": "phi3", "num_key_value_heads": 6, "pad_token_id": 0},
    "gpt2, fused": {"model_type": "gpt2", "n_embd": 48, "n_layer": 2, "n_head": 6, "n_positions": 128,
                    "vocab_size": 77, "activation_function": "gelu_new"},
}  # fmt: skip


def moved(model: Transformer, seed: int, **config: Any) -> Transformer:
    """With an adapter that changes what it says."""
    put_adapter(model, LoraConfig(rank=3, **config), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A model with a tokenizer and two adapters for it."""
    folder, tokenizer = tmp_path_factory.mktemp("adapted"), train_bpe(TEXTS, 300)
    config = ModelConfig(
        vocabulary=tokenizer.vocabulary_size, layers=2, width=64, heads=2, kv_heads=1, head_width=32, hidden=96,
        context=256, tied=True,
    )  # fmt: skip
    model = Transformer(config, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.2)
    save_model(model.eval(), folder / "base", end_of_text=tokenizer.end_of_text, pad=0, eos=[tokenizer.end_of_text])
    tokenizer.save(folder / "base", chat=False)
    for seed in (3, 4):
        save_adapter(moved(load_model(folder / "base"), seed), folder / str(seed))
    return folder / "base", [folder / "3", folder / "4"]


@pytest.fixture
def engine(folders: tuple[Path, list[Path]]) -> Iterator[Engine]:
    with Engine.load(folders[0], runner="native", kv="f32", threads=2) as opened:
        yield opened


def said(engine: Engine, text: str = "La rivière", tokens: int = 24) -> str:
    return engine.generate(text, temperature=0, max_tokens=tokens, stop_ids=()).text


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_torch_with_the_adapter(family: str, tmp_path: Path) -> None:
    model = Transformer(read_config(SIZES | FAMILIES[family]), seed=5).eval()
    save_model(model, tmp_path / "base", end_of_text=0, pad=0, eos=[0])
    adapted = moved(load_model(tmp_path / "base"), seed=6).eval()
    save_adapter(adapted, tmp_path / "adapter")
    runner = NativeRunner.open(tmp_path / "base", threads=2, kv="f32", blocks=16)
    number = add_adapter(runner, tmp_path / "base", tmp_path / "adapter")
    ids = np.arange(2 * 40, dtype=np.int32) * 7 % 77
    batch = Batch(
        ids, np.tile(np.arange(40, dtype=np.int32), 2), np.array([0, 40, 80], np.int32),
        np.array([[0, 1], [2, 3]], np.int32), np.arange(80, dtype=np.int32), np.array([number, 0], np.int32),
    )  # fmt: skip
    made = runner.step(batch)
    rows = torch.from_numpy(ids.astype(np.int64)).reshape(2, 40)
    with torch.no_grad():
        expected = torch.cat([adapted(rows[:1])[0], load_model(tmp_path / "base")(rows[1:])[0]]).numpy()
    assert np.abs(made - expected).max() < 3e-4 < np.abs(expected[:40] - made[40:]).max()
    runner.close()


def test_it_says_what_torch_says_with_the_adapter(folders: tuple[Path, list[Path]], engine: Engine) -> None:
    base, adapters = folders
    for folder in adapters:
        model = load_model(base)
        load_adapter(model, folder)
        with Engine(model, engine.tokenizer, None) as slow, engine.with_adapter(folder) as quick:
            assert said(quick) == said(slow) != said(engine)
            assert np.allclose(quick.embed(["La rivière"]), slow.embed(["La rivière"]), atol=1e-4)
    with (
        Engine.load(base, adapter=adapters[0], runner="native", kv="f32") as alone,
        engine.with_adapter(adapters[0]) as it,
    ):
        assert said(alone) == said(it)


def test_requests_with_different_adapters_run_together_and_are_what_they_are_alone(
    folders: tuple[Path, list[Path]], engine: Engine
) -> None:
    faces = [engine, *(engine.with_adapter(folder) for folder in folders[1])]
    texts = ["La rivière", "The river is", "def add"]
    alone = {}
    for number, folder in enumerate([None, *folders[1]]):
        with Engine.load(folders[0], adapter=folder, runner="native", kv="f32") as single:
            alone |= {(number, text): said(single, text, 60) for text in texts}
    with ThreadPoolExecutor(9) as pool:
        asked = {key: pool.submit(said, faces[key[0]], key[1], 60) for key in alone for _ in range(2)}
        assert {key: answer.result() for key, answer in asked.items()} == alone
    # Each remembers what it has read, and gives it to nobody else.
    assert {key: said(faces[key[0]], key[1], 60) for key in alone} == alone


def test_an_adapter_goes_without_the_others(folders: tuple[Path, list[Path]], engine: Engine) -> None:
    first, second = (engine.with_adapter(folder) for folder in folders[1])
    expected = said(second)
    endless = first.generate("La", max_tokens=200, stop_ids=(), temperature=0)
    next(iter(endless))
    first.close()
    assert endless.read().finish in ("cancelled", "length")
    with pytest.raises(EngineClosedError, match="put it there again"):
        said(first)
    first.close()
    assert said(second) == expected
    third = engine.with_adapter(folders[1][1])  # in the place of the first
    assert said(third) == expected
    second.close()
    engine.close()
    third.close()
    with pytest.raises(EngineClosedError):
        said(third)


def test_what_the_core_cannot_share_says_so_and_opens_alone(folders: tuple[Path, list[Path]], tmp_path: Path) -> None:
    base, _ = folders
    save_adapter(moved(load_model(base), 7, dora=True), tmp_path / "dora")
    with Engine.load(base, runner="native") as engine, pytest.raises(NoSharingError, match="DoRA"):
        engine.with_adapter(tmp_path / "dora")
    with Engine.load(base, adapter=tmp_path / "dora") as alone:
        assert alone.runner.name == "torch" and "DoRA" in alone.runner_reason
    with Engine.load(base, runner="torch") as slow, pytest.raises(NoSharingError, match="native"):
        slow.with_adapter(folders[1][0])


def test_an_adapter_of_another_model_is_refused(folders: tuple[Path, list[Path]], tmp_path: Path) -> None:
    other = Transformer(ModelConfig(50, 2, 32, 2, 1, 16, 48, 64, tied=True), seed=1)
    save_adapter(moved(other, 3), tmp_path / "other")
    with Engine.load(folders[0], runner="native") as engine:
        with pytest.raises(UserError, match="does not fit"):
            engine.with_adapter(tmp_path / "other")
        with pytest.raises(UserError, match="adapter_config"):
            engine.with_adapter(tmp_path / "nothing")
        assert said(engine)
