"""The stages of pairs: what they learn, that a kill changes nothing, when they are done again, and what they refuse."""

import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tiny_assistants import (
    artefacts,
    chat_rows,
    done,
    events,
    killed,
    preference_rows,
    refused,
    results,
    tiny_assistant,
    write_rows,
)

from cadran.align.branches import pack_for
from cadran.align.preference import PreferencePair, encode_pairs, prompt_key
from cadran.align.ratings import append_rating
from cadran.align.reward_model import RewardModel
from cadran.engine.loading import open_tokenizer
from cadran.recipe.stages import comparison, dpo

QUICK: dict[str, Any] = {
    "precision": "fp32", "pairs": 8, "micro": 4, "examinations": 1, "held_out": 0.2, "held_out_pairs": 12,
    "matrix_rate": 0.01, "embedding_rate": 0.01, "adapter_rate": 0.01, "epochs": 3,
}  # fmt: skip

ENDLESS = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_assistant(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "préférences.jsonl", preference_rows(80))


@pytest.fixture(autouse=True)
def few_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrained model never stops: two questions are enough."""
    monkeypatch.setattr(comparison, "SHOWN", 2)


def recipe(path: Path, model: Path, **sections: Any) -> Path:
    """A recipe that starts with a model."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"name": "pairs", "start": str(model), "threads": 1} | sections), encoding="utf-8")
    return path


LOSSES: dict[str, dict[str, Any]] = {
    "whole": {},
    "adapter": {"adapter": {"rank": 4}},
    "adapter on int8": {"adapter": {"rank": 4, "base": "int8"}},
    "simpo": {"loss": "simpo", "beta": 2.0, "gamma": 0.5, "adapter": {"rank": 4, "dora": True}},
    "ipo with SFT": {"loss": "ipo", "sft_weight": 0.1},
}


@pytest.mark.parametrize("kind", LOSSES)
def test_dpo_prefers_what_was_preferred_in_pairs_that_it_never_saw(
    model: Path, data: Path, tmp_path: Path, kind: str
) -> None:
    options = QUICK | {"data": str(data), "beta": 0.5} | LOSSES[kind]
    said = done(tmp_path, "run", recipe(tmp_path / "recipe.yaml", model, dpo=options))
    run = tmp_path / "pairs"
    found = results(run, "dpo")
    accuracy, pairs = found["accuracy"], found["pairs"]
    assert 0.2 < accuracy["before"] < 0.8 and accuracy["after"] >= 0.9
    assert accuracy["interval"][0] <= accuracy["after"] <= accuracy["interval"][1]
    assert pairs["held_out"] <= 12 and pairs["train"] > 50 and pairs["refused"] == 0
    assert found["by_kind"]["preference"] == {k: accuracy[k] for k in ("before", "after")} | {
        "pairs": pairs["held_out"]
    }
    assert found["models"] == {name: {"pair_accuracy": accuracy[name]} for name in ("before", "after")}
    assert found["samples"] and {"before", "after"} == found["samples"][0]["answers"].keys()
    steps = [event for event in events(run) if event["kind"] == "step"]
    assert len(steps) == found["steps"] == round(3 * pairs["train"] / 8)
    assert steps[-1]["margin"] > steps[0]["margin"] and "chosen_logprob" in steps[0]
    if "loss" not in options:
        assert abs(steps[0]["loss"] - math.log(2)) < 1e-3
    assert (run / "dpo" / "adapter").is_dir() == ("adapter" in options)
    assert {array.dtype for array in load_file(run / "dpo" / "model.safetensors").values()} == {np.dtype("float32")}
    assert "préférences.jsonl: 80 preference rows" in said


