"""The stages of reinforcement learning: that they learn, that a kill changes nothing, and what stops them."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from tiny_assistants import (
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

from cadran.engine.native.library import why_not

SUMS: dict[str, Any] = {"count": 60, "operands": 2, "largest": 2, "operations": "+"}
REWARD = """
def has_e(messages, answer, reference):
    return float("e" in answer)


def broken(messages, answer, reference):
    return 1 / 0


def no_number(messages, answer, reference):
    return float("nan")


def endless(messages, answer, reference):
    while True:
        pass
"""
QUICK: dict[str, Any] = {
    "precision": "fp32", "prompts": 4, "answers": 4, "micro": 2, "max_tokens": 6, "held_out_rows": 8,
    "examinations": 1, "matrix_rate": 0.02, "embedding_rate": 0.02, "adapter_rate": 0.02,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_assistant(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    """A file of the user's with rewards in it, good and bad."""
    path = tmp_path / "mes récompenses" / "notées.py"
    path.parent.mkdir()
    path.write_text(REWARD, encoding="utf-8")
    return path


def recipe(path: Path, model: Path, **sections: Any) -> Path:
    """A recipe that starts with a model and asks sums."""
    content = {"name": "sums", "start": str(model), "threads": 1, "arithmetic": SUMS} | sections
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def python(path: Path, name: str, **more: Any) -> list[dict[str, Any]]:
    """A reward of the user's own."""
    return [{"python": {"function": f"{path}:{name}"} | more}]


@pytest.mark.parametrize(
    ("stage", "options"),
    [
        ("grpo", {"iterations": 40}),
        ("grpo", {"iterations": 20, "adapter": {"rank": 8}, "advantages": "rloo", "kl": 0.01}),
        ("ppo", {"iterations": 20, "unended_penalty": 0.0}),
    ],
    ids=["grpo", "grpo with an adapter", "ppo"],
)
def test_what_a_function_of_the_user_rewards_becomes_likelier(
    model: Path, functions: Path, tmp_path: Path, stage: str, options: dict[str, Any]
) -> None:
    section = QUICK | {"rewards": python(functions, "has_e")} | options
    done(tmp_path, "run", recipe(tmp_path / "recipe.yaml", model, **{stage: section}))
    run = tmp_path / "sums"
    found = results(run, stage)
    steps = [event for event in events(run) if event["kind"] == "step"]
    assert len(steps) == found["steps"] == options["iterations"]
    drawn = [event["reward"] for event in steps]
    assert sum(drawn[-5:]) / 5 > sum(drawn[:5]) / 5 + 0.2
    assert abs(steps[0]["ratio"] - 1) < 1e-4
    for name in ("success", "reward"):
        assert 0 <= found[name]["before"] <= found[name]["after"] <= 1
    assert found["prompts"]["held_out"] == 8 and len(found["samples"]) == 8
    right = sum("e" in sample["answers"]["after"] for sample in found["samples"])
    assert found["success"]["after"] == right / 8
    assert (run / stage / "adapter").is_dir() == ("adapter" in options)


def test_the_engine_draws_the_answers_too(model: Path, functions: Path, tmp_path: Path) -> None:
    if (reason := why_not()) is not None:
        pytest.skip(f"no native core: {reason}")
    section = QUICK | {"rewards": python(functions, "has_e"), "iterations": 3, "rollouts": "int8"}
    done(tmp_path, "run", recipe(tmp_path / "recipe.yaml", model, grpo=section))
    steps = [event for event in events(tmp_path / "sums") if event["kind"] == "step"]
    assert len(steps) == 3 and all(0 < event["mismatch"] < 0.5 for event in steps)


