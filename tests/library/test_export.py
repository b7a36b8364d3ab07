"""What is exported opens elsewhere and computes the same; what is there is not overwritten unasked."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import make_folder

from cadran.errors import UserError
from cadran.files import sha256_file
from cadran.library.export import export_folder, export_gguf_file, model_label
from cadran.library.header import read_header
from cadran.library.lazy_weights import LazyWeights, StreamedWeights
from cadran.library.local import LocalOrigin
from cadran.library.pull import pull
from cadran.library.shards import write_shards


def logits(folder, dtype="float32"):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    with torch.no_grad():
        return model(torch.arange(20)[None]).logits.float()


@pytest.fixture
def f16_gguf(model_folder, tmp_path):
    return export_gguf_file(model_folder, tmp_path / "tiny.gguf", "f16", name="tiny")


def test_a_directory_through_gguf_and_back_computes_the_same_in_transformers(model_folder, f16_gguf, tmp_path):
    back = export_folder(f16_gguf, tmp_path / "back", "f32", name="tiny")
    assert {path.name for path in back.iterdir()} == {
        "cadran.json", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    assert torch.allclose(logits(back), logits(model_folder), atol=2e-3)
    stored = {
        name: tensor.half().float() if tensor.ndim > 1 else tensor for name, tensor in weights_of(model_folder).items()
    }
    assert weights_of(back).keys() == stored.keys()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in weights_of(back).items())


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def test_the_tokenizer_of_an_export_gives_the_same_ids_and_template(model_folder, f16_gguf, tmp_path):
    from transformers import AutoTokenizer

    back = export_folder(f16_gguf, tmp_path / "back", name="tiny")
    ours, theirs = AutoTokenizer.from_pretrained(back), AutoTokenizer.from_pretrained(model_folder)
    messages = [{"role": "user", "content": "Is the river calm, 12 days after summer?"}]
    assert ours.encode("L'été <|im_end|> river") == theirs.encode("L'été <|im_end|> river")
    assert (
        ours.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        == (theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"])
    )


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "f16"])
def test_each_kind_of_gguf_is_what_it_says_and_never_half_written(kind, model_folder, tmp_path):
    (tmp_path / "out").mkdir()
    path = export_gguf_file(model_folder, tmp_path / "out" / "m.gguf", kind, name="m")
    header = read_header(path)
    assert header.architecture == "llama" and header.unknown is None and header.licence == "mit"
    kinds = {tensor.kind for tensor in header.tensors if "blk" in tensor.name and len(tensor.shape) > 1}
    assert kinds == {kind.upper()} and header.tokenizer.chat
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["m.gguf"]


def test_a_gguf_becomes_another_gguf_with_its_own_tokenizer(f16_gguf, tmp_path):
    path = export_gguf_file(f16_gguf, tmp_path / "other.gguf", "q8_0", name="tiny")
    before, after = read_header(f16_gguf), read_header(path)
    assert after.kind == "Q8_0" and after.tokenizer == before.tokenizer and after.sizes == before.sizes


def test_weights_of_a_file_come_in_any_order_one_at_a_time(f16_gguf):
    from cadran.model.gguf.translate import GgufModel

    with GgufModel.open(f16_gguf) as model:
        whole, streamed = dict(model.weights()), StreamedWeights(model)
        assert list(streamed) == list(whole) and len(streamed) == len(whole)
        for name in [*reversed(whole), *whole, next(iter(whole))]:
            assert torch.equal(streamed[name], whole[name])
        with pytest.raises(KeyError):
            streamed["no such tensor"]


def test_an_export_reads_each_weight_once(model_folder, f16_gguf, tmp_path, monkeypatch):
    from cadran.model.gguf import translate
    from cadran.model.safetensors_file import SafetensorsFile

    read = []

    def counting(plain, name):
        return lambda *given: (read.append(name(*given)), plain(*given))[1]

    monkeypatch.setattr(SafetensorsFile, "read", counting(SafetensorsFile.read, lambda file, name: name))
    monkeypatch.setattr(translate, "_tensor", counting(translate._tensor, lambda stored: stored.name))
    for source in (model_folder, f16_gguf):
        read.clear()
        export_gguf_file(source, tmp_path / f"{source.suffix}out.gguf", "f16", name="m")
        assert len(read) == len(set(read)) == len(read_header(source).tensors)


def test_equal_exports_have_equal_bytes(model_folder, f16_gguf, tmp_path):
    first, second = (export_folder(f16_gguf, tmp_path / name, name="tiny") for name in ("one", "two"))
    assert {path.name: sha256_file(path) for path in first.iterdir()} == {
        path.name: sha256_file(path) for path in second.iterdir()
    }
    again = export_gguf_file(model_folder, tmp_path / "again.gguf", "f16", name="tiny")
    assert sha256_file(again) == sha256_file(f16_gguf)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_weights_are_cast_and_the_configuration_says_so(dtype, model_folder, tmp_path):
    out = export_folder(model_folder, tmp_path / "out", dtype, name="tiny")
    name = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[dtype]
    tensors = weights_of(out)
    assert {str(tensor.dtype) for tensor in tensors.values()} == {f"torch.{name}"}
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == name
    for key, tensor in weights_of(model_folder).items():
        assert torch.equal(tensors[key], tensor.to(getattr(torch, name)))


def test_auto_keeps_16_bits_and_widens_what_is_quantised(model_folder, f16_gguf, tmp_path):
    assert read_header(export_folder(model_folder, tmp_path / "a", name="a")).kind == "F32"
    half = export_folder(model_folder, tmp_path / "b", "bf16", name="b")
    assert read_header(export_folder(half, tmp_path / "c", name="c")).kind == "BF16"
    assert read_header(export_folder(f16_gguf, tmp_path / "d", name="d")).kind == "F16"
    quantised = export_gguf_file(model_folder, tmp_path / "q.gguf", "q8_0", name="q")
    assert read_header(export_folder(quantised, tmp_path / "e", name="e")).kind == "F32"


def test_shards_hold_everything_once_and_transformers_joins_them(model_folder, tmp_path):
    out = export_folder(model_folder, tmp_path / "out", name="tiny", largest=30_000)
    shards = sorted(out.glob("*.safetensors"))
    assert len(shards) > 2 and shards[0].name == f"model-00001-of-{len(shards):05}.safetensors"
    index = json.loads((out / "model.safetensors.index.json").read_text())
    whole = weights_of(model_folder)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in whole.values())
    with LazyWeights(out) as weights:
        assert all(torch.equal(weights[name], whole[name]) for name in whole) and len(weights) == len(whole)
    assert torch.equal(logits(out), logits(model_folder))


def test_shards_of_no_tensor_and_of_odd_ones_are_read_by_safetensors(tmp_path):
    odd = {'é\u2028"\\': torch.zeros(0, 3), "scalar": torch.tensor(1.5), "wide": torch.arange(7).bfloat16()[None].T}
    for name, tensors in (("none", {}), ("odd", odd)):
        (tmp_path / name).mkdir()
        write_shards(tmp_path / name, list(tensors), tensors.items())
        found = weights_of(tmp_path / name)
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[key], tensor) for key, tensor in tensors.items())


def test_what_is_there_is_replaced_only_when_asked_to(model_folder, tmp_path):
    out = tmp_path / "out"
    export_folder(model_folder, out, name="tiny")
    (out / "old.txt").write_text("old")
    with pytest.raises(UserError, match="--force"):
        export_folder(model_folder, out, name="tiny")
    export_folder(model_folder, out, "bf16", name="tiny", force=True)
    assert not (out / "old.txt").exists() and read_header(out).kind == "BF16"
    file = export_gguf_file(model_folder, tmp_path / "m.gguf", "f16", name="m")
    with pytest.raises(UserError, match="--force"):
        export_gguf_file(model_folder, file, "q8_0", name="m")
    assert read_header(export_gguf_file(model_folder, file, "q8_0", name="m", force=True)).kind == "Q8_0"


def test_force_never_removes_what_is_no_model_nor_the_model_itself(model_folder, gguf_file, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letters.txt").write_text("mine")
    for output, reason in (
        (tmp_path / "home", "something else"),
        (model_folder, "the model itself"),
        (model_folder.parent, "the model itself"),
        (gguf_file, "no folder"),
        (tmp_path / "nowhere" / "out", "no folder"),
    ):
        with pytest.raises(UserError, match=reason):
            export_folder(model_folder, output, name="tiny", force=True)
    with pytest.raises(UserError, match="the model itself"):
        export_gguf_file(gguf_file, gguf_file, "q8_0", name="m", force=True)
    with pytest.raises(UserError, match="is there already"):
        export_gguf_file(gguf_file, tmp_path / "home", "q8_0", name="m", force=True)
    assert (tmp_path / "home" / "letters.txt").is_file() and (model_folder / "config.json").is_file()


def test_a_failed_export_leaves_nothing_and_keeps_what_was_there(model_folder, tmp_path):
    from safetensors.torch import save_file

    out = export_folder(model_folder, tmp_path / "out", name="tiny")
    tensors = weights_of(model_folder)
    tensors["model.norm.weight"][0] = 1e30
    save_file(tensors, model_folder / "model.safetensors")
    for target in (out, tmp_path / "new"):
        with pytest.raises(UserError, match="too large for float16"):
            export_folder(model_folder, target, "f16", name="tiny", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given", "out"]
    assert read_header(out).kind == "F32"


def test_an_export_records_what_it_came_from(model_folder, models, tmp_path):
    pulled = pull(LocalOrigin(model_folder), "mine")
    out = export_folder(pulled.path, tmp_path / "out", name="mine")
    content = json.loads((out / "cadran.json").read_text())
    assert (content["origin"], content["licence"]) == ("export of mine (F32)", "mit")
    assert content["files"]["model.safetensors"]["sha256"] == sha256_file(out / "model.safetensors")
    assert str(tmp_path) not in (out / "cadran.json").read_text()


def test_a_model_without_a_tokenizer_makes_no_gguf(model_folder, tmp_path):
    (model_folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        export_gguf_file(model_folder, tmp_path / "m.gguf", "f16", name="m")
    assert not (tmp_path / "m.gguf").exists()


def test_a_label_is_the_last_name_of_a_path_or_the_argument(tmp_path, monkeypatch):
    make_folder(tmp_path / "tiny")
    monkeypatch.chdir(tmp_path / "tiny")
    assert model_label(".") == "tiny" and model_label(str(tmp_path / "tiny" / "config.json")) == "config.json"
    assert model_label("quickstart/sft") == "quickstart-sft" and model_label("smollm2") == "smollm2"
