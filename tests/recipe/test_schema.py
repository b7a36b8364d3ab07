"""Recipes: every mistake is named with what to type."""

from itertools import pairwise
from pathlib import Path

import pytest

from cadran.errors import UserError
from cadran.recipe import budget
from cadran.recipe.budget import depth_for, measure, model_config, resolve, training_plan
from cadran.recipe.pipeline import stages_of
from cadran.recipe.schema import Recipe, load_recipe, parse_recipe

MINIMAL = {"name": "tiny", "corpus": {"sources": [{"synthetic": 10}]}}


STARTED = {"name": "tiny", "start": "smollm2", "sft": {"data": "rows.jsonl"}}


@pytest.mark.parametrize("name", ["smoke", "quickstart", "assistant", "arithmetic", "code"])
def test_recipes_that_come_with_the_package_are_valid(name: str) -> None:
    assert load_recipe(name).name == name


def test_an_unknown_key_is_named_with_the_nearest_valid_one() -> None:
    with pytest.raises(UserError, match=r"no key base\.token; did you mean base\.tokens\?"):
        load_recipe("smoke", ["base.token=5"])
    with pytest.raises(UserError, match=r"no key mintes; did you mean minutes\?"):
        load_recipe("smoke", ["mintes=5"])
    with pytest.raises(UserError, match=r"no key sft\.xyzzy; valid are"):
        load_recipe("smoke", ["sft.xyzzy=5"])
    with pytest.raises(UserError, match=r"no key dpo\.bta; did you mean dpo\.beta\?"):
        load_recipe("smoke", ["dpo.bta=5"])
    with pytest.raises(UserError, match=r"no key sft\.adapter\.rnk; did you mean sft\.adapter\.rank\?"):
        load_recipe("assistant", ["sft.adapter.rnk=5"])


def test_an_unknown_key_of_a_source_is_named_too() -> None:
    with pytest.raises(UserError, match="sead"):
        parse_recipe({"name": "tiny", "corpus": {"sources": [{"synthetic": 10, "sead": 1}]}})


def test_wrong_values_say_what_is_wrong_and_what_to_type() -> None:
    with pytest.raises(UserError, match=r"base\.rows .*set it with base\.rows="):
        load_recipe("smoke", ["base.rows=0"])
    with pytest.raises(UserError, match="key=value"):
        load_recipe("smoke", ["base.rows"])
    with pytest.raises(UserError, match="because name holds a value"):
        load_recipe("smoke", ["name.first=1"])
    with pytest.raises(UserError, match="name in the recipe is wrong"):
        load_recipe("smoke", ["name=../elsewhere"])


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"loss": "cdpo"}, "cdpo without smoothing is dpo; give the share of wrong labels"),
        ({"loss": "robust"}, "robust without smoothing is dpo"),
        ({"smoothing": 0.1}, "smoothing is for the losses cdpo and robust and not for dpo"),
        ({"loss": "ipo", "gamma": 0.5}, "gamma is for the loss simpo and not for ipo"),
    ],
)
def test_settings_of_a_loss_that_would_be_passed_over_are_refused(section: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=f"^dpo in the recipe is wrong: {said}"):
        parse_recipe({"name": "tiny", "start": "smollm2", "dpo": section})


def test_what_a_message_quotes_keeps_its_capitals() -> None:
    with pytest.raises(UserError, match=r"wrong \(string should match pattern '\^\[A-Za-z0-9\]"):
        load_recipe("smoke", ["name=../elsewhere"])


@pytest.mark.parametrize("stage", ["ppo", "grpo"])
def test_the_rate_of_learning_from_rewards_falls_to_zero_from_the_first_step(stage: str) -> None:
    section = getattr(parse_recipe({"name": "tiny", "start": "smollm2", stage: {}}), stage)
    factors = [training_plan(section, 50, 10).schedule.factor(step) for step in range(50)]
    assert factors[0] == 1 and all(a > b for a, b in pairwise(factors)) and 0 < factors[-1] < 0.05


