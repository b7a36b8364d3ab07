"""The types of rows that a file can hold, besides ``PreferencePair``, and what was read of a file in all.

The text inside messages is as it was in the file: nothing is stripped. Every row knows where it came from.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from cadran.align.data.messages import Turn
from cadran.align.preference import PreferencePair

Kind = Literal["chat", "preference", "labelled", "verifiable"]


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages to learn the answers of.

    Attributes:
        messages: ``role`` (system, user, assistant, tool), ``content``, and of the assistant ``tool_calls``.
        tools: JSON schemas of the functions that were on offer; None when there were none.
        language: ISO 639-1 code, "und" when it cannot be told.
        source: names the row, e.g. "row 17 of data.jsonl".
    """

    messages: list[Turn]
    tools: list[dict[str, Any]] | None = None
    language: str = "und"
    source: str = ""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A prompt, one answer, and whether the answer is wanted (KTO).

    Attributes:
        messages: the conversation up to the last user turn.
        completion: the answer.
        label: True for an answer to imitate, False for one to avoid.
        language: ISO 639-1 code.
        source: names the row.
    """

    messages: list[Turn]
    completion: str
    label: bool
    language: str = "und"
    source: str = ""


@dataclass(frozen=True, slots=True)
class Verifiable:
    """A prompt and what a reward needs to judge any answer to it (GRPO, PPO).

    Attributes:
        messages: the conversation up to the last user turn.
        reference: the row's other fields; ``answer`` among them where the row has one.
        language: ISO 639-1 code.
        source: names the row.
    """

    messages: list[Turn]
    reference: Mapping[str, Any]
    language: str = "und"
    source: str = ""


Row = Conversation | PreferencePair | Labelled | Verifiable


@dataclass(frozen=True, slots=True)
class Rows:
    """What a file or folder holds.

    Attributes:
        chats: rows of answers to imitate, in the order of the files.
        pairs: preference rows.
        labelled: rows of answers that are marked as wanted or not.
        verifiable: prompts with a reference.
        shape: the one shape of all rows ("alpaca", "messages", ...), or "mixed".
        shapes: for each file, its shapes and the rows that have them.
        refused: a sentence for every row or file that is left out, which it names; in order.
        counts: rows by shape, and ``rows``, ``refused``, ``duplicates``, ``other files``, ``guessed encoding``.
    """

    chats: list[Conversation] = field(default_factory=list)
    pairs: list[PreferencePair] = field(default_factory=list)
    labelled: list[Labelled] = field(default_factory=list)
    verifiable: list[Verifiable] = field(default_factory=list)
    shape: str = ""
    shapes: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def described(self) -> list[str]:
        """What was understood, one sentence a file; of a mixed file, which rows have which shape."""
        sentences = []
        for name, shapes in self.shapes.items():
            if len(shapes) == 1:
                ((shape, numbers),) = shapes.items()
                sentences.append(f"{name}: {len(numbers):,} {shape} rows")
                continue
            parts = [f"{len(numbers):,} {shape} (rows {_listed(numbers)})" for shape, numbers in shapes.items()]
            sentences.append(f"{name} is mixed: {', '.join(parts)}")
        return sentences


def content_of(row: Row) -> dict[str, Any]:
    """All that a row teaches: equal for two rows that differ only in where they came from."""
    return {each.name: getattr(row, each.name) for each in fields(row) if each.name not in ("source", "language")}


def _listed(numbers: list[int], most: int = 8) -> str:
    """Numbers with runs shortened: "1 to 40, 52"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    told = [str(first) if first == last else f"{first} to {last}" for first, last in runs]
    return ", ".join(told[:most]) + (f" and {len(told) - most} more" if len(told) > most else "")
