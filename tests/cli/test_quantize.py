"""``cadran quantize`` as a user types it."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cadran.cli.app import app
from cadran.errors import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "library"))
from tiny_models import make_folder

TEXT = "In summer the river is calm and the tools are put away.\n" * 60


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A working directory with a run, a model and a text."""
    monkeypatch.setenv("CADRAN_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CADRAN_RUNS", raising=False)
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "tiny")
    make_folder(tmp_path / "runs" / "mine" / "base")
    (tmp_path / "runs" / "mine" / "recipe.yaml").write_text("minutes: 1\n")
    (tmp_path / "runs" / "mine" / "base" / "stage.json").write_text('{"key": "k", "artefacts": {}}')
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path


def cadran(*arguments):
    result = CliRunner().invoke(app, ["quantize", *arguments])
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.stdout


def test_the_report_names_the_file_the_text_and_the_loss(work):
    shown = cadran("tiny", "--int8", "--text", "text.txt")
    assert (work / "tiny-int8.gguf").is_file()
    for words in (
        "tiny-int8.gguf is written: Q8_0 by round",
        "perplexity",
        "KL divergence",
        "text.txt",
        "bits a weight",
    ):
        assert words in shown
    assert "tokens/s" in shown


def test_a_program_reads_the_same_as_json(work):
    found = json.loads(cadran("tiny", "--int4", "--kind", "q4_1", "--calibrate", "text.txt", "--json"))
    assert found["kind"] == "Q4_1" and found["model"] == "tiny" and found["method"] == "gptq"
    assert found["fidelity"]["tokens"] > 0 and found["fidelity"]["change"] == pytest.approx(
        found["fidelity"]["after"] / found["fidelity"]["before"] - 1
    )
    assert "speed" in found


def test_the_file_of_a_run_lies_in_the_run_and_opens(work):
    cadran("mine", "--int4", "--text", "text.txt")
    path = work / "runs" / "mine" / "int4" / "mine-int4.gguf"
    assert path.is_file()
    from cadran.model.checkpoint import load_model
    from cadran.recipe.run import find_model

    assert find_model("mine/int4").samefile(path)
    assert load_model(path).config.layers == 2


def test_values_and_outputs_of_attention_keep_8_bits_unless_told(work):
    from cadran.model.gguf.reader import GgufFile

    kinds = []
    for further in ([], ["--pure"]):
        cadran("tiny", "--int4", "--text", "text.txt", "--force", *further)
        with GgufFile.open(work / "tiny-int4.gguf") as file:
            kinds.append([file.tensors[f"blk.0.{name}.weight"].kind for name in ("attn_q", "attn_v", "attn_output")])
    assert kinds == [["Q4_0", "Q8_0", "Q8_0"], ["Q4_0"] * 3]


def test_output_is_a_file_or_a_folder(work):
    cadran("tiny", "--int8", "--text", "text.txt", "--output", "small.gguf")
    cadran("tiny", "--int8", "--text", "text.txt", "--output", "small")
    assert (work / "small.gguf").read_bytes() == (work / "small" / "tiny-int8.gguf").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny"], "--int8 or --int4"),
        (["tiny", "--int8", "--int4"], "--int8 or --int4"),
        (["nobody", "--int8"], "there is no model nobody"),
        (["tiny", "--int8", "--kind", "q4_1"], "--kind and --pure are for --int4"),
        (["tiny", "--int8", "--output", "text.txt"], "neither a folder nor a .gguf file"),
        (["tiny", "--int4", "--calibrate", "missing.txt"], "missing.txt"),
        (["tiny", "--int4", "--method", "gptq"], "--calibrate"),
    ],
)
def test_mistakes_are_answered_in_one_sentence(work, arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        cadran(*arguments)
    assert "\n" not in str(caught.value)
    assert not list(work.glob("*.gguf"))
