"""A student learns from a teacher: nearer to it than its rows alone would bring it, and the same if interrupted."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import yaml
from tiny_assistants import artefacts, cadran, done, events, killed, refused, results, tiny_assistant, write_rows

from cadran.engine.loading import open_tokenizer
from cadran.model.checkpoint import load_model
from cadran.recipe.stages.distil import same_vocabulary

FRUITS, COLOURS = ("pomme", "poire", "figue", "prune"), ("rouge", "verte", "bleue", "noire")


def rows(count: int, seed: int) -> list[dict[str, str]]:
    """Questions with several right answers, some likelier than others: one answer tells little of them."""
    draw = np.random.default_rng(seed)
    made = []
    for number in draw.integers(0, 10_000, count):
        fruit = int(draw.integers(4))
        colour = draw.choice(COLOURS, p=np.roll([0.55, 0.3, 0.1, 0.05], fruit))
        made.append({"prompt": f"N° {number} : la {FRUITS[fruit]} ?", "completion": str(colour)})
    return made


class World:
    """A folder with a trained teacher, an untrained student, and a few rows."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, folder / "runs"
        self.student = tiny_assistant(folder / "student", seed=0)
        self.data = write_rows(folder / "few.jsonl", rows(60, 2))
        many = write_rows(folder / "many.jsonl", rows(400, 1))
        rates = ["sft.precision=fp32", "sft.matrix_rate=0.01", "sft.embedding_rate=0.01", "--threads", "1"]
        fresh = tiny_assistant(folder / "fresh", seed=1)
        done(self.runs, "finetune", fresh, many, "--full", "--name", "teacher", "sft.rows=4", "--epochs", "3", *rates)
        self.teacher = self.runs / "teacher" / "sft"

    def recipe(self, name: str, **section: Any) -> Path:
        """A recipe file with a stage ``distil``."""
        content: dict[str, Any] = {"teacher": str(self.teacher), "data": str(self.data), "precision": "fp32"}
        content |= {"rows": 2, "held_out": 0.3, "matrix_rate": 0.01, "embedding_rate": 0.01}
        path = self.folder / f"{name}.yaml"
        path.write_text(
            yaml.safe_dump({"name": name, "start": str(self.student), "threads": 1, "distil": content | section})
        )
        return path


@pytest.fixture(scope="module", autouse=True)
def short_answers() -> Iterator[None]:
    """An untrained model never comes to an end."""
    with mock.patch("cadran.recipe.stages.finetune.LONGEST", 8):
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def taught(world: World) -> Path:
    """A student that only listened to its teacher, for tests that look."""
    done(world.runs, "run", world.recipe("taught", mix=1.0, epochs=24))
    return world.runs / "taught"


def test_a_student_comes_near_its_teacher_on_rows_that_were_held_out(taught: Path) -> None:
    found = results(taught, "distil")
    assert found["divergence"]["before"] > 1
    assert found["divergence"]["after"] < 0.02
    assert found["held_out_loss"]["after"] < found["teacher_loss"] + 0.1
    assert found["teacher"] == "sft" and found["rows"]["held_out"] > 10


def test_the_teacher_teaches_more_than_the_answers_do_in_as_many_steps(world: World, taught: Path) -> None:
    done(world.runs, "run", world.recipe("alone", mix=0.0, epochs=24))
    listened, alone = results(taught, "distil"), results(world.runs / "alone", "distil")
    assert listened["steps"] == alone["steps"] and listened["tokens"] == alone["tokens"]
    assert listened["held_out_loss"]["after"] < alone["held_out_loss"]["after"] - 0.1
    assert listened["divergence"]["after"] < alone["divergence"]["after"] / 10


