"""A model on disk to a GGUF file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from inputs import learn, make_folder, tiny_text
from tiny_checkpoints import TOKENIZER, checkpoint

import cadran.compress.quantize as module
from cadran.compress.layers import quantise_layers
from cadran.compress.quantize import CheckpointWeights, Choices, checkpoint_blocks, quantize
from cadran.errors import UserError
from cadran.model.checkpoint import load_model
from cadran.model.families import family_of
from cadran.model.gguf.reader import GgufFile
from cadran.model.gguf.translate import export_gguf

gguf = pytest.importorskip("gguf")
pytest.importorskip("transformers")

FAMILIES = (
    "llama", "llama biased", "llama tied, wide heads", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma2",
    "gemma3", "phi3", "olmo2", "gpt2", "deepseek_v2", "deepseek_v3",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model that learnt a little, and texts like those it learnt from."""
    made = make_folder(tmp_path_factory.mktemp("quantize") / "tiny")
    learn(made, tiny_text())
    texts = tmp_path_factory.mktemp("texts") / "data.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in tiny_text(60, seed=1)))
    return made, texts


@pytest.mark.parametrize("name", FAMILIES)
def test_the_file_holds_exactly_what_was_found_in_every_family(name, tmp_path):
    config, _ = checkpoint(name, tmp_path / "checkpoint")
    model, family = load_model(tmp_path / "checkpoint", torch.float32), family_of(config)
    windows = torch.randint(0, 96, (4, 24), generator=torch.Generator().manual_seed(0))
    found = quantise_layers(model, lambda name: "Q4_1", windows, "awq+gptq")
    blocks = checkpoint_blocks(model, family, found)
    path = tmp_path / "model.gguf"
    export_gguf(path, config, CheckpointWeights(model, family), TOKENIZER, "q8_0", "tiny", encoded=blocks)
    read = dict(load_model(path).named_parameters())
    assert len(found) >= 8
    for parameter, quantised in found.items():
        assert torch.equal(read[parameter], quantised.values()), parameter
    for parameter, tensor in model.named_parameters():
        if tensor.ndim == 1:
            assert torch.allclose(read[parameter], tensor, atol=1e-6), parameter


@pytest.mark.parametrize(("bits", "kind"), [(8, "Q8_0"), (4, "Q4_0"), (4, "Q4_1")])
def test_other_programs_read_the_same_weights(folder, tmp_path, bits, kind):
    quantize(folder[0], tmp_path / "m.gguf", Choices(bits, four=kind, text=folder[1]), name="tiny")
    ours = GgufFile.open(tmp_path / "m.gguf")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    kinds = {}
    with ours:
        assert ours.metadata["general.file_type"] == {"Q8_0": 7, "Q4_0": 2, "Q4_1": 3}[kind]
        for tensor in reader.tensors:
            weights = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            assert np.array_equal(weights, ours.tensors[tensor.name].dequantised())
            kinds[tensor.name] = tensor.tensor_type.name
    assert kinds["blk.1.ffn_down.weight"] == kind and kinds["token_embd.weight"] == "Q8_0"
    assert kinds["blk.0.attn_norm.weight"] == "F32"


def test_eight_bits_lose_next_to_nothing(folder, tmp_path):
    report = quantize(folder[0], tmp_path / "m.gguf", Choices(8, text=folder[1]), name="tiny")
    assert abs(report.fidelity.change) < 0.003 and report.fidelity.divergence < 1e-3
    assert report.fidelity.agreement > 0.97
    assert report.bytes_after < 0.3 * report.bytes_before and 8.5 <= report.bits_after < 9
    assert report.method == "round" and report.text == "data.jsonl" and report.calibration is None


