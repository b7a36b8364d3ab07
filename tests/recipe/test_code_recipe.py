"""The recipe for source code, smoke-sized: no chat stages, and what comes out fills gaps."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cadran.tokenizer
from cadran.corpus.shards import TokenShard
from cadran.engine.engine import Engine
from cadran.engine.loading import open_tokenizer
from cadran.engine.sampler import SamplingParams
from cadran.model.checkpoint import load_model
from cadran.recipe.pipeline import stages_of
from cadran.recipe.run import find_model
from cadran.recipe.schema import load_recipe
from cadran.serve.ide.fim_markers import find_markers

CODE = Path(cadran.tokenizer.__file__).parent
SMALL = [
    f"corpus.sources=[{{folder: '{CODE}', language: en, name: code}}]", "corpus.validation=0.2",
    "tokenizer.vocabulary=400", "model={layers: 1, width: 32, heads: 1, hidden: 64, context: 128}", "minutes=null",
    "base.tokens=16384", "base.precision=fp32", "base.compiled=false", "base.evaluations=1", "base.sample_tokens=4",
    "base.evaluated_documents=8",
]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "-m", "cadran", "run", "code", *SMALL]
    environment = dict(os.environ, CADRAN_RUNS=str(folder))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "code"


def results(runs: Path, stage: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((runs / stage / "results.json").read_text(encoding="utf-8"))
    return content


def test_it_has_no_chat_stages_and_its_sources_are_fixed_by_hash() -> None:
    recipe = load_recipe("code")
    assert [stage.name for stage in stages_of(recipe)] == ["corpus", "tokenizer", "base", "int8", "report"]
    assert recipe.corpus is not None and recipe.tokenizer.fill_in_the_middle == 0.5
    for source in recipe.corpus.sources:
        assert source["reader"] == "python" and len(source["sha256"]) == 64 and source["licence"]


def test_half_of_the_text_is_rearranged_and_every_gap_lies_in_one_row(runs: Path) -> None:
    shard = TokenShard.open(runs / "tokenizer" / "tokens" / "train")
    tokenizer, _ = open_tokenizer(runs / "base")
    filled = [d for d in range(shard.documents) if tokenizer.fim_middle in shard.ids(d)]
    lengths = np.diff(shard.offsets) - 1
    assert 0.35 < lengths[filled].sum() / lengths.sum() < 0.65
    assert lengths[filled].max() <= 128 < lengths.max()
    assert sum(shard.text_bytes) == sum(
        len(row["text"].encode())
        for line in (runs / "corpus" / "documents.jsonl").read_text(encoding="utf-8").splitlines()
        if (row := json.loads(line))["split"] == "train"
    )


def test_what_middles_cost_is_in_the_report(runs: Path) -> None:
    found = results(runs, "base")["fill_in_the_middle"]
    assert found["middles"] > 8 and set(found["gaps"]) == {"span", "line", "piece"}
    assert json.loads((runs / "report" / "report.json").read_text())["base"]["fill_in_the_middle"] == found
    assert not json.loads((runs / "report" / "report.json").read_text())["missing"]


def test_its_integers_are_those_of_the_base_model(runs: Path) -> None:
    found = results(runs, "int8")
    assert found["of"] == "base" and found["bytes_after"] < 0.5 * found["bytes_before"]
    assert (runs / "int8" / "code-int8.gguf").is_file()
    events = [json.loads(line) for line in (runs / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    said = [event["text"] for event in events if event.get("stage") == "int8" and event["kind"] == "notice"]
    assert len(said) == 1 and said[0].startswith("llama.cpp has no name"), "its users are told, in a line of the run"


@pytest.mark.parametrize("place", ["base", "int8/code-int8.gguf"])
def test_editors_find_the_marks_in_what_was_made(runs: Path, place: str) -> None:
    tokenizer, _ = open_tokenizer(runs / place)
    markers = find_markers(tokenizer, runs / place)
    assert markers is not None and markers.order == "spm"
    assert (markers.prefix, markers.suffix, markers.middle) == (
        tokenizer.fim_prefix,
        tokenizer.fim_suffix,
        tokenizer.fim_middle,
    )
    assert tokenizer.end_of_text in markers.stop_ids


def test_the_name_of_the_run_is_the_base_model(runs: Path) -> None:
    path = find_model(str(runs))
    assert path == runs / "base"
    tokenizer, renderer = open_tokenizer(path)
    assert renderer is None
    with Engine(load_model(path).eval(), tokenizer, None) as engine:
        assert engine.generate("def f(", SamplingParams(max_tokens=3)).text is not None