def test_the_examination_is_a_curve_from_before_to_after(taught: Path) -> None:
    found = results(taught, "distil")
    examined = [event for event in events(taught) if event["kind"] == "examination"]
    every = -(-found["steps"] // 5)
    assert [event["step"] for event in examined] == [*range(0, found["steps"], every), found["steps"]]
    for name in ("divergence", "held_out_loss"):
        curve = [event["figures"][name] for event in examined]
        assert curve[0] == found[name]["before"] and curve[-1] == found[name]["after"]
    steps = [event for event in events(taught) if event["kind"] == "step"]
    assert all({"distillation", "cross_entropy"} <= step.keys() for step in steps)


def test_the_student_is_a_model_to_talk_to_and_its_answers_are_shown(taught: Path, world: World) -> None:
    model = load_model(taught / "distil")
    assert model.config == load_model(world.student).config
    samples = results(taught, "distil")["samples"]
    assert samples and all({"before", "after"} == sample["answers"].keys() for sample in samples)
    assert all(sample["answers"]["after"] in COLOURS for sample in samples)
    assert any(sample["answers"]["before"] not in COLOURS for sample in samples)
    about = json.loads((taught / "distil" / "cadran.json").read_text(encoding="utf-8"))
    assert about["results"]["teacher"] == "sft"


def test_killed_and_gone_on_with_a_student_that_writes_its_own_rows_has_the_same_bytes(
    world: World, tmp_path: Path
) -> None:
    """The rows of a step are drawn with the weights of that step, also after a resume, and dropout is drawn again."""
    section = {"on_policy": 0.5, "max_tokens": 10, "prompts": 4, "divergence": "jsd", "epochs": 4}
    section |= {"checkpoint_seconds": 0, "adapter": {"rank": 4, "dropout": 0.2}, "adapter_rate": 0.01}
    recipe = world.recipe("own", **section)
    done(world.runs, "run", recipe)
    killed(tmp_path, "distil", 6, 0, "run", recipe)
    assert list((tmp_path / "own" / "distil" / "checkpoints").glob("step-*"))
    done(tmp_path, "run", recipe)
    assert any(event["kind"] == "resumed" for event in events(tmp_path / "own"))
    assert artefacts(tmp_path / "own") == artefacts(world.runs / "own")
    steps = [event for event in events(tmp_path / "own") if event["kind"] == "step"]
    found = results(world.runs / "own", "distil")
    assert [step["step"] for step in steps] == list(range(1, found["steps"] + 1))
    assert ["own_distillation" in step for step in steps] == [False, True] * (found["steps"] // 2)
    assert all(0 < step["length"] <= 10 for step in steps[1::2])
    assert found["divergence"]["after"] < found["divergence"]["before"]


def with_two_tokens_swapped(folder: Path) -> Path:
    """A model of the same size whose tokenizer gives two words each other's number."""
    tiny_assistant(folder, seed=1)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    names = content["model"]["vocab"]
    one, other = sorted(names, key=names.get)[-2:]
    names[one], names[other] = names[other], names[one]
    path.write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_a_teacher_with_other_tokens_is_refused_with_both_names(world: World, tmp_path: Path) -> None:
    stranger = with_two_tokens_swapped(tmp_path / "stranger")
    said = refused(world.runs, "run", world.recipe("strange", teacher=str(stranger)))
    assert "other tokens than the student" in said and str(stranger) in said and str(world.student) in said
    assert said.endswith("distil.teacher=MODEL")


def test_a_vocabulary_is_the_same_however_its_file_is_written(world: World, tmp_path: Path) -> None:
    copied = tiny_assistant(tmp_path / "copied", seed=3)
    path = copied / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")), indent=3), encoding="utf-8")
    one, other = (open_tokenizer(folder)[0] for folder in (world.student, copied))
    assert same_vocabulary(one, other)
    swapped, _ = open_tokenizer(with_two_tokens_swapped(tmp_path / "swapped"))
    assert swapped.vocabulary_size == one.vocabulary_size and not same_vocabulary(one, swapped)


def test_mistakes_end_in_one_sentence(world: World, taught: Path) -> None:
    assert "there is no model nobody" in refused(world.runs, "run", world.recipe("astray", teacher="nobody"))
    assert "is what this stage makes" in refused(world.runs, "run", world.recipe("itself", teacher="itself"))
    said = refused(world.runs, "run", world.recipe("taught", mix=1.0, epochs=24, teacher="taught/distil"))
    assert "taught/distil is what this stage makes" in said
    said = refused(world.runs, "run", world.recipe("long", on_policy=0.5, max_tokens=250))
    assert "no prompt of the rows leaves room for an answer of 250 tokens; lower distil.max_tokens" in said
    assert "name a file with distil.data=FILE" in refused(world.runs, "run", world.recipe("without", data=None))
    assert "distil.mix" in refused(world.runs, "run", world.recipe("much", mix=1.5))
    recipe = world.recipe("nameless")
    recipe.write_text(recipe.read_text().replace("teacher:", "techer:"))
    assert cadran(world.runs, "run", recipe).status == 2


def test_another_teacher_under_the_same_name_is_learnt_from_anew(world: World, tmp_path: Path) -> None:
    teacher = tiny_assistant(tmp_path / "teacher", seed=4)
    recipe = world.recipe("again", teacher=str(teacher), epochs=1)
    done(tmp_path, "run", recipe)
    assert "distil    unchanged" in done(tmp_path, "run", recipe)
    before = artefacts(tmp_path / "again")
    tiny_assistant(teacher, seed=5)
    assert "distil    done" in done(tmp_path, "run", recipe)
    assert artefacts(tmp_path / "again")["distil/model.safetensors"] != before["distil/model.safetensors"]