def test_a_reward_model_puts_held_out_pairs_in_order_and_is_normalised(model: Path, data: Path, tmp_path: Path) -> None:
    done(tmp_path, "run", recipe(tmp_path / "recipe.yaml", model, reward=QUICK | {"data": str(data)}))
    run = tmp_path / "pairs"
    found = results(run, "reward")
    assert found["accuracy"] >= 0.9 and found["interval"][0] <= found["accuracy"] <= found["interval"][1]
    assert found["by_kind"]["preference"]["pairs"] == found["pairs"]["held_out"]
    assert sum(bin["pairs"] for bin in found["calibration"]) == found["pairs"]["held_out"]
    judge = RewardModel.load(run / "reward")
    renderer = open_tokenizer(model)[1]
    assert renderer is not None
    asked = [{"role": "user", "content": "Que vois-tu là, n° 500 ?"}]
    pairs = [PreferencePair(asked, chosen, rejected) for chosen, rejected in (("vert", "poire"), ("noir", "melon"))]
    with torch.no_grad():
        rewards = judge.rewards(pack_for(judge.transformer, encode_pairs(pairs, renderer, 256).prompted, 0)).view(2, 2)
    assert bool((rewards[:, 0] > rewards[:, 1]).all()) and float(rewards.abs().max()) < 5
    given = [
        PreferencePair([{"role": "user", "content": row["prompt"]}], row["chosen"], row["rejected"])
        for row in preference_rows(80)
    ]
    with torch.no_grad():
        rewards = judge.rewards(pack_for(judge.transformer, encode_pairs(given, renderer, 256).prompted, 0))
    # Those learnt from have exactly 0 and 1; a few that were held out are among these.
    assert abs(float(rewards.mean())) < 0.1 and abs(float(rewards.std()) - 1) < 0.1
    assert found["mean"] != 0 and found["std"] != 1


@pytest.mark.parametrize("base", ["float", "int8", "int4"])
def test_an_adapter_of_a_reward_model_ends_in_a_whole_one(model: Path, data: Path, tmp_path: Path, base: str) -> None:
    options = QUICK | {"data": str(data), "adapter": {"rank": 4, "base": base}, "scalar_rate": 0.02, "epochs": 6}
    done(tmp_path, "run", recipe(tmp_path / "recipe.yaml", model, reward=options))
    assert results(tmp_path / "pairs", "reward")["accuracy"] >= 0.9
    RewardModel.load(tmp_path / "pairs" / "reward")


CHAINS: dict[str, dict[str, dict[str, Any]]] = {
    "adapters": {
        "sft": {"precision": "fp32", "rows": 1, "epochs": 2, "held_out_rows": 1, "adapter_rate": 0.02,
                "adapter": {"rank": 4, "dropout": 0.2}},
        "reward": {"epochs": 1, "held_out_pairs": 2},
        "dpo": {"epochs": 1, "held_out_pairs": 2, "adapter": {"rank": 4, "dropout": 0.2}},
    },
    "whole": {"dpo": {"epochs": 1, "held_out_pairs": 2}},
}  # fmt: skip


def chain(path: Path, model: Path, data: Path, chats: Path, kind: str) -> Path:
    """A recipe of several stages that keep their state all the time."""
    often = {"checkpoint_seconds": 0}
    sections = {
        name: ({"data": str(chats)} if name == "sft" else QUICK | {"data": str(data)}) | often | options
        for name, options in CHAINS[kind].items()
    }
    return recipe(path, model, **sections)


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 5))])
@pytest.mark.parametrize("kind", CHAINS)
def test_killed_in_every_stage_and_resumed_it_has_the_same_bytes(
    model: Path, data: Path, tmp_path: Path, kind: str, seed: int
) -> None:
    chats = write_rows(tmp_path / "rows.jsonl", chat_rows(40))
    path = chain(tmp_path / "recipe.yaml", model, data, chats, kind)
    whole, often = tmp_path / "whole", tmp_path / "often killed"
    done(whole, "run", path)
    generator = random.Random(f"{kind} {seed}")
    for stage in CHAINS[kind]:
        step = generator.randint(1, results(whole / "pairs", stage)["steps"] - 1)
        killed(often, stage, step, generator.choice([0.0, generator.uniform(0, 0.05)]), "run", path)
        assert (often / "pairs" / stage / "checkpoints").is_dir()
    done(often, "run", path)
    assert artefacts(often / "pairs") == artefacts(whole / "pairs")
    logs = [[(e["stage"], e["step"], e["loss"]) for e in events(runs / "pairs") if e["kind"] == "step"]
            for runs in (often, whole)]  # fmt: skip
    assert logs[0] == logs[1]
    assert sum(event["kind"] == "resumed" for event in events(often / "pairs")) >= 1


