"""``cadran finetune``: one line from a model and rows to a model that learnt them, whatever kind of rows they are."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "recipe"))
from tiny_assistants import (
    artefacts,
    chat_rows,
    done,
    events,
    preference_rows,
    refused,
    results,
    tiny_assistant,
    write_rows,
)

QUICK = ["--threads", "1", "sft.precision=fp32", "sft.held_out_rows=1"]
PAIRS = ["--threads", "1", "dpo.precision=fp32", "dpo.held_out=0.2", "dpo.held_out_pairs=12", "dpo.examinations=1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_assistant(tmp_path_factory.mktemp("modèles à moi") / "petit modèle")


def test_rows_of_chosen_and_rejected_answers_are_learnt_by_dpo(model: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "mes préférences.jsonl", preference_rows(80))
    said = done(
        tmp_path, "finetune", model, data, *PAIRS, "--rate", "0.01", "--epochs", "4", "dpo.pairs=8", report=True
    )
    run = tmp_path / "petit-modele-mes-preferences"
    accuracy = results(run, "dpo")["accuracy"]
    assert accuracy["before"] < 0.8 and accuracy["after"] >= 0.9
    assert not (run / "sft").exists() and (run / "report" / "index.html").is_file()
    assert f"adapter {run / 'dpo' / 'adapter'}\n" in said and f"talk    cadran chat {run.name}\n" in said


def test_answers_that_are_good_or_bad_on_their_own_are_learnt_by_kto(model: Path, tmp_path: Path) -> None:
    thumbs = [
        {"prompt": f"Question {number} ?", "completion": answer, "label": answer == "Oui."}
        for number in range(20)
        for answer in ("Oui.", "Non non.")
    ]
    done(
        tmp_path, "finetune", model, write_rows(tmp_path / "pouces.jsonl", thumbs), "--threads", "1", "--rate", "0.01",
        "--epochs", "4", "kto.precision=fp32", "kto.rows=8", "--name", "pouces",
    )  # fmt: skip
    reward = results(tmp_path / "pouces", "kto")["reward"]
    assert reward["accuracy"] > 0.9 and (tmp_path / "pouces" / "kto" / "adapter").is_dir()


@pytest.mark.parametrize(
    ("options", "stage"), [(["--full"], "sft"), (["--full"], "dpo"), (["--rank", "3", "--rate", "0.01"], "sft")]
)
def test_options_reach_the_stage_that_the_rows_ask_for(
    model: Path, tmp_path: Path, options: list[str], stage: str
) -> None:
    rows = chat_rows(20) if stage == "sft" else preference_rows(20)
    quick = QUICK if stage == "sft" else PAIRS
    done(tmp_path, "finetune", model, write_rows(tmp_path / "rows.jsonl", rows), *quick, *options, "--epochs", "1",
         "--name", "réglé à la main")  # fmt: skip
    run = tmp_path / "regle-a-la-main"
    assert (run / stage / "adapter").is_dir() == ("--full" not in options)
    written = (run / "recipe.yaml").read_text(encoding="utf-8")
    assert "epochs: 1.0" in written and ("rank: 3" in written) == ("--rank" in options)
    if "--rate" in options:
        assert "adapter_rate: 0.01" in written and "alpha: 6.0" in written


def test_answers_and_then_preferences_on_top_in_one_line(model: Path, tmp_path: Path) -> None:
    chats = write_rows(tmp_path / "rows.jsonl", chat_rows(20))
    pairs = write_rows(tmp_path / "pairs.jsonl", preference_rows(20))
    for first, then in ((chats, f"dpo.data={pairs}"), (pairs, f"sft.data={chats}")):
        done(tmp_path, "finetune", model, first, then, *QUICK, *PAIRS, "--rank", "3", "--name", first.stem)
        run = tmp_path / first.stem
        assert all((run / stage / "adapter").is_dir() for stage in ("sft", "dpo"))
        assert (run / "recipe.yaml").read_text(encoding="utf-8").count("rank: 3") == 2
        settings = (run / "dpo" / "adapter" / "adapter_config.json").read_text(encoding="utf-8")
        assert f'"base_model_name_or_path": "{first.stem}/sft"' in settings


def test_what_was_taught_can_be_taught_further_and_asked(model: Path, tmp_path: Path) -> None:
    """A run is a model like any other: by its name, with preferences on top of answers."""
    chats = write_rows(tmp_path / "chats.jsonl", chat_rows(20))
    pairs = write_rows(tmp_path / "pairs.jsonl", preference_rows(40))
    done(tmp_path, "finetune", model, chats, *QUICK, "--epochs", "2", "--name", "first")
    done(tmp_path, "finetune", "first", pairs, *PAIRS, "--epochs", "1", "--name", "second")
    settings = tmp_path / "second" / "dpo" / "adapter" / "adapter_config.json"
    assert '"base_model_name_or_path": "first"' in settings.read_text(encoding="utf-8")
    assert not (tmp_path / "second" / "dpo" / "refused.txt").exists()
    said = done(tmp_path, "generate", "second", "Que vois-tu ?", "--max-tokens", "3", "--threads", "1")
    assert said.strip()
    # Its parent is part of what a stage depends on.
    again = ["finetune", "first", pairs, *PAIRS, "--epochs", "1", "--name", "second"]
    assert "dpo       unchanged" in done(tmp_path, *again)
    done(tmp_path, "finetune", model, chats, *QUICK, "--epochs", "3", "--name", "first")
    assert "dpo       done" in done(tmp_path, *again)


def test_two_data_files_of_one_name_are_two_runs_only_where_they_are_named(model: Path, tmp_path: Path) -> None:
    one = write_rows(tmp_path / "a" / "rows.jsonl", chat_rows(20))
    other = write_rows(tmp_path / "b" / "rows.jsonl", chat_rows(20, seed=1))
    command = ["--epochs", "1", *QUICK]
    done(tmp_path, "finetune", model, one, *command)
    before = artefacts(tmp_path / "petit-modele-rows")
    assert "sft       done" in done(tmp_path, "finetune", model, other, *command)
    assert artefacts(tmp_path / "petit-modele-rows") != before
    done(tmp_path, "finetune", model, one, *command)
    assert artefacts(tmp_path / "petit-modele-rows") == before


def test_mistakes_end_in_one_sentence_and_status_2(model: Path, tmp_path: Path) -> None:
    good = write_rows(tmp_path / "rows.jsonl", chat_rows(20))
    pairs = write_rows(tmp_path / "pairs.jsonl", preference_rows(4))
    sums = write_rows(tmp_path / "sums.jsonl", [{"prompt": "1 + 1 ?", "reference": "2"} for _ in range(3)])
    (tmp_path / "text.txt").write_text("Rien.", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    cases: dict[str, list[str | Path]] = {
        "there is no model nulle part": ["nulle part", good],
        "There is no file or folder": [model, tmp_path / "absent.jsonl"],
        "holds no data file": [model, tmp_path / "folder"],
        "is of no kind that is read here": [model, tmp_path / "text.txt"],
        "verifiable rows, which only grpo and ppo learn from": [model, sums],
        "did you mean sft.rows?": [model, good, "sft.row=2"],
        "is no override": [model, good, "rows"],
        "name in the recipe is wrong": [model, good, "--name", "???"],
        "sft.epochs in the recipe is wrong": [model, good, "--epochs", "0"],
        "sft.adapter_rate in the recipe is wrong": [model, good, "--rate", "-1"],
        "set sft.adapter.base=float, or leave dora": [model, good, "--dora", "--base", "int4"],
        "--full trains all weights as floats": [model, good, "--full", "--base", "int8"],
        "--dora and --base are of an adapter": [model, good, "--full", "--dora"],
        "dpo.beta is a setting of the stage dpo; leave it out": [model, good, "dpo.beta=1"],
        "rows for sft too with sft.data=FILE": [model, pairs, "sft.rows=4"],
    }
    for expected, arguments in cases.items():
        assert expected in refused(tmp_path, "finetune", *arguments), expected


WAITING = """
import pathlib, sys, time
from cadran.cli.app import main
from cadran.train.trainer import Trainer