def test_a_reward_model_reads_its_pairs_once_unless_told_otherwise() -> None:
    reward = parse_recipe({"name": "tiny", "start": "smollm2", "reward": {}}).reward
    assert reward is not None and reward.epochs == 1


def test_a_recipe_begins_with_text_or_with_a_model_and_not_with_both() -> None:
    for content in ({"name": "tiny"}, MINIMAL | {"start": "smollm2"}):
        with pytest.raises(UserError, match=r"corpus\.sources or start=MODEL, not both"):
            parse_recipe(content)
    assert parse_recipe(MINIMAL).sft is not None  # articles are followed by SFT where nothing is said of it
    assert parse_recipe(MINIMAL | {"sft": None}).sft is None
    assert parse_recipe({"name": "tiny", "start": "smollm2"}).sft is None


def test_the_lengths_of_rows_are_not_trained_on_a_base_of_integers() -> None:
    for stage in ("sft", "reward", "dpo", "grpo", "ppo"):
        for base in ("int8", "int4"):
            with pytest.raises(UserError, match=rf"set {stage}\.adapter\.base=float"):
                parse_recipe(STARTED | {stage: {"adapter": {"dora": True, "base": base}}})
    adapter = {"dora": True, "base": "float"}
    assert parse_recipe(STARTED | {"dpo": {"adapter": adapter}}).dpo.adapter.dora


def test_preferences_behind_an_adapter_are_learnt_by_one_of_its_kind() -> None:
    recipe = load_recipe("assistant", ["sft.data=rows.jsonl", "dpo.data=pairs.jsonl", "sft.adapter.rank=4"])
    assert recipe.dpo is not None and recipe.dpo.adapter is not None and recipe.dpo.adapter.rank == 4
    whole = load_recipe("assistant", ["sft.data=rows.jsonl", "dpo.data=pairs.jsonl", "dpo.adapter=null"])
    assert whole.dpo is not None and whole.dpo.adapter is None
    other = load_recipe("assistant", ["sft.data=rows.jsonl", "dpo.data=pairs.jsonl", "dpo.adapter.rank=2"])
    assert other.dpo is not None and other.dpo.adapter is not None and other.dpo.adapter.rank == 2


def test_stages_follow_each_other_whatever_their_order_in_the_file() -> None:
    recipe = parse_recipe(STARTED | {"int8": {}, "ppo": {}, "grpo": {}, "dpo": {}, "reward": {}})
    stages = {stage.name: stage for stage in stages_of(recipe)}
    assert list(stages) == ["sft", "reward", "dpo", "grpo", "ppo", "int8", "report"]
    assert {name: stage.needs for name, stage in stages.items()} == {
        "sft": (), "reward": ("sft",), "dpo": ("sft",), "grpo": ("dpo", "reward"), "ppo": ("grpo", "reward"),
        "int8": ("ppo",),
        "report": ("sft", "reward", "dpo", "grpo", "ppo", "int8"),
    }  # fmt: skip
    alone = {stage.name: stage.needs for stage in stages_of(parse_recipe(STARTED | {"sft": None, "dpo": {}}))}
    assert alone == {"dpo": (), "report": ("dpo",)}
    with pytest.raises(UserError, match="add a stage before it"):
        stages_of(parse_recipe(STARTED | {"sft": None, "int8": {}}))


def test_a_recipe_that_starts_with_a_model_is_resolved_without_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "best_precision", lambda: "bf16")
    recipe = parse_recipe(STARTED | {"dpo": {"precision": None}, "grpo": {"precision": "fp32"}})
    measured = measure(recipe)
    resolved = resolve(recipe, measured)
    assert measured.tokens_per_second is None and resolve(resolved, measure(resolved)) == resolved
    assert Recipe.model_validate(resolved.model_dump(mode="json")) == resolved
    assert {resolved.sft.precision, resolved.dpo.precision, resolved.grpo.precision} == {"fp32"}
    assert resolve(parse_recipe(STARTED), measure(parse_recipe(STARTED))).sft.precision == "bf16"


