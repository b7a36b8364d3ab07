"""The whole pipeline through the command: reproducible, resumable after SIGKILL, skipping what is unchanged."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cadran.files import sha256_file

SMALL = [
    "corpus.sources=[{synthetic: 300, seed: 7}]", "tokenizer.vocabulary=400", "base.tokens=40960", "sft.tokens=20480",
    "sft.topics_evaluated=4", "sft.descriptions_evaluated=2", "base.checkpoint_seconds=0.2",
    "sft.checkpoint_seconds=0.2", "reward.tokens=4000", "reward.planted=60", "reward.small_talk=20",
    "reward.held_out_pairs=8", "reward.examinations=1", "reward.checkpoint_seconds=0.01", "dpo.tokens=4000",
    "dpo.planted=60", "dpo.small_talk=20", "dpo.held_out_pairs=8", "dpo.examinations=1", "dpo.checkpoint_seconds=0.01",
]  # fmt: skip
STEPPED = ("base", "sft", "reward", "dpo")
STAGES = ("corpus", "tokenizer", "base", "sft", "reward", "dpo", "int8", "report")


def start(runs: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = dict(os.environ, CADRAN_RUNS=str(runs))
    command = [sys.executable, "-m", "cadran", "run", "smoke", *SMALL, *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def steps_logged(runs: Path) -> int:
    """Steps in the log of a run that is going on: the end of a line may be half a letter still."""
    log = runs / "smoke" / "events.jsonl"
    return log.read_bytes().count(b'"kind": "step"') if log.exists() else 0


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something while the command runs."""
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def finish(runs: Path, *arguments: str) -> str:
    process = start(runs, *arguments)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    return output


