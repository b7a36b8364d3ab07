import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadran.align.rewards.catalogue import REWARDS, parse_reward, parse_rewards
from cadran.align.rewards.limited import Limited
from cadran.align.rewards.pattern import _split, fits
from cadran.align.rewards.reward import Graded, grade
from cadran.align.rewards.worker import Worker
from cadran.errors import UserError

PERSON = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
QUESTION = [{"role": "user", "content": "Quelle est la capitale de la France, et pourquoi donc ?"}]


def value(entry: Any, answer: str, ended: bool = True, **reference: Any) -> float:
    reward = parse_reward(entry).reward
    try:
        (found,) = reward([Graded(QUESTION, answer, reference, ended)])
    finally:
        if isinstance(reward, Limited):
            reward.close()
    return found


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("exakt", "did you mean `exact`"),
        ({"regexp": {}}, "did you mean `regex`"),
        ({"exact": {"feild": "x"}}, "did you mean `field`"),
        ({"json_schema": {"shema": {}}}, "did you mean `schema`"),
        ({"regex": {}}, "needs `pattern:`"),
        ({"regex": {"pattern": "("}}, "no regular expression"),
        ({"exact": {"tolerance": "much"}}, "`tolerance:`"),
        ({"length": {}}, "minimum, maximum or both"),
        ({"length": {"minimum": 3, "maximum": 2}}, "above"),
        ({"format": {}}, "template or pattern"),
        ({"format": {"template": "{a}{b}"}}, "no text between"),
        ({"format": {"template": "plain"}}, "no {name}"),
        ({"format": {"template": "{a"}}, "cannot be read"),
        ({"format": {"template": "x {a!r}"}}, "no name"),
        ({"json_schema": {"schema": {"type": "objet"}}}, "the schema is none"),
        ({"json_schema": {}}, "schema or field"),
        ({"python": {"function": "nowhere.py:reward"}}, "no file nowhere.py"),
        ({"python": {"function": "nowhere"}}, "path/to/file.py:function"),
        ({"judge": {"url": "ftp://x"}}, "write http://"),
        ({"judge": {"url": "http://me:secret@host/v1"}}, "key_env"),
        ({"reward_model": {}}, "needs a reward model"),
        ({"exact": {}, "weight": "heavy"}, "write a finite number"),
        ({"exact": {}, "weight": math.nan}, "write a finite number"),
        ({"exact": {}, "ended": {}}, "exact and ended"),
        ({"weight": 1}, "no reward"),
        ({"exact": [1]}, "options"),
        (7, "a mapping"),
    ],
)
def test_wrong_entry_is_refused_with_what_to_type(entry: Any, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)) as refused:
        parse_reward(entry)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("entries", [[], None, "exact", {"exact": {}}])
def test_rewards_must_be_a_list_with_something_in_it(entries: Any) -> None:
    with pytest.raises(UserError, match="list"):
        parse_rewards(entries)


def test_second_reward_of_a_kind_gets_a_name_of_its_own() -> None:
    rewards = parse_rewards([{"regex": {"pattern": "a"}}, {"regex": {"pattern": "b"}}, {"regex": {"pattern": "c"}}])
    assert [weighted.reward.name for weighted in rewards] == ["regex", "regex 2", "regex 3"]


def test_reward_model_is_the_function_that_was_handed_over() -> None:
    weighted = parse_reward(
        {"reward_model": {"name": "rm"}}, scorer=lambda graded: [float(len(row.answer)) for row in graded]
    )
    assert grade([weighted], [Graded([], "four", {})]).values["rm"].tolist() == [4.0]


@pytest.mark.parametrize(
    ("template", "answer", "expected"),
    [
        ("<think>{t}</think><answer>{a}</answer>", "<think>hm</think><answer>4</answer>", 1.0),
        ("<think>{t}</think><answer>{a}</answer>", " <think>h\nm</think><answer>4</answer>\n", 1.0),
        ("<think>{t}</think><answer>{a}</answer>", "<think> </think><answer>4</answer>", 0.0),
        ("<think>{t}</think><answer>{a}</answer>", "<think>hm</think><answer>4</answer> and more", 0.0),
        ("<think>{t}</think><answer>{a}</answer>", "<think>a</think><think>b</think><answer>4</answer>", 0.0),
        ("<think>{t}</think><answer>{a}</answer>", "<think>hm</answer><answer>4</think>", 0.0),
        ("Answer: {a}", "Answer: 4", 1.0),
        ("Answer: {a}", "Answer:", 0.0),
        ("{{{a}}}", "{4}", 1.0),
    ],
)
def test_template_must_fit_the_whole_answer(template: str, answer: str, expected: float) -> None:
    assert value({"format": {"template": template}}, answer) == expected


@given(first=st.text(min_size=1), second=st.text(min_size=1))
def test_filled_template_fits_unless_the_filling_is_blank_or_holds_the_marks(first: str, second: str) -> None:
    filled = f"[A]{first}[B]{second}[C]"
    marked = any(mark in text for mark in ("[A]", "[B]", "[C]") for text in (first, second))
    assert fits(filled, _split("[A]{x}[B]{y}[C]")) == (bool(first.strip() and second.strip()) and not marked)