def test_the_stages_of_pairs_have_their_share_of_the_minutes() -> None:
    content = MINIMAL | {"minutes": 12, "base": {"precision": "fp32"}, "reward": {}, "dpo": {}}
    recipe = parse_recipe(content)
    measured = budget.Measurement("key", "fp32", 1000.0)
    resolved = resolve(recipe, measured)
    tokens = {name: getattr(resolved, name).tokens for name in ("base", "sft", "reward", "dpo")}
    assert tokens["base"] > tokens["sft"] > tokens["dpo"] > tokens["reward"] > 0
    assert sum(tokens.values()) <= 12 * 60 * 1000
    without = resolve(parse_recipe(MINIMAL | {"minutes": 12, "base": {"precision": "fp32"}}), measured)
    assert abs(without.base.tokens + without.sft.tokens - sum(tokens.values())) < 5


def test_unknown_recipes_and_broken_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean cadran run smoke"):
        load_recipe("smok")
    with pytest.raises(UserError, match="no file"):
        load_recipe(str(tmp_path / "none.yaml"))
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [1")
    with pytest.raises(UserError, match="cannot be read as YAML"):
        load_recipe(str(broken))
    broken.write_text("- just\n- a list\n")
    with pytest.raises(UserError, match="holds no recipe"):
        load_recipe(str(broken))


def test_overrides_reach_their_key() -> None:
    recipe = load_recipe("smoke", ["base.rows=3", "name=other", "corpus.sources=[{synthetic: 5, seed: 1}]"])
    assert recipe.base.rows == 3 and recipe.name == "other" and recipe.corpus is not None
    assert recipe.corpus.sources == [{"synthetic": 5, "seed": 1}]


def test_a_longer_budget_gives_a_larger_model() -> None:
    assert [depth_for(m) for m in (12, 60, 240)] == [3, 5, 7]
    sizes = [model_config(parse_recipe(MINIMAL | {"minutes": m})).parameters for m in (1, 12, 60, 240, 1440)]
    assert sizes == sorted(sizes) and len(set(sizes)) == len(sizes)


def test_resolving_decides_everything_and_is_idempotent() -> None:
    recipe = parse_recipe(MINIMAL | {"minutes": 3, "model": {"layers": 1, "width": 16, "context": 32}})
    resolved = resolve(recipe, measure(recipe))
    assert resolved.base.tokens and resolved.sft.tokens and resolved.base.precision and resolved.base.micro_rows
    assert resolved.base.compiled is False and resolved.model.hidden
    assert resolve(resolved, measure(resolved)) == resolved
    assert Recipe.model_validate(resolved.model_dump(mode="json")) == resolved


def test_a_recipe_without_budget_or_sizes_is_refused() -> None:
    with pytest.raises(UserError, match="minutes=12"):
        measure(parse_recipe(MINIMAL))
    with pytest.raises(UserError, match="token counts"):
        measure(parse_recipe(MINIMAL | {"model": {"layers": 1, "width": 16, "context": 32}, "base": {"tokens": 5}}))
    with pytest.raises(UserError, match=r"model\.heads=1"):
        model_config(parse_recipe(MINIMAL | {"minutes": 1, "model": {"width": 50, "heads": 7}}))


def test_a_change_of_the_sft_does_not_resize_the_base_model(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = iter([1000.0, 2000.0])
    monkeypatch.setattr(budget, "_measured_speed", lambda config, section: next(speeds))
    content = MINIMAL | {"minutes": 12, "base": {"precision": "fp32"}}
    first = measure(parse_recipe(content))
    changed = parse_recipe(content | {"sft": {"chats": 3}})
    assert measure(changed, first) is first
    assert resolve(changed, first).base == resolve(parse_recipe(content), first).base
    larger = measure(parse_recipe(content | {"minutes": 60}), first)
    assert larger != first and larger.tokens_per_second == 2000.0
