"""Answers that are good or bad on their own teach a model to tell them apart, whoever said so and in whatever form."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tiny_assistants import (
    COLOURS,
    FRUITS,
    artefacts,
    done,
    events,
    killed,
    preference_rows,
    refused,
    results,
    tiny_assistant,
    write_rows,
)

from cadran.align.branches import Prompted
from cadran.align.data.row import Labelled
from cadran.align.preference import PreferencePair
from cadran.align.ratings import append_rating
from cadran.model.checkpoint import load_model
from cadran.recipe.stages.kto import examine_judged, ranking, unpaired


def labelled_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """A colour is a good answer and a fruit a bad one."""
    draw = np.random.default_rng(seed)
    labels = [bool(label) for label in draw.random(count) < 0.5]
    said = [str(draw.choice(COLOURS if label else FRUITS)) for label in labels]
    return [
        {"prompt": f"Que vois-tu, n° {n} ?", "completion": answer, "label": label}
        for n, (answer, label) in enumerate(zip(said, labels, strict=True))
    ]


class World:
    """A folder with a model and runs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, folder / "runs"
        self.model = tiny_assistant(folder / "model")

    def recipe(self, name: str, rows: Iterable[Any] | None, **section: Any) -> Path:
        """A recipe file with a stage ``kto``, and the rows it learns from."""
        content: dict[str, Any] = {"precision": "fp32", "rows": 16, "micro": 16, "held_out": 0.3, "beta": 0.2}
        if rows is not None:
            content["data"] = str(write_rows(self.folder / f"{name}.jsonl", rows))
        path = self.folder / f"{name}.yaml"
        path.write_text(
            yaml.safe_dump({"name": name, "start": str(self.model), "threads": 1, "kto": content | section})
        )
        return path


@pytest.fixture(scope="module", autouse=True)
def short_answers() -> Iterator[None]:
    """An untrained model never comes to an end."""
    with mock.patch("cadran.recipe.stages.comparison.LONGEST", 8):
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def liked(world: World) -> Path:
    """A run that learnt from 200 labelled answers, for tests that look."""
    rows = [*labelled_rows(200), {"prompt": "Et quoi ?", "completion": " ", "label": True}]
    done(world.runs, "run", world.recipe("liked", rows, epochs=3))
    return world.runs / "liked"


def test_it_tells_good_answers_that_were_held_out_from_bad_ones(liked: Path) -> None:
    found = results(liked, "kto")
    assert 0.2 < found["accuracy"]["before"] < 0.8
    assert found["accuracy"]["after"] > 0.85
    assert found["reward"]["accuracy"] > 0.85
    assert found["reward"]["desirable"] > 0.7 > 0.3 > found["reward"]["undesirable"]
    assert found["reward"]["margin"] > 0 and found["kl"]["chosen"] > found["kl"]["rejected"]


def test_every_row_is_counted_and_refused_ones_are_named(liked: Path) -> None:
    rows = results(liked, "kto")["rows"]
    assert rows["train"] + rows["held_out"] == 200 and rows["refused"] == 1 and rows["held_out"] > 30
    assert rows["desirable"] + rows["undesirable"] == rows["train"]
    line = (liked / "kto" / "refused.txt").read_text(encoding="utf-8")
    assert line.startswith("row 201 of liked.jsonl: ")


def test_curves_begin_at_the_reference_and_answers_are_shown(liked: Path, world: World) -> None:
    found = results(liked, "kto")
    examined = [event["figures"] for event in events(liked) if event["kind"] == "examination"]
    assert examined[0] == {"accuracy": 0.5, "margin": 0.0, "kl": 0.0}  # a tie counts half
    assert examined[-1]["accuracy"] == found["reward"]["accuracy"]
    steps = [event for event in events(liked) if event["kind"] == "step"]
    assert steps[0]["loss"] == 0.5 and len(steps) == found["steps"]
    assert found["models"]["after"]["pair_accuracy"] == found["accuracy"]["after"]
    sample = found["samples"][0]
    assert sample["expected"] in COLOURS and {"before", "after"} == sample["answers"].keys()
    assert load_model(liked / "kto").config == load_model(world.model).config


