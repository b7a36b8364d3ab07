"""With a corpus, a student learns from the run's own rows and likes what the planted pairs like; all of it in order."""

from pathlib import Path

import pytest
import yaml
from tiny_assistants import artefacts, done, events, refused, results

from cadran.recipe.run import Run, find_model
from cadran.recipe.schema import load_recipe

SMALL = {
    "name": "small", "seed": 3, "threads": 1,
    "corpus": {"sources": [{"synthetic": 150, "seed": 7}], "validation": 0.2, "minimum_characters": 20},
    "tokenizer": {"vocabulary": 400},
    "model": {"layers": 2, "width": 32, "heads": 2, "kv_heads": 1, "hidden": 64, "context": 128},
    "base": {"tokens": 16384, "precision": "fp32", "compiled": False, "evaluations": 1, "evaluated_documents": 4,
             "sample_tokens": 4},
    "sft": {"tokens": 16384, "precision": "fp32", "compiled": False, "topics_evaluated": 2,
            "descriptions_evaluated": 2},
    "distil": {"teacher": "small/base", "tokens": 4096, "precision": "fp32", "rows": 4, "mix": 1.0,
               "temperature": 1.0, "on_policy": 0.25, "prompts": 4, "max_tokens": 8, "held_out_rows": 20,
               "examinations": 1},
    "kto": {"tokens": 6000, "precision": "fp32", "rows": 8, "micro": 8, "planted": 30, "small_talk": 20,
            "held_out_rows": 20, "examinations": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL, allow_unicode=True), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    done(runs, "run", recipe)
    return runs / "small"


def test_each_stage_goes_on_from_the_one_before(run: Path) -> None:
    ended = [event["stage"] for event in events(run) if event["kind"] == "stage_done"]
    assert ended == ["corpus", "tokenizer", "base", "sft", "distil", "kto", "report"]
    assert {"distil/model.safetensors", "kto/model.safetensors"} <= artefacts(run).keys()
    assert Run(run).intact("distil") and find_model(str(run)) == run / "kto"


def test_the_student_is_drawn_to_its_teacher_on_articles_that_were_held_out(run: Path) -> None:
    found = results(run, "distil")
    assert found["rows"]["train"] == sum(results(run, "sft")["rows"]["train"].values())
    assert 0 < found["rows"]["held_out"] <= 20
    assert found["divergence"]["after"] < found["divergence"]["before"]
    own = [event for event in events(run) if event["kind"] == "step" and "own_distillation" in event]
    assert len(own) == found["steps"] // 4 > 0


def test_planted_pairs_are_taken_apart_and_all_models_compared(run: Path) -> None:
    found = results(run, "kto")
    rows = found["rows"]
    assert rows["desirable"] + rows["undesirable"] == rows["train"]
    assert 0 <= abs(rows["desirable"] - rows["undesirable"]) <= rows["refused"] < rows["train"]  # only what is too long
    assert list(found["models"]) == ["base", "distil", "kto"]
    assert found["models"]["kto"]["pair_accuracy"] == found["accuracy"]["after"]
    sample, earlier = found["samples"][0], results(run, "distil")["samples"][0]
    assert list(sample["answers"]) == ["base", "distil", "kto"]
    assert sample["prompt"] == earlier["prompt"] and sample["answers"]["distil"] == earlier["answer"]
    assert found["models"]["distil"].keys() >= {"topic", "description"}


def test_tokens_follow_from_the_minutes(recipe: Path) -> None:
    from cadran.recipe.budget import Measurement, resolve

    asked = load_recipe(str(recipe), ["minutes=10", "distil.tokens=null", "kto.tokens=null"])
    resolved = resolve(asked, Measurement("key", "fp32", 1000.0))
    assert resolved.distil is not None and resolved.kto is not None
    assert resolved.distil.tokens and resolved.distil.tokens == resolved.kto.tokens
    assert resolved.kto.precision == "fp32"


@pytest.mark.parametrize("teacher", ["small", "small/distil"])
def test_what_the_stage_makes_can_not_be_its_teacher(recipe: Path, run: Path, teacher: str) -> None:
    said = refused(run.parent, "run", recipe, f"distil.teacher={teacher}", "--only", "distil")
    assert f"{teacher} is what this stage makes" in said
