"""From an entry of a recipe's ``rewards:`` to the reward it names."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from cadran.align.rewards.built_in import BuiltIn
from cadran.align.rewards.exact import Exact
from cadran.align.rewards.finite import number_of
from cadran.align.rewards.json_schema import JsonSchema
from cadran.align.rewards.judge import Judge
from cadran.align.rewards.pattern import Format, Regex
from cadran.align.rewards.reward import Weighted
from cadran.align.rewards.scorer import Scored, Scorer
from cadran.align.rewards.simple import Ended, Language, Length
from cadran.align.rewards.unit_test import UnitTest
from cadran.align.rewards.user_function import UserFunction
from cadran.errors import UserError

REWARDS: dict[str, type[BuiltIn]] = {
    "exact": Exact,
    "format": Format,
    "regex": Regex,
    "json_schema": JsonSchema,
    "length": Length,
    "language": Language,
    "ended": Ended,
    "unit_test": UnitTest,
    "python": UserFunction,
    "judge": Judge,
    "reward_model": Scored,
}
"""The rewards by their short names."""


def parse_rewards(entries: Sequence[Any], *, scorer: Scorer | None = None) -> list[Weighted]:
    """The rewards of a recipe, each with a name of its own (a second ``regex`` is called ``regex 2``).

    Args:
        entries: see ``parse_reward``.
        scorer: of the reward model, for ``reward_model``.

    Raises:
        UserError: there is none, or one cannot be parsed.
    """
    if isinstance(entries, str | Mapping) or not entries:
        raise UserError(
            "The rewards are a list with one entry at least, such as `- exact: {field: answer}`: correct it."
        )
    found: list[Weighted] = []
    for entry in entries:
        weighted = parse_reward(entry, scorer=scorer)
        taken = {other.reward.name for other in found}
        name, count = weighted.reward.name, 2
        while name in taken:
            name, count = f"{weighted.reward.name} {count}", count + 1
        if name != weighted.reward.name:
            assert isinstance(weighted.reward, BuiltIn)
            weighted = Weighted(weighted.reward.model_copy(update={"name": name}), weighted.weight)
        found.append(weighted)
    return found


def parse_reward(entry: Any, *, scorer: Scorer | None = None) -> Weighted:
    """One reward.

    Args:
        entry: ``{"exact": {"field": "answer"}, "weight": 2.0}``; the weight is 1 unless given. A short name alone, or
            ``{"ended": None}``, leaves all options as they are.
        scorer: of the reward model, for ``reward_model``.

    Raises:
        UserError: the name or a key is unknown (the nearest is named), or a value is wrong.
    """
    entry = {entry: None} if isinstance(entry, str) else entry
    if not isinstance(entry, Mapping):
        raise UserError(f"A reward is a mapping such as `exact: {{field: answer}}`, not {entry!r}: correct it.")
    kinds = [key for key in entry if key != "weight"]
    if len(kinds) != 1:
        named = " and ".join(map(str, kinds)) or "no reward"
        raise UserError(f"One entry of the rewards names {named}: name one of {', '.join(REWARDS)}.")
    kind = str(kinds[0])
    if kind not in REWARDS:
        near = get_close_matches(kind, REWARDS, 1, 0.0)[0]
        raise UserError(f"There is no reward `{kind}`: did you mean `{near}`? (There are {', '.join(REWARDS)}.)")
    weight = number_of(entry.get("weight", 1.0))
    if weight is None or isinstance(entry.get("weight"), bool):
        raise UserError(f"The weight of the reward `{kind}` is {entry['weight']!r}: write a finite number.")
    reward = _configured(kind, entry[kind])
    if isinstance(reward, Scored):
        if scorer is None:
            raise UserError("The reward `reward_model` needs a reward model: add the stage `reward` before this one.")
        reward = reward.with_scorer(scorer)
    return Weighted(reward, weight)


def _configured(kind: str, options: Any) -> BuiltIn:
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise UserError(f"The reward `{kind}` takes options such as `name: {kind}`, not {options!r}: correct it.")
    valid = [field.alias or name for name, field in REWARDS[kind].model_fields.items()]
    for key in options:
        if key not in valid:
            near = get_close_matches(str(key), valid, 1, 0.0)[0]
            raise UserError(f"The reward `{kind}` has no option `{key}`: did you mean `{near}`?")
    try:
        return REWARDS[kind].model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else ""
        if first["type"] == "missing":
            raise UserError(f"The reward `{kind}` needs `{key}:`: add it.") from None
        where = f"`{key}:` of the reward `{kind}`" if key else f"The reward `{kind}`"
        raise UserError(f"{where} is wrong ({first['msg'].removeprefix('Value error, ')}): correct it.") from None