def test_pairs_are_taken_apart_and_separate_too(world: World) -> None:
    recipe = world.recipe("pairs", preference_rows(100), epochs=3, adapter={"rank": 4}, adapter_rate=0.02)
    done(world.runs, "run", recipe)
    found = results(world.runs / "pairs", "kto")
    rows = found["rows"]  # both answers of a pair have one prompt: they fall on one side
    assert rows["desirable"] == rows["undesirable"] == rows["train"] // 2 and rows["held_out"] % 2 == 0
    assert rows["train"] + rows["held_out"] == 200
    assert found["reward"]["accuracy"] > 0.85
    assert (world.runs / "pairs" / "kto" / "adapter" / "adapter_model.safetensors").is_file()


def test_thumbs_of_people_are_learnt_from_and_another_one_is_learnt_anew(world: World, tmp_path: Path) -> None:
    recipe = world.recipe("thumbs", labelled_rows(40), epochs=1)
    ratings = tmp_path / "thumbs" / "ratings.jsonl"
    asked = [[{"role": "user", "content": f"Et toi, n° {number} ?"}] for number in range(4)]
    append_rating(ratings, Labelled(asked[0], "Moi aussi.", True))
    append_rating(ratings, PreferencePair(asked[1], "Oui.", "Non."))
    assert "3 answers rated in ratings.jsonl are learnt from too" in done(tmp_path, "run", recipe)
    rows = results(tmp_path / "thumbs", "kto")["rows"]
    assert rows["train"] + rows["held_out"] == 43
    assert "kto       unchanged" in done(tmp_path, "run", recipe)
    append_rating(ratings, Labelled(asked[2], "Jamais.", False))
    assert "kto       done" in done(tmp_path, "run", recipe)
    assert results(tmp_path / "thumbs", "kto")["rows"]["train"] == rows["train"] + 1


def test_thumbs_alone_are_enough(world: World, tmp_path: Path) -> None:
    """Then some of them are held out."""
    ratings = tmp_path / "alone" / "ratings.jsonl"
    for row in labelled_rows(30):
        asked = [{"role": "user", "content": row["prompt"]}]
        append_rating(ratings, Labelled(asked, row["completion"], row["label"]))
    done(tmp_path, "run", world.recipe("alone", None, epochs=1))
    rows = results(tmp_path / "alone", "kto")["rows"]
    assert rows["held_out"] > 2 and rows["train"] + rows["held_out"] == 30


def test_killed_and_gone_on_with_it_has_the_same_bytes(world: World, tmp_path: Path) -> None:
    recipe = world.recipe("killed", labelled_rows(80), epochs=2, checkpoint_seconds=0)
    done(world.runs, "run", recipe)
    killed(tmp_path, "kto", 4, 0, "run", recipe)
    assert list((tmp_path / "killed" / "kto" / "checkpoints").glob("step-*"))
    done(tmp_path, "run", recipe)
    assert any(event["kind"] == "resumed" for event in events(tmp_path / "killed"))
    assert artefacts(tmp_path / "killed") == artefacts(world.runs / "killed")


def test_labels_of_one_kind_are_refused_by_name(world: World) -> None:
    liked_only = [row | {"label": True} for row in labelled_rows(20)]
    said = refused(world.runs, "run", world.recipe("good", liked_only))
    assert "answers to learn from is undesirable (label false), and KTO needs both" in said
    disliked_only = [row | {"label": False} for row in labelled_rows(20)]
    said = refused(world.runs, "run", world.recipe("bad", disliked_only))
    assert "answers to learn from is desirable (label true), and KTO needs both" in said