def test_stages_are_done_again_when_what_they_learn_from_changes_and_only_then(
    model: Path, data: Path, tmp_path: Path
) -> None:
    parent, rows = shutil.copytree(model, tmp_path / "model"), tmp_path / "rows" / "pairs.jsonl"
    write_rows(rows, preference_rows(20))
    short = QUICK | {"data": str(rows.parent), "epochs": 0.5}
    path = tmp_path / "recipe.yaml"

    def stages_done(*arguments: str, beta: float = 0.1, **more: Any) -> list[str]:
        recipe(path, parent, reward=short | more, dpo=short | more | {"beta": beta})
        said = done(tmp_path, "run", path, *arguments)
        return [line.split()[0] for line in said.splitlines() if " done in " in line]

    assert stages_done() == ["reward", "dpo", "report"]
    before = made(tmp_path / "pairs")
    assert stages_done() == [] and made(tmp_path / "pairs") == before
    assert stages_done(beta=0.2) == ["dpo", "report"]
    assert stages_done("--from", "dpo", beta=0.2) == ["dpo", "report"]
    assert stages_done("--only", "reward", beta=0.2) == ["reward"]
    assert stages_done() == ["dpo", "report"] and made(tmp_path / "pairs") == before
    write_rows(rows, preference_rows(21))
    assert stages_done() == ["reward", "dpo", "report"] and stages_done() == []
    write_rows(rows.parent / "more" / rows.name, preference_rows(3, seed=4))  # a folder is read with all below it
    assert stages_done() == ["reward", "dpo", "report"]
    rate(tmp_path / "pairs", "Que vois-tu ?", "rouge", "olive")
    assert stages_done() == ["reward", "dpo", "report"] and stages_done() == []
    assert stages_done(ratings=False) == ["reward", "dpo", "report"]  # their sections changed
    rate(tmp_path / "pairs", "Que vois-tu ?", "rouge", "melon")
    assert stages_done(ratings=False) == []
    tiny_assistant(parent, seed=3)
    assert stages_done(ratings=False) == ["reward", "dpo", "report"]


def made(run: Path) -> dict[str, str]:
    """Artefacts without those that quote the whole recipe, whichever stage they lie in."""
    return {name: content for name, content in artefacts(run).items() if not name.endswith("cadran.json")}


def rate(run: Path, asked: str, chosen: str, rejected: str) -> None:
    """What ``cadran label`` writes."""
    messages = [{"role": "user", "content": asked}]
    append_rating(run / "ratings.jsonl", PreferencePair(messages, chosen, rejected, kind="rating"))