CHAINS: dict[str, dict[str, dict[str, Any]]] = {
    "rewards that are functions": {
        "grpo": {"iterations": 3, "epochs": 2, "minibatches": 2, "kl": 0.05},
        "ppo": {"iterations": 3, "epochs": 2, "minibatches": 2, "kl": 0.05, "kl_target": 0.1, "adapter": {"rank": 4}},
    },
    "a reward model": {
        "grpo": {"iterations": 4, "adapter": {"rank": 4}, "advantages": "dr-grpo", "aggregation": "dr-grpo"},
        "ppo": {"iterations": 3, "epochs": 2, "kl": 0.05, "kl_target": 0.1},
    },
}


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 5))])
@pytest.mark.parametrize("kind", CHAINS)
def test_killed_in_grpo_and_in_ppo_and_resumed_it_has_the_same_bytes(
    model: Path, functions: Path, tmp_path: Path, kind: str, seed: int
) -> None:
    """A period of several updates begins with rollouts, so a kill amid one goes back to them."""
    often = {"checkpoint_seconds": 0}
    sections = {name: QUICK | often | options for name, options in CHAINS[kind].items()}
    if kind == "a reward model":
        pairs = write_rows(tmp_path / "pairs.jsonl", preference_rows(20))
        sections["reward"] = {"data": str(pairs), "precision": "fp32", "held_out": 0.2}
    else:
        sections = {name: section | {"rewards": python(functions, "has_e")} for name, section in sections.items()}
    path = recipe(tmp_path / "recipe.yaml", model, **sections)
    whole, killed_often = tmp_path / "whole", tmp_path / "often killed"
    done(whole, "run", path)
    generator = random.Random(f"{kind} {seed}")
    for stage in CHAINS[kind]:
        step = generator.randint(1, results(whole / "sums", stage)["steps"] - 1)
        killed(killed_often, stage, step, generator.choice([0.0, generator.uniform(0, 0.05)]), "run", path)
    done(killed_often, "run", path)
    assert artefacts(killed_often / "sums") == artefacts(whole / "sums")
    logs = [[(e["stage"], e["step"], e["loss"], e["reward"]) for e in events(runs / "sums")
             if e["kind"] == "step" and e["stage"] != "reward"] for runs in (killed_often, whole)]  # fmt: skip
    assert logs[0] == logs[1]


def test_arithmetic_learns_from_examples_and_then_by_trying(model: Path, tmp_path: Path) -> None:
    """The recipe of the package, with a tiny model to start with: it runs and says how well it does."""
    small = [
        f"start={model}", "threads=1", "arithmetic.count=40", "arithmetic.largest=3", "sft.tokens=2000", "sft.rows=2",
        "sft.precision=fp32", "grpo.precision=fp32", "sft.held_out_rows=1", "grpo.iterations=3", "grpo.prompts=4",
        "grpo.answers=4", "grpo.examinations=1", "grpo.held_out_rows=8", "grpo.max_tokens=3",
    ]  # fmt: skip
    done(tmp_path, "run", "arithmetic", *small)
    run = tmp_path / "arithmetic"
    learnt, tried = results(run, "sft"), results(run, "grpo")
    assert learnt["held_out_loss"]["after"] < learnt["held_out_loss"]["before"] - 1
    assert all(0 <= tried["success"][when] <= 1 for when in ("before", "after"))
    expected = [sample["expected"] for sample in tried["samples"]]
    assert len(expected) == 8 and all(answer.isdecimal() and int(answer) <= 6 for answer in expected)
    held_out = {sample["prompt"] for sample in tried["samples"]}
    assert not held_out & {sample["prompt"] for sample in learnt["samples"]}


def test_it_is_done_again_when_prompts_or_the_users_function_change(
    model: Path, functions: Path, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": f"{n} ?", "answer": "e"} for n in range(12)])
    section = QUICK | {"rewards": python(functions, "has_e"), "iterations": 1, "data": str(rows)}
    path = recipe(tmp_path / "recipe.yaml", model, grpo=section)

    def repeated() -> bool:
        return "grpo      unchanged" not in done(tmp_path, "run", path)

    assert repeated() and not repeated()
    write_rows(rows, [{"prompt": f"{n} ?", "answer": "e"} for n in range(13)])
    assert repeated() and not repeated()
    functions.write_text(REWARD.replace('"e"', '"a"'), encoding="utf-8")
    assert repeated() and not repeated()


def test_prompts_that_are_left_out_are_named(model: Path, functions: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"{n} ?", "answer": "e"} for n in range(12)]
    bad = [{"prompt": "a b c d e " * 60, "answer": "e"}, {"prompt": "Rien ?", "answer": " "}]
    data = write_rows(tmp_path / "rows.jsonl", [*rows, *bad])
    section = QUICK | {"rewards": python(functions, "has_e"), "iterations": 1, "data": str(data)}
    said = done(tmp_path, "run", recipe(tmp_path / "recipe.yaml", model, grpo=section))
    named = (tmp_path / "sums" / "grpo" / "refused.txt").read_text(encoding="utf-8").splitlines()
    assert sorted(line.split(" of ")[0] for line in named) == ["row 13", "row 14"]
    assert "2 rows are left out" in said
    counts = results(tmp_path / "sums", "grpo")["prompts"]
    assert counts["train"] + counts["held_out"] == 12 and counts["refused"] == 2