def test_a_kind_that_only_one_side_has_is_refused_with_what_to_type(world: World) -> None:
    rows = [{"prompt": f"Qui, n° {n} ?", "completion": "Moi.", "label": True} for n in range(40)]
    rows.append({"prompt": "Qui donc ?", "completion": "Toi.", "label": False})
    said = refused(world.runs, "run", world.recipe("rare", rows))
    assert "answers held out is undesirable (label false), and KTO needs both; hold out more with kto.held_out=" in said


def test_nothing_to_learn_from_or_to_hold_out_is_refused(world: World) -> None:
    said = refused(world.runs, "run", world.recipe("none", None))
    assert "the stage kto has no answer to learn from; give it more with kto.data=FILE" in said
    said = refused(world.runs, "run", world.recipe("all", labelled_rows(20), held_out=0.0))
    assert "the stage kto has no answer held out" in said and "kto.held_out=0.3" in said
    chats = [{"prompt": f"Qui, n° {n} ?", "completion": "Moi."} for n in range(3)]
    said = refused(world.runs, "run", world.recipe("chats", chats))
    assert "no answer to learn from (row 1 of chats.jsonl: nothing says whether its answer is a good one" in said
    one = [row | {"prompt": "Toujours la même ?"} for row in labelled_rows(20)]
    assert "all answers are to one prompt, and KTO compares at least two" in refused(
        world.runs, "run", world.recipe("one", one)
    )


def test_a_rare_kind_is_said_with_the_weight_that_balances_it(world: World) -> None:
    rows = [row for n, row in enumerate(labelled_rows(200)) if row["label"] or n % 8 == 0]
    said = done(world.runs, "run", world.recipe("unequal", rows, epochs=0.2))
    assert "kto.undesirable_weight=" in said


def test_pairs_become_two_answers_with_their_names() -> None:
    asked = [{"role": "user", "content": "Qui ?"}]
    made = unpaired([PreferencePair(asked, "Moi.", "Non.", language="fr", source="row 3")])
    assert made == [
        Labelled(asked, "Moi.", True, "fr", "row 3 (chosen)"), Labelled(asked, "Non.", False, "fr", "row 3 (rejected)"),
    ]  # fmt: skip


@given(scores=st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30))
def test_ranking_is_the_share_of_pairs_in_the_right_order(scores: list[tuple[int, bool]]) -> None:
    good, bad = ([score for score, label in scores if label is kind] for kind in (True, False))
    if not good or not bad:
        return
    wanted = sum((a > b) + 0.5 * (a == b) for a in good for b in bad) / (len(good) * len(bad))
    values = torch.tensor([float(score) for score, _ in scores])
    labels = torch.tensor([label for _, label in scores])
    assert ranking(values, labels) == pytest.approx(wanted)
    assert ranking(-values, labels) == pytest.approx(1 - wanted)


def test_an_examination_has_the_figures_of_its_definition() -> None:
    items = [Prompted((1,), ((2,) * length,)) for length in (1, 2, 1, 2)]
    before, after = torch.tensor([-1.0, -4.0, -2.0, -3.0]), torch.tensor([-0.5, -4.0, -3.0, -6.0])
    found = examine_judged(items, [True, True, False, False], before, after, beta=0.1)
    # Per token before: good -1, -2, bad -2, -1.5; after: good -0.5, -2, bad -3, -3.
    assert found["accuracy"] == {"before": (1 + 1 + 0.5 + 0) / 4, "after": 1.0}
    assert found["kl"] == {"chosen": 0.25, "rejected": -2.0}
    assert found["reward"] == pytest.approx({"accuracy": 1.0, "margin": 0.225, "desirable": 0.5, "undesirable": 0.0})


def test_the_recipe_says_what_was_learnt(liked: Path) -> None:
    about = json.loads((liked / "kto" / "cadran.json").read_text(encoding="utf-8"))
    assert about["recipe"]["kto"]["rows"] == 16 and about["results"]["rows"]["refused"] == 1
