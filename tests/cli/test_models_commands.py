"""``pull``, ``models``, ``inspect`` and ``export`` as a user types them."""

import json
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cadran.cli import export, inspect, models, pull
from cadran.cli.readable import bytes_of, count_of
from cadran.errors import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "library"))
from tiny_models import make_folder, make_gguf

app = typer.Typer()
app.command("pull")(pull.pull)
app.command("inspect")(inspect.inspect)
app.command("export")(export.export)
app.add_typer(models.app, name="models")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A models folder and a working directory of the test's own."""
    monkeypatch.setenv("CADRAN_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CADRAN_RUNS", raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def cadran(*arguments, answer=""):
    result = CliRunner().invoke(app, list(arguments), input=answer)
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.stdout


def test_a_model_is_pulled_listed_inspected_and_removed(home):
    folder = make_folder(home / "tiny")
    first = cadran("pull", str(folder))
    assert "tiny is here:" in first and "licence mit" in first and "cadran chat tiny" in first
    assert "tiny is here already" in cadran("pull", str(folder))
    listed = cadran("models")
    assert all(word in listed for word in ("tiny", "llama", "F32", "mit", "chat", "fill-in-the-middle"))
    (entry,) = json.loads(cadran("models", "--json"))
    assert (entry["name"], entry["place"], entry["context"], entry["problem"]) == ("tiny", "pulled", 64, None)
    assert "tiny: llama" in cadran("inspect", "tiny")
    assert "nothing was removed" in cadran("models", "rm", "tiny", answer="n\n")
    assert "tiny was removed" in cadran("models", "rm", "tiny", answer="y\n")
    assert "no model is here yet" in cadran("models")


def test_rm_with_yes_does_not_ask(home):
    cadran("pull", str(make_gguf(home / "small.gguf")), "--name", "mine")
    assert cadran("models", "rm", "mine", "--yes") == "mine was removed\n"


def test_inspect_prints_each_tensor_and_what_a_token_costs(home):
    shown = cadran("inspect", str(make_folder(home / "tiny")))
    assert "model.layers.1.mlp.down_proj.weight" in shown and "KV cache" in shown and "FLOP a token" in shown
    assert "embedding" in shown and "norms" in shown
    content = json.loads(cadran("inspect", str(home / "tiny"), "--json"))
    assert content["parameters"] == sum(part["parameters"] for part in content["parts"].values())


def test_inspect_does_not_pass_on_what_moves_the_cursor(home):
    from safetensors.numpy import save_file

    folder = make_folder(home / "tiny")
    import numpy as np

    save_file({"evil\x1b[2J\n": np.zeros(3, np.float32)}, folder / "model.safetensors")
    assert "\x1b" not in cadran("inspect", str(folder))


def test_export_writes_both_formats_beside_the_user(home):
    folder = make_folder(home / "tiny")
    assert "tiny-q8_0.gguf is written" in cadran("export", str(folder), "--gguf", "q8_0")
    assert "tiny-q8_0-hf is written" in cadran("export", "tiny-q8_0.gguf", "--hf", "--dtype", "bf16")
    assert sorted(path.name for path in Path().iterdir()) == ["tiny-q8_0-hf", "tiny-q8_0.gguf"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("export", "x"), "--gguf q8_0"),
        (("export", "x", "--hf", "--gguf", "f16"), "choose what to write"),
        (("export", "x", "--gguf", "f16", "--dtype", "f16"), "--dtype is for --hf"),
        (("inspect", "no-such-model"), "no-such-model"),
        (("pull", "no-such-model"), "smollm2"),
        (("models", "rm", "no-such-model", "--yes"), "no-such-model"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, reason):
    with pytest.raises(UserError, match=reason) as error:
        cadran(*arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("number", "count", "size"),
    [(0, "0", "0 B"), (999, "999", "999 B"), (999_999, "1.00 M", "1.00 MB"), (98_362_432, "98.4 M", "98.4 MB"),
     (134_515_008, "135 M", "135 MB"), (10**19, "10000 P", "10000 PB"), (None, "-", "-")],
)  # fmt: skip
def test_numbers_are_read_at_a_glance(number, count, size):
    assert (count_of(number), bytes_of(number)) == (count, size)
