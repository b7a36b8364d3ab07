"""Recipes: every mistake is named with what to type."""

from pathlib import Path

import pytest

from cadran.errors import UserError
from cadran.recipe import budget
from cadran.recipe.budget import depth_for, measure, model_config, resolve
from cadran.recipe.schema import Recipe, load_recipe, parse_recipe

MINIMAL = {"name": "tiny", "corpus": {"sources": [{"synthetic": 10}]}}


@pytest.mark.parametrize("name", ["smoke", "quickstart"])
def test_recipes_that_come_with_the_package_are_valid(name: str) -> None:
    assert load_recipe(name).name == name


def test_an_unknown_key_is_named_with_the_nearest_valid_one() -> None:
    with pytest.raises(UserError, match=r"no key base\.token; did you mean base\.tokens\?"):
        load_recipe("smoke", ["base.token=5"])
    with pytest.raises(UserError, match=r"no key mintes; did you mean minutes\?"):
        load_recipe("smoke", ["mintes=5"])
    with pytest.raises(UserError, match=r"no key sft\.xyzzy; valid are"):
        load_recipe("smoke", ["sft.xyzzy=5"])


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
    assert recipe.base.rows == 3 and recipe.name == "other"
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