def test_four_bits_lose_less_when_they_learn_from_text(folder, tmp_path):
    plain = quantize(folder[0], tmp_path / "a.gguf", Choices(4, text=folder[1]), name="tiny")
    learnt = quantize(folder[0], tmp_path / "b.gguf", Choices(4, calibrate=folder[1]), name="tiny")
    again = quantize(
        folder[0], tmp_path / "c.gguf", Choices(4, calibrate=folder[1]), name="tiny", progress=lambda *_: None
    )
    judged = Path(folder[1].parent / "judged.jsonl")
    judged.write_text("".join(json.dumps({"text": text}) + "\n" for text in tiny_text(30, seed=7)))
    both = [
        module.compare(
            load_model(folder[0]), load_model(tmp_path / file), module.tokens_of(
                module.open_tokenizer(folder[0]), module.read_texts(judged)), 64, 320,
        ).divergence
        for file in ("a.gguf", "b.gguf")
    ]  # fmt: skip
    assert both[1] < both[0] < 0.2
    assert plain.bits_after == learnt.bits_after and learnt.method == "gptq"
    assert learnt.text == "held-out part of data.jsonl" and learnt.calibration_tokens > 0
    assert (tmp_path / "b.gguf").read_bytes() == (
        tmp_path / "c.gguf"
    ).read_bytes() and again.fidelity == learnt.fidelity


def test_maps_can_be_kept_at_8_bits(folder, tmp_path):
    choices = Choices(4, kept=r"0\.self_attn\.v_proj|o_proj", text=folder[1])
    quantize(folder[0], tmp_path / "m.gguf", choices, name="tiny")
    with GgufFile.open(tmp_path / "m.gguf") as file:
        kinds = {name: tensor.kind for name, tensor in file.tensors.items()}
    assert kinds["blk.0.attn_v.weight"] == kinds["blk.1.attn_output.weight"] == "Q8_0"
    assert kinds["blk.0.attn_q.weight"] == kinds["blk.1.attn_v.weight"] == kinds["blk.0.ffn_down.weight"] == "Q4_0"


def test_a_file_of_16_bits_can_be_quantised_too(folder, tmp_path):
    from cadran.library.export import export_gguf_file

    export_gguf_file(folder[0], tmp_path / "half.gguf", "f16", name="tiny")
    report = quantize(tmp_path / "half.gguf", tmp_path / "m.gguf", Choices(8, text=folder[1]), name="tiny")
    assert report.fidelity.divergence < 1e-3


def test_an_interruption_leaves_no_file(folder, tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(folder[0], tmp_path / "m.gguf", Choices(4, text=folder[1]), name="tiny", progress=interrupted)
    monkeypatch.setattr("cadran.model.gguf.translate._blocks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quantize(folder[0], tmp_path / "m.gguf", Choices(4, text=folder[1]), name="tiny")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_done_is_said_before_any_work(folder, tmp_path, monkeypatch):
    model, texts = folder
    quantize(model, tmp_path / "m.gguf", Choices(8, text=texts), name="tiny")
    monkeypatch.setattr(module, "quantise_layers", lambda *_: pytest.fail("work was done"))
    short = tmp_path / "short.txt"
    short.write_text("a few words\nand a line\n" * 3)
    cases = [
        (tmp_path / "m.gguf", Choices(4, text=texts), r"quantised already \(Q8_0\)"),
        (model, Choices(4, calibrate=short), "tokens to calibrate with"),
        (model, Choices(4, calibrate=tmp_path / "none.txt"), r"none\.txt"),
        (model, Choices(4, calibrate=texts, text=texts), "must not be judged by the text it learnt from"),
        (model, Choices(4, method="gptq"), "name one with --calibrate"),
        (model, Choices(8, method="awq", calibrate=texts), "brings nothing at 8 bits"),
        (tmp_path, Choices(8), "not a model directory"),
    ]
    for path, choices, message in cases:
        with pytest.raises(UserError, match=message):
            quantize(path, tmp_path / "n.gguf", choices, name="tiny")
    with pytest.raises(UserError, match="is there already: add --force"):
        quantize(model, tmp_path / "m.gguf", Choices(8, text=texts), name="tiny")


def test_a_family_that_llama_cpp_does_not_know_is_refused(folder, tmp_path):
    copied = tmp_path / "other"
    copied.mkdir()
    for path in folder[0].iterdir():
        (copied / path.name).write_bytes(path.read_bytes())
    content = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(content | {"model_type": "mamba"}))
    with pytest.raises(UserError, match="mamba"):
        quantize(copied, tmp_path / "m.gguf", Choices(8), name="other")