def test_a_reward_model_needs_no_right_answers(model: Path, tmp_path: Path) -> None:
    pairs = write_rows(tmp_path / "pairs.jsonl", preference_rows(20))
    asked = write_rows(tmp_path / "asked.jsonl", [{"prompt": f"Que vois-tu, n° {n} ?"} for n in range(12)])
    path = recipe(
        tmp_path / "recipe.yaml", model,
        reward={"data": str(pairs), "precision": "fp32", "held_out": 0.2},
        ppo=QUICK | {"data": str(asked), "iterations": 2},
    )  # fmt: skip
    done(tmp_path, "run", path)
    found = results(tmp_path / "sums", "ppo")
    assert found["reward"].keys() == {"before", "after"} and found["reward"]["before"] != 0


def test_a_reward_model_may_be_one_of_several_rewards(model: Path, tmp_path: Path) -> None:
    pairs = write_rows(tmp_path / "pairs.jsonl", preference_rows(20))
    rewards = [{"reward_model": {}}, {"length": {"maximum": 0}, "weight": 0.5}]
    path = recipe(
        tmp_path / "recipe.yaml", model,
        reward={"data": str(pairs), "precision": "fp32", "held_out": 0.2},
        grpo=QUICK | {"rewards": rewards, "iterations": 2},
    )  # fmt: skip
    done(tmp_path, "run", path)
    steps = [event for event in events(tmp_path / "sums") if event["kind"] == "step" and event["stage"] == "grpo"]
    for step in steps:
        assert step["reward_reward_model"] != 0 and step["reward_length"] < 0
        assert step["reward"] == pytest.approx(step["reward_reward_model"] + 0.5 * step["reward_length"], abs=1e-5)


def test_rewards_that_fail_end_in_one_sentence_and_status_2(model: Path, functions: Path, tmp_path: Path) -> None:
    (tmp_path / "unreadable.py").write_text("def reward(:\n", encoding="utf-8")
    cases: dict[str, list[dict[str, Any]]] = {
        "There is no reward `exakt`: did you mean `exact`?": [{"exakt": {}}],
        "has no option `feild`: did you mean `field`?": [{"exact": {"feild": "answer"}}],
        "raised ZeroDivisionError": python(functions, "broken"),
        "returned nan": python(functions, "no_number"),
        "took longer than 0.3 seconds": python(functions, "endless", timeout=0.3),
        "did you mean `has_e`?": python(functions, "has_a"),
        "there is no file": python(tmp_path / "absent.py", "reward"),
        "when it was loaded": python(tmp_path / "unreadable.py", "reward"),
        "reward_model": [{"reward_model": {}}],
    }
    for number, (expected, rewards) in enumerate(cases.items()):
        path = recipe(tmp_path / "recipe.yaml", model, grpo=QUICK | {"rewards": rewards, "iterations": 1})
        assert expected in refused(tmp_path / str(number), "run", path), expected


def test_settings_that_cannot_be_end_in_one_sentence_and_status_2(model: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": f"{n} ?", "answer": "e"} for n in range(12)])
    cases: dict[str, dict[str, Any]] = {
        "name a file with grpo.data=FILE": {"arithmetic": None, "grpo": QUICK},
        "grpo.held_out": {"grpo": QUICK | {"data": str(rows), "held_out": 0.0}},
        "lower grpo.max_tokens": {"grpo": QUICK | {"data": str(rows), "max_tokens": 255}},
        "set answers=8": {"grpo": QUICK | {"answers": 1}},
        "set minibatches=1": {"grpo": QUICK | {"minibatches": 5}},
        "There is no file or folder": {"ppo": QUICK | {"data": str(tmp_path / "absent.jsonl")}},
        "temperature in the recipe is wrong": {"ppo": QUICK | {"temperature": 0}},
        "did you mean ppo.answers?": {"ppo": QUICK | {"answer": 2}},
    }
    for number, (expected, sections) in enumerate(cases.items()):
        path = recipe(tmp_path / "recipe.yaml", model, **sections)
        assert expected in refused(tmp_path / str(number), "run", path), expected


@pytest.mark.slow
def test_trying_raises_the_share_of_right_sums(model: Path, tmp_path: Path) -> None:
    path = recipe(
        tmp_path / "recipe.yaml", model, arithmetic=SUMS | {"count": 400, "largest": 3},
        sft={"precision": "fp32", "tokens": 6_000, "rows": 2, "matrix_rate": 0.01, "embedding_rate": 0.01},
        grpo=QUICK | {"iterations": 150, "prompts": 8, "answers": 8, "max_tokens": 3, "matrix_rate": 0.002,
                      "embedding_rate": 0.002, "held_out_rows": 40},
    )  # fmt: skip
    done(tmp_path, "run", path)
    steps = [e["success"] for e in events(tmp_path / "sums") if e["kind"] == "step" and e["stage"] == "grpo"]
    assert sum(steps[-20:]) > 1.3 * sum(steps[:20])