plain, signalled = Trainer.step, pathlib.Path(sys.argv[1])


def waiting(self, number):
    while number == 2 and not signalled.exists():
        time.sleep(0.01)
    return plain(self, number)


Trainer.step = waiting
sys.argv = ["cadran", *sys.argv[2:]]
main()
"""
"""Cadran whose third step waits for a file: so few steps would all be done before a busy machine sends a signal."""


def test_ctrl_c_saves_and_the_same_command_goes_on(model: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", chat_rows(40))
    command = ["finetune", str(model), str(data), *QUICK, "--epochs", "4", "--name", "long"]
    environment = dict(os.environ, CADRAN_RUNS=str(tmp_path))
    signalled, log = tmp_path / "signalled", tmp_path / "long" / "events.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, str(signalled), *command], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 300
        while process.poll() is None and not (log.exists() and log.read_bytes().count(b'"kind": "step"') == 2):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        signalled.touch()
        output, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130 and "nothing is lost; type the same command again" in output, output
    (kept,) = (tmp_path / "long" / "sft" / "checkpoints").glob("step-*")
    assert kept.name == "step-00000003"
    assert "goes on after step 3\n" in done(tmp_path, *command)
    steps = [event["step"] for event in events(tmp_path / "long") if event["kind"] == "step"]
    assert steps == list(range(1, results(tmp_path / "long", "sft")["steps"] + 1))
