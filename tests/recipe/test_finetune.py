"""A user's rows teach a stranger's model: what is learnt, what is written, and when it is done again."""

import io
import json
import re
import shutil
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.numpy import load_file
from tiny_assistants import (
    CONFIG,
    VOCABULARY,
    artefacts,
    cadran,
    chat_rows,
    done,
    events,
    refused,
    results,
    tiny_assistant,
    write_rows,
)

from cadran.cli.show import Show
from cadran.corpus.shards import TokenShard
from cadran.engine.loading import open_tokenizer
from cadran.library.export import export_gguf_file
from cadran.model.checkpoint import load_model
from cadran.model.lora import merge
from cadran.model.lora_files import load_adapter

QUICK = ["sft.precision=fp32", "sft.adapter_rate=0.02", "sft.held_out_rows=1", "--threads", "1"]
LEARNT = ["sft.held_out_rows=200", "sft.adapter.dropout=0.1", "--epochs", "8"]
ROWS = [*chat_rows(40), {"prompt": "Et rien ?", "completion": ""}, {"prompt": "Seul ?"}]
NAME = "modele-d-ete-reponses-a-suivre"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_assistant(tmp_path_factory.mktemp("modèles donnés") / "modèle d'été")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("mes données") / "réponses à suivre.jsonl", ROWS)