def test_choices_of_people_are_learnt_by_the_next_dpo_and_never_examined(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the user's own rows ask the same: those leave the held-out side."""
    gathered: list[Any] = []
    gather: Callable[..., Any] = dpo.gather_pairs
    monkeypatch.setattr(dpo, "gather_pairs", lambda *given: gathered.append(gather(*given)) or gathered[-1])
    rows = preference_rows(40)
    path = recipe(
        tmp_path / "recipe.yaml", model,
        dpo=QUICK | {"data": str(write_rows(tmp_path / "rows.jsonl", rows)), "held_out_pairs": 40, "epochs": 1},
    )  # fmt: skip
    assert "choices of" not in done(tmp_path, "run", path)
    held_out = gathered[0].held_out.pairs
    asked = [pair.messages[-1]["content"] for pair in held_out[:2]] + ["Une autre question ?"]
    for question in asked:
        rate(tmp_path / "pairs", question, "rouge", "olive")
    said = done(tmp_path, "run", path)
    assert "3 choices of ratings.jsonl are learnt from too" in said
    (notice,) = [e["text"] for e in events(tmp_path / "pairs") if "choices of" in e.get("text", "")]
    assert notice.startswith("3 choices")
    before, after = gathered
    assert after.counts["train"] == before.counts["train"] + 3
    assert after.counts["held_out"] == before.counts["held_out"] - 2
    learnt = [pair.messages[-1]["content"] for pair in after.train.pairs if pair.kind == "rating"]
    assert sorted(learnt) == sorted(asked)
    for pairs in gathered:
        sides = [{prompt_key(pair.messages) for pair in side.pairs} for side in (pairs.train, pairs.held_out)]
        assert not sides[0] & sides[1]


def test_pairs_that_cannot_be_learnt_are_named_and_counted(model: Path, tmp_path: Path) -> None:
    bad = [
        {"prompt": "Même ?", "chosen": "Oui.", "rejected": "Oui."},
        {"prompt": "Vide ?", "chosen": "", "rejected": "Non."},
        {"prompt": "Long ?", "chosen": "a b c d " * 100, "rejected": "Non."},
    ]
    rows = write_rows(tmp_path / "rows.jsonl", [*preference_rows(20), *bad])
    said = done(tmp_path, "run", recipe(tmp_path / "r.yaml", model, dpo=QUICK | {"data": str(rows), "epochs": 0.5}))
    named = (tmp_path / "pairs" / "dpo" / "refused.txt").read_text(encoding="utf-8")
    assert sorted(line.split(" of ")[0] for line in named.splitlines()) == ["row 21", "row 22", "row 23"]
    assert results(tmp_path / "pairs", "dpo")["pairs"]["refused"] == 3 and "3 rows are left out" in said


@pytest.mark.parametrize("count", [2, 3, 6])
def test_of_a_few_pairs_at_least_one_prompt_is_held_out_and_one_learnt(model: Path, tmp_path: Path, count: int) -> None:
    """Such as a first evening of ``cadran label`` leaves: a tenth of three is none."""
    rows = write_rows(tmp_path / "few.jsonl", preference_rows(count))
    short = QUICK | {"data": str(rows), "held_out": 0.1, "epochs": 0.5}
    said = done(tmp_path, "run", recipe(tmp_path / "r.yaml", model, dpo=short))
    found = results(tmp_path / "pairs", "dpo")["pairs"]
    assert found["train"] >= 1 and found["held_out"] >= 1 and found["train"] + found["held_out"] == count
    assert f"{found['train']} pairs to learn from, {found['held_out']} held out" in said


def test_mistakes_end_in_one_sentence_and_status_2(model: Path, data: Path, tmp_path: Path) -> None:
    long = [{"prompt": f"{n} ?", "chosen": "a b c d " * 100, "rejected": "Non."} for n in range(9)]
    endless = tiny_assistant(tmp_path / "endless", template=ENDLESS)
    good: dict[str, Any] = QUICK | {"data": str(data)}
    cases: dict[str, dict[str, Any]] = {
        "has no pair to learn from; give it preference rows with dpo.data=FILE": {"dpo": QUICK},
        "has no pair to hold out; give it pairs with two prompts at least": {"dpo": good | {"held_out": 0.0}},
        "pair to hold out": {"dpo": good | {"data": str(write_rows(tmp_path / "one.jsonl", preference_rows(1)))}},
        "the stage reward has no pair to learn from (row 2 of long.jsonl has": {
            "reward": good | {"data": str(write_rows(tmp_path / "long.jsonl", long))}
        },
        "writes no stop token: the model would never learn to stop); mend the rows": {
            "start": str(endless),
            "dpo": good,
        },
        "preference rows are needed here": {
            "dpo": good | {"data": str(write_rows(tmp_path / "chats.jsonl", chat_rows(9)))}
        },
        "There is no file or folder": {"reward": good | {"data": str(tmp_path / "absent.jsonl")}},
        "dpo.loss in the recipe is wrong": {"dpo": good | {"loss": "dpoo"}},
        "o_prij": {"dpo": good | {"adapter": {"targets": ["o_prij"]}}},
        "did you mean dpo.beta?": {"dpo": good | {"bta": 1}},
        "did you mean dpo.adapter.rank?": {"dpo": good | {"adapter": {"rnk": 1}}},
        "set dpo.adapter.base=float, or leave dora": {"dpo": good | {"adapter": {"dora": True, "base": "int4"}}},
        "add a stage before it": {"int8": {}},
    }
    for number, (expected, sections) in enumerate(cases.items()):
        path = recipe(tmp_path / f"{number}.yaml", model, **sections)
        assert expected in refused(tmp_path / f"runs {number}", "run", path), expected
