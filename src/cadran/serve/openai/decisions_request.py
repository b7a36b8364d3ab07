"""Requests for decisions, in the form of OpenAI and in that of Ollama, and what they ask. Source: api-contracts 4."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr

from cadran.serve.api_error import ApiError
from cadran.serve.asked import Message
from cadran.serve.openai.responses_items import joined, messages_of, read_items

Text = str | list[Any]
MOST_CANDIDATES = 255


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the model.

    Attributes:
        text: the question, which ends with what may be answered.
        candidates: all possible answers.
    """

    text: str
    candidates: tuple[str, ...]


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=())


class Predicate(_Open):
    """Whether a statement holds."""

    type: Literal["predicate"]
    instructions: Text
    name: str | None = None

    def question(self, field: str) -> Question:
        """What it means."""
        return yes_or_no(joined(self.instructions, f"{field}.instructions"))


class ChoiceValue(_Open):
    """One of the options; the string ``true`` and the boolean are two."""

    value: StrictBool | StrictStr
    description: str | None = None

    @property
    def text(self) -> str:
        """As the model would say it."""
        return self.value if isinstance(self.value, str) else "true" if self.value else "false"


class Choice(_Open):
    """Which option fits."""

    type: Literal["choice"]
    instructions: Text
    choices: list[ChoiceValue] = Field(min_length=2, max_length=MOST_CANDIDATES)
    name: str | None = None

    def question(self, field: str) -> Question:
        """What it means.

        Raises:
            ApiError: two options are one.
        """
        if len({(type(choice.value), choice.value) for choice in self.choices}) < len(self.choices):
            raise ApiError("invalid", "a value is given twice; leave one out", param=f"{field}.choices")
        options = [(choice.text, choice.description) for choice in self.choices]
        return one_of(joined(self.instructions, f"{field}.instructions"), options)


class Level(_Open):
    """A step of a scale."""

    label: str
    description: str | None = None


class Score(_Open):
    """Where on a scale."""

    type: Literal["score"]
    instructions: Text
    levels: list[Level] = Field(min_length=2, max_length=MOST_CANDIDATES)
    name: str | None = None

    def question(self, field: str) -> Question:
        """What it means."""
        levels = [f"{level.label}: {level.description}" if level.description else level.label for level in self.levels]
        return on_scale(joined(self.instructions, f"{field}.instructions"), levels)


class DecisionsRequest(_Open):
    """The body of ``POST /v1/decisions``."""

    model: str = ""
    input: str | list[Any]
    questions: list[Annotated[Predicate | Choice | Score, Field(discriminator="type")]] = Field(
        min_length=1, max_length=400
    )

    def messages(self) -> list[Message]:
        """What all questions are about.

        Raises:
            ApiError: an item is of an unknown type, or no text.
        """
        return messages_of(read_items(self.input, lambda prefix: prefix))


class Noul(_Open):
    """Whether a statement holds."""

    type: Literal["noul"]
    instructions: Any = ""
    criteria: dict[str, str] | None = None

    def question(self) -> Question:
        """What it means."""
        criteria = self.criteria or {}
        said = {"yes": criteria.get("true"), "no": criteria.get("false")}
        told = "".join(f"\n{answer}: {meaning}" for answer, meaning in said.items() if meaning)
        return yes_or_no(rendered(self.instructions) + told)


class SystemOneChoice(_Open):
    """Which option fits; a description may be null."""

    type: Literal["choice"]
    instructions: Any = ""
    criteria: dict[str, str | None] = Field(min_length=1, max_length=MOST_CANDIDATES)

    def question(self) -> Question:
        """What it means."""
        return one_of(rendered(self.instructions), list(self.criteria.items()))


class SystemOneScore(_Open):
    """Where on a scale."""

    type: Literal["score"]
    instructions: Any = ""
    criteria: list[str] = Field(min_length=1, max_length=MOST_CANDIDATES)

    def question(self) -> Question:
        """What it means."""
        return on_scale(rendered(self.instructions), self.criteria)


class SystemOneRequest(_Open):
    """The body of ``POST /v1/systemone``."""

    model: str = ""
    state: str | dict[str, Any] | list[Any]
    questions: dict[str, Annotated[Noul | SystemOneChoice | SystemOneScore, Field(discriminator="type")]] = Field(
        min_length=1, max_length=400
    )

    def messages(self) -> list[Message]:
        """What all questions are about."""
        return [{"role": "user", "content": rendered(self.state)}]


def rendered(content: Any) -> str:
    """A text as it is, anything else as JSON."""
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def yes_or_no(statement: str) -> Question:
    """Whether a statement about the input holds; the first candidate is that it does."""
    return Question(f"Is this true of the above?\n{statement}\nAnswer with yes or no and nothing else.", ("yes", "no"))


def one_of(instructions: str, options: Sequence[tuple[str, str | None]]) -> Question:
    """Which option fits."""
    listed = "".join(f"\n- {value}: {meaning}" if meaning else f"\n- {value}" for value, meaning in options)
    text = f"{instructions}\nAnswer with one of these options and nothing else:{listed}"
    return Question(text, tuple(value for value, _ in options))


def on_scale(instructions: str, levels: Sequence[str]) -> Question:
    """Which level fits; levels are answered by number, because labels may be long or alike."""
    listed = "".join(f"\n{number}: {level}" for number, level in enumerate(levels))
    text = f"{instructions}\nAnswer with the number of one of these levels and nothing else:{listed}"
    return Question(text, tuple(str(number) for number in range(len(levels))))


def asked_about(messages: Sequence[Message], question: Question) -> tuple[Message, ...]:
    """The conversation that ends with a question; all questions on one input begin with the same tokens.

    Many templates refuse two turns of one role in a row, so a question joins the last turn of the user.
    """
    if messages and messages[-1]["role"] == "user":
        last = dict(messages[-1])
        last["content"] = f"{last['content']}\n\n{question.text}"
        return (*messages[:-1], last)
    return (*messages, {"role": "user", "content": question.text})