def test_pattern_of_a_format_must_match_from_end_to_end() -> None:
    assert value({"format": {"pattern": r"(?i)yes.*|no"}}, " YES\nsir ") == 1.0
    assert value({"format": {"pattern": r"\d+"}}, "42 or so") == 0.0


def test_regex_is_found_anywhere_or_must_be_absent() -> None:
    assert value({"regex": {"pattern": r"\d+"}}, "about 42 or so") == 1.0
    assert value({"regex": {"pattern": r"^\d+$"}}, "about 42 or so") == 0.0
    assert value({"regex": {"pattern": "sorry", "absent": True}}, "sorry") == 0.0


def test_pattern_that_backtracks_without_end_is_stopped_and_the_reward_works_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ask, endless = Worker.ask, "a" * 60 + "!"

    def patient(self: Worker, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """What ends has all the time that a busy machine takes for it."""
        return ask(self, request, seconds if request.get("text") == endless else 120)

    monkeypatch.setattr(Worker, "ask", patient)
    reward = parse_reward({"regex": {"pattern": r"^(a|aa|a+)+$", "timeout": 0.5}}).reward
    assert isinstance(reward, Limited)
    with pytest.raises(UserError, match=r"`regex` took longer than 0.5 seconds for answer 2 of 2"):
        reward([Graded([], "aaa", {}), Graded([], endless, {})])
    assert reward([Graded([], "aa", {})]) == [1.0]
    reward.close()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"age": 3}', 1.0),
        ('```json\n{"age": 3}\n```', 1.0),
        ('Here: {"age": 3}', 0.0),
        ('{"age": "3"}', 0.0),
        ("{}", 0.0),
        ('{"age": NaN}', 0.0),
        ("[" * 100_000, 0.0),
        ('{"age": ' + "9" * 5000 + "}", 0.0),
        ("", 0.0),
    ],
)
def test_answer_must_be_json_of_the_schema(answer: str, expected: float) -> None:
    pytest.importorskip("jsonschema")
    assert value({"json_schema": {"schema": PERSON}}, answer) == expected


def test_schema_of_the_row_is_used_and_a_remote_reference_is_not_followed() -> None:
    pytest.importorskip("jsonschema")
    assert value({"json_schema": {"field": "form"}}, "3", form='{"type": "integer"}') == 1.0
    with pytest.raises(UserError, match="Unresolvable"):
        value({"json_schema": {"schema": {"$ref": "http://127.0.0.1:9/schema.json"}}}, "3")


@pytest.mark.parametrize(
    ("options", "answer", "expected"),
    [
        ({"maximum": 3}, "one two three", 0.0),
        ({"maximum": 3}, "one two three four", -1.0),
        ({"maximum": 3, "soft": 4}, "one two three four", -0.25),
        ({"maximum": 3, "soft": 4}, "word " * 50, -1.0),
        ({"minimum": 2, "soft": 2}, "one", -0.5),
        ({"minimum": 2, "maximum": 4, "unit": "characters"}, " abcd ", 0.0),
    ],
)
def test_length_outside_the_range_costs_up_to_one(options: dict[str, Any], answer: str, expected: float) -> None:
    assert value({"length": options}, answer) == expected


def test_answer_must_be_in_the_language_of_the_question() -> None:
    french = "La capitale de la France est Paris, une ville sur la Seine."
    english = "The capital of France is Paris, a city on the river Seine."
    assert value("language", french) == 1.0
    assert value("language", english) == 0.0
    assert value("language", english, language="en") == 1.0
    assert value({"language": {"language": "en"}}, french) == 0.0
    assert value("language", "Paris") == 0.0


def test_cut_answer_is_punished() -> None:
    assert value("ended", "and then", ended=False) == -1.0
    assert value({"ended": {"penalty": -0.5}}, "and then", ended=False) == -0.5
    assert value("ended", "The end.") == 0.0


@pytest.fixture(scope="module")
def every_rule() -> Any:
    rewards = parse_rewards(
        [
            "exact",
            {"exact": {"number": True, "tolerance": 0.01}},
            "ended",
            "language",
            {"format": {"template": "<a>{x}</a>"}},
            {"format": {"pattern": "a+"}},
            {"regex": {"pattern": r"\w+"}},
            {"length": {"minimum": 2, "maximum": 5, "soft": 2.5}},
            {"json_schema": {"schema": PERSON}},
        ]
    )
    yield rewards
    for weighted in rewards:
        if isinstance(weighted.reward, Limited):
            weighted.reward.close()


@given(
    answer=st.one_of(
        st.text(),
        st.text(alphabet=st.characters(categories=["Cs", "Cc", "Zs", "Nd", "No"])),
        st.text(alphabet='{}[]":,0123456789.eE+-/\\boxed# \n'),
    )
)
def test_no_answer_makes_a_rule_raise_or_return_what_is_not_finite(every_rule: Any, answer: str) -> None:
    grades = grade(every_rule, [Graded(QUESTION, answer, {"answer": "42"})])
    assert all(math.isfinite(number) for numbers in grades.values.values() for number in numbers.tolist())


def test_every_short_name_is_the_name_of_its_figures() -> None:
    assert all(kind.model_fields["name"].default == name for name, kind in REWARDS.items())