def artefacts(runs: Path) -> dict[str, str]:
    content: dict[str, dict[str, str]] = json.loads((runs / "smoke" / "manifest.json").read_text())
    return content["artefacts"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whole run, shared by the tests that only look."""
    folder = tmp_path_factory.mktemp("runs")
    finish(folder)
    return folder


def test_the_manifest_names_every_file_with_its_hash(runs: Path) -> None:
    named = artefacts(runs)
    for name, expected in named.items():
        assert sha256_file(runs / "smoke" / name) == expected
    for needed in (
        "recipe.yaml", "corpus/documents.jsonl", "corpus/datasheet.json", "tokenizer/tokenizer.json",
        "tokenizer/tokens/train/tokens.bin", "base/model.safetensors", "base/config.json", "base/results.json",
        "sft/model.safetensors", "sft/tokenizer_config.json", "sft/results.json", "reward/model.safetensors",
        "reward/results.json", "dpo/model.safetensors", "dpo/tokenizer.json", "dpo/results.json",
        "int8/smoke-int8.gguf", "int8/results.json", "report/report.json", "report/loss.svg",
    ):  # fmt: skip
        assert needed in named


def test_a_second_run_from_scratch_has_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    finish(tmp_path)
    assert artefacts(tmp_path) == artefacts(runs)


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 9))])
def test_killed_at_random_moments_and_resumed_it_has_the_same_bytes(runs: Path, tmp_path: Path, seed: int) -> None:
    """Once while it starts, then in pre-training, in SFT, and in the stages of pairs, a little after a random step."""
    generator = random.Random(seed)
    killed = 0
    expected = [(stage, n + 1) for stage in STEPPED for n in range(results(runs, stage)["steps"])]
    assert [expected.count(("base", 40)), expected.count(("sft", 20)), len(expected) > 64] == [1, 1, True]
    for least, most in ((0, 0), (2, 38), (42, 58), (61, len(expected) - 1)):
        process, target = start(tmp_path), generator.randint(least, most)
        while process.poll() is None and steps_logged(tmp_path) < target:
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.2) if target else generator.uniform(1, 4))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.communicate()
    assert killed >= 2
    finish(tmp_path)
    assert artefacts(tmp_path) == artefacts(runs)
    assert [(e["stage"], e["step"]) for e in events(tmp_path) if e["kind"] == "step"] == expected


def results(runs: Path, stage: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((runs / "smoke" / stage / "results.json").read_text())
    return content


def test_base_sft_and_dpo_answer_the_same_questions_side_by_side(runs: Path) -> None:
    found = results(runs, "dpo")
    assert set(found["models"]) == {"base", "sft", "dpo"}
    assert all(0 <= model["pair_accuracy"] <= 1 for model in found["models"].values())
    assert found["models"]["sft"]["pair_accuracy"] == found["accuracy"]["before"]
    assert found["models"]["dpo"]["pair_accuracy"] == found["accuracy"]["after"]
    assert found["pairs"]["held_out"] == 8 and set(found["by_kind"]) <= {
        "topic",
        "description",
        "language",
        "small talk",
    }
    for sample in found["samples"]:
        assert set(sample["answers"]) == {"base", "sft", "dpo"}
    said = {sample["prompt"]: sample["answer"] for sample in results(runs, "sft")["samples"]}
    assert [s["answers"]["sft"] for s in found["samples"]] == [said[s["prompt"]] for s in found["samples"]]


def test_the_integers_are_those_of_the_last_model_and_cost_little(runs: Path) -> None:
    found = results(runs, "int8")
    assert found["of"] == "dpo" and found["bytes_after"] < 0.4 * found["bytes_before"]
    assert abs(found["perplexity_after"] / found["perplexity_before"] - 1) < 0.02


def events(runs: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (runs / "smoke" / "events.jsonl").read_text().splitlines()]


def test_unchanged_stages_are_skipped_and_changed_ones_are_not(tmp_path: Path) -> None:
    finish(tmp_path)
    before = artefacts(tmp_path)
    weights = tmp_path / "smoke" / "base" / "model.safetensors"
    untouched = weights.stat().st_mtime_ns
    again = finish(tmp_path)
    assert again.count(" unchanged\n") == len(STAGES) and artefacts(tmp_path) == before
    changed = finish(tmp_path, "sft.chats=3")
    assert changed.count(" unchanged\n") == 3 and weights.stat().st_mtime_ns == untouched
    assert artefacts(tmp_path)["sft/model.safetensors"] != before["sft/model.safetensors"]
    weights.write_bytes(b"damaged")
    mended = finish(tmp_path, "sft.chats=3")
    assert "base      done" in mended
    assert artefacts(tmp_path)["base/model.safetensors"] == before["base/model.safetensors"]


def test_ctrl_c_saves_and_says_how_to_go_on(runs: Path, tmp_path: Path) -> None:
    process = start(tmp_path, "base.tokens=4096000")
    try:
        until(lambda: steps_logged(tmp_path) > 0, process)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130 and "nothing is lost" in output
    assert list((tmp_path / "smoke" / "base" / "checkpoints").glob("step-*"))


def test_two_commands_on_one_run_do_not_mix(tmp_path: Path) -> None:
    first = start(tmp_path, "base.tokens=4096000")
    try:
        until((tmp_path / "smoke" / "recipe.yaml").exists, first)
        assert (tmp_path / "smoke" / ".lock").exists()
        second = start(tmp_path)
        output, _ = second.communicate(timeout=300)
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()
    assert second.returncode == 2 and "another command is working on the run smoke" in output


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full to act as a full disk")
def test_a_full_disk_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "smoke").mkdir()
    (tmp_path / "smoke" / "events.jsonl").symlink_to("/dev/full")
    process = start(tmp_path)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2 and "the disk is full" in output and "Traceback" not in output


def test_user_mistakes_end_in_one_sentence_and_status_2(tmp_path: Path) -> None:
    cases = {
        "vocabulary": ["tokenizer.vocabulary=100"],
        "there is no stage": ["--only", "nothing"],
        "did you mean base.rows": ["base.row=3"],
        "needs corpus, which is not done": ["--only", "tokenizer"],
        "does not exist": ["corpus.sources=[{folder: no-such-folder}]"],
    }
    (tmp_path / "empty").mkdir()
    for expected, arguments in cases.items():
        process = start(tmp_path / expected.replace(" ", "-"), *arguments)
        output, _ = process.communicate(timeout=300)
        last = output.strip().splitlines()[-1]
        assert process.returncode == 2 and "Traceback" not in output, output
        assert last.startswith("cadran: ") and expected in last, output