@pytest.fixture(scope="module")
def finished(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of which the names have accents and spaces, and what was said; for tests that only look."""
    runs = tmp_path_factory.mktemp("exécutions")
    said = done(runs, "finetune", model, data, *QUICK, *LEARNT, report=True)
    return runs / NAME, said


def test_the_loss_of_rows_that_were_held_out_falls(finished: tuple[Path, str]) -> None:
    run, said = finished
    found = results(run, "sft")
    assert found["held_out_loss"]["before"] > np.log(VOCABULARY) - 1
    assert found["held_out_loss"]["after"] < found["held_out_loss"]["before"] / 2
    assert f"held-out loss {found['held_out_loss']['before']:.3f} nats a token before" in said
    curve = [e["figures"]["held_out_loss"] for e in events(run) if e["kind"] == "examination"]
    assert curve[0] == found["held_out_loss"]["before"]
    assert abs(curve[-1] - found["held_out_loss"]["after"]) < 1e-4  # adapter and merged model say the same
    assert {"before", "after"} == found["samples"][0]["answers"].keys()


def test_refused_rows_are_named_and_counted(finished: tuple[Path, str]) -> None:
    run, said = finished
    found = results(run, "sft")
    assert found["rows"]["refused"] == 2 and found["rows"]["train"] + found["rows"]["held_out"] == 40
    lines = (run / "sft" / "refused.txt").read_text(encoding="utf-8").splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"row {n} of réponses à suivre.jsonl" for n in (41, 42)]
    assert "2 rows are left out" in said and found["refused"] == lines


def test_three_examples_show_what_is_learnt_before_the_training(finished: tuple[Path, str]) -> None:
    run, said = finished
    (event,) = [e for e in events(run) if e["kind"] == "examples"]
    assert len(event["examples"]) == 3
    for example in event["examples"]:
        learnt = "".join(piece["text"] for piece in example["tokens"] if piece["supervised"])
        assert learnt.startswith("Il est ") and learnt.endswith(".<|im_end|>")
        assert example["heading"] in said
    assert said.index("[[Il est ") < said.index("step 0")


def test_in_a_terminal_what_is_learnt_is_coloured_and_nothing_else(finished: tuple[Path, str]) -> None:
    run, _ = finished
    (event,) = [e for e in events(run) if e["kind"] == "examples"]
    terminal = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=200)
    Show(terminal).event(event)
    shown = cast(io.StringIO, terminal.file).getvalue()
    learnt = [piece["text"] for example in event["examples"] for piece in example["tokens"] if piece["supervised"]]
    assert re.findall(r"\x1b\[30;42m(.*?)\x1b\[0m", shown, re.DOTALL) == learnt and len(learnt) == 3


def test_the_model_keeps_what_came_with_its_parent(finished: tuple[Path, str], model: Path) -> None:
    run, _ = finished
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (run / "sft" / name).read_bytes() == (model / name).read_bytes()
    assert json.loads((run / "sft" / "config.json").read_text()) == CONFIG
    written, parents = load_file(run / "sft" / "model.safetensors"), load_file(model / "model.safetensors")
    assert written.keys() == parents.keys() and {array.dtype for array in written.values()} == {np.dtype("float32")}
    changed = {name.split(".")[-2] for name in written if not np.array_equal(written[name], parents[name])}
    assert changed == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def _documents(folder: Path) -> list[tuple[int, ...]]:
    shard = TokenShard.open(folder)
    return [tuple(map(int, shard.ids(document))) for document in range(shard.documents)]


def test_no_gradient_sees_a_row_that_is_held_out(
    finished: tuple[Path, str], model: Path, data: Path, tmp_path: Path
) -> None:
    """Other answers in those rows alone leave the adapter as it was, to the byte."""
    run, _ = finished
    train, held_out = (set(_documents(run / "sft" / side)) for side in ("train", "held_out"))
    assert len(train) + len(held_out) == 40 and not train & held_out
    tokenizer, _ = open_tokenizer(model)
    asked = {tokenizer.decode(list(ids)).split("n° ")[1].split(" ")[0] for ids in held_out}
    changed = [
        row | {"completion": "Personne ne sait."} if f"n° {number} ?" in row["prompt"] and str(number) in asked else row
        for number, row in enumerate(chat_rows(40))
    ]
    assert sum(row["completion"] == "Personne ne sait." for row in changed) == len(held_out) > 0
    other = write_rows(tmp_path / data.name, [*changed, *ROWS[40:]])
    done(tmp_path, "finetune", model, other, *QUICK, *LEARNT)
    adapter = Path("sft/adapter/adapter_model.safetensors")
    assert (tmp_path / NAME / adapter).read_bytes() == (run / adapter).read_bytes()
    ours, theirs = results(tmp_path / NAME, "sft")["held_out_loss"], results(run, "sft")["held_out_loss"]
    assert ours != theirs


def _loss_falls(run: Path) -> None:
    loss = results(run, "sft")["held_out_loss"]
    assert loss["after"] < loss["before"] - 1


@pytest.mark.parametrize("options", [["--dora"], ["--base", "int8"], ["--base", "int4"]], ids=" ".join)
def test_adapters_on_any_base_are_merged_into_floats(
    model: Path, data: Path, tmp_path: Path, options: list[str]
) -> None:
    done(tmp_path, "finetune", model, data, *QUICK, "--epochs", "3", "--rank", "4", "--name", "kind", *options)
    stage = tmp_path / "kind" / "sft"
    _loss_falls(stage.parent)
    settings = json.loads((stage / "adapter" / "adapter_config.json").read_text())
    assert settings["r"] == 4 and settings["use_dora"] == ("--dora" in options)
    written = load_file(stage / "model.safetensors")
    assert {array.dtype for array in written.values()} == {np.dtype("float32")}
    again = load_model(model, torch.float32)
    load_adapter(again, stage / "adapter")
    merge(again)
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad():
        assert torch.equal(again(ids), load_model(stage, torch.float32)(ids))


def test_full_trains_every_weight_and_writes_no_adapter(model: Path, data: Path, tmp_path: Path) -> None:
    said = done(
        tmp_path, "finetune", model, data, "--full", "sft.precision=fp32", "--threads", "1", "--epochs", "3",
        "--rate", "0.005", "--name", "whole",
    )  # fmt: skip
    stage = tmp_path / "whole" / "sft"
    _loss_falls(stage.parent)
    assert not (stage / "adapter").exists() and "adapter " not in said
    written, parents = load_file(stage / "model.safetensors"), load_file(model / "model.safetensors")
    assert all(not np.array_equal(written[name], parents[name]) for name in written)


def test_a_gguf_file_can_be_taught(model: Path, data: Path, tmp_path: Path) -> None:
    file = export_gguf_file(model, tmp_path / "donné.gguf", "f16", name="donné")
    done(tmp_path, "finetune", file, data, *QUICK, "--epochs", "3", "--name", "from-gguf")
    _loss_falls(tmp_path / "from-gguf")
    stage = tmp_path / "from-gguf" / "sft"
    assert (stage / "adapter" / "adapter_model.safetensors").is_file()
    tokenizer, renderer = open_tokenizer(stage)
    text = "Il est né en été."
    assert renderer is not None and tokenizer.encode(text) == open_tokenizer(model)[0].encode(text)


def test_it_is_done_again_when_rows_model_or_template_change_and_only_then(
    model: Path, data: Path, tmp_path: Path
) -> None:
    parent = shutil.copytree(model, tmp_path / "parent")
    rows = shutil.copytree(data.parent, tmp_path / "rows")
    command = ["finetune", parent, rows, *QUICK, "--epochs", "0.5", "--name", "again"]

    def repeated() -> bool:
        return "sft       unchanged" not in done(tmp_path, *command)

    assert repeated()
    before = artefacts(tmp_path / "again")
    assert not repeated() and artefacts(tmp_path / "again") == before
    write_rows(rows / data.name, [*ROWS, {"prompt": "Encore une ?", "completion": "Oui."}])
    assert repeated() and not repeated()
    # A folder is read with all that is below it, wherever files have one name.
    write_rows(rows / "plus" / data.name, [{"prompt": "Une autre ?", "completion": "Non."}])
    assert repeated() and not repeated()
    write_rows(rows / data.name, ROWS)
    assert repeated() and not repeated()
    template = parent / "chat_template.jinja"
    template.write_text("{{- 'Bonjour.' -}}\n" + template.read_text())
    assert repeated() and not repeated()
    tiny_assistant(parent, seed=5)
    assert repeated() and not repeated()


def test_a_stage_can_be_done_again_or_alone(model: Path, data: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        json.dumps(
            {"name": "mine", "start": str(model), "threads": 1,
             "sft": {"data": str(data), "epochs": 0.5, "held_out_rows": 1, "precision": "fp32", "adapter": {"rank": 2}}}
        )
    )  # fmt: skip
    done(tmp_path, "run", recipe)
    before = artefacts(tmp_path / "mine")
    assert done(tmp_path, "run", recipe).count(" unchanged\n") == 2
    assert "sft       done" in done(tmp_path, "run", recipe, "--from", "sft")
    only = done(tmp_path, "run", recipe, "--only", "sft")
    assert "sft       done" in only and "report" not in only.split("The run is in")[0]
    assert artefacts(tmp_path / "mine") == before
    assert "there is no stage dpo; the stages are sft, report" in refused(tmp_path, "run", recipe, "--from", "dpo")


def test_two_runs_in_one_process_have_the_same_bytes(model: Path, data: Path, tmp_path: Path) -> None:
    """Dropout draws from the recipe's seed, not from whatever was drawn before."""
    command = ["finetune", model, data, *QUICK, "--epochs", "1", "--name", "one", "sft.adapter.dropout=0.3"]
    done(tmp_path / "a", *command)
    torch.rand(3)
    done(tmp_path / "b", *command)
    assert artefacts(tmp_path / "a" / "one") == artefacts(tmp_path / "b" / "one")
    done(tmp_path / "c", *command, "seed=2", "sft.held_out=0.1")
    assert artefacts(tmp_path / "c" / "one") != artefacts(tmp_path / "a" / "one")


def test_mistakes_end_in_one_sentence_and_status_2(model: Path, data: Path, tmp_path: Path) -> None:
    few = write_rows(tmp_path / "few.jsonl", chat_rows(1))
    empty = write_rows(tmp_path / "empty.jsonl", [])
    strange = write_rows(tmp_path / "strange.jsonl", [{"left": 1, "right": 2}])
    long = write_rows(tmp_path / "long.jsonl", [{"prompt": f"{n} " * 400, "completion": "Oui."} for n in range(4)])
    silent = tiny_assistant(tmp_path / "silent", template=None)
    endless = tiny_assistant(
        tmp_path / "endless", template="{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}\n{% endfor %}"
    )
    cases: dict[str, list[str | Path]] = {
        "empty.jsonl has no row to learn from": [model, empty],
        "There is no file or folder": [model, tmp_path / "absent.jsonl"],
        "its fields are not known": [model, strange],
        "There are fewer than two different rows": [model, few],
        "long.jsonl": [model, long],
        "there is no model nowhere": ["nowhere", data],
        "chat template": [silent, data],
        "writes no stop token": [endless, data],
        "no row is left to hold out": [model, data, "sft.held_out=0"],
        "q_prj": [model, data, "sft.adapter.targets=[q_prj]"],
        "did you mean sft.epochs?": [model, data, "sft.epoch=3"],
        "set sft.adapter.base=float, or leave dora": [model, data, "--dora", "--base", "int8"],
    }
    for expected, arguments in cases.items():
        name = f"run-{len(expected)}-{sum(map(ord, expected))}"
        assert expected in refused(tmp_path, "finetune", *arguments, *QUICK, "--name", name), expected


def test_a_recipe_begins_with_text_or_with_a_model_and_says_what_to_learn(model: Path, tmp_path: Path) -> None:
    pairs = write_rows(tmp_path / "pairs.jsonl", [{"prompt": "Qui ?", "chosen": "Moi.", "rejected": "Lui."}])
    cases = {
        "give it corpus.sources or start=MODEL, not both": {},
        "corpus.sources or start=MODEL": {"start": str(model), "corpus": {"sources": [{"synthetic": 10}]}},
        "name a file with sft.data=FILE": {"start": str(model), "sft": {"precision": "fp32"}},
        "chat rows are needed here": {"start": str(model), "sft": {"precision": "fp32", "data": str(pairs)}},
    }
    for expected, content in cases.items():
        (tmp_path / "recipe.yaml").write_text(json.dumps({"name": "none", "threads": 1} | content))
        assert expected in refused(tmp_path, "run", tmp_path / "recipe.yaml")


def test_nothing_is_left_of_a_run_that_was_refused_but_its_sentence(model: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", chat_rows(20))
    command = ["finetune", model, data, *QUICK, "--name", "mended"]
    assert "q_prj" in refused(tmp_path, *command, "sft.adapter.targets=[q_prj]")
    assert cadran(tmp_path, *command).status == 0
    assert results(tmp_path / "mended", "sft")["rows"]["refused"] == 0
