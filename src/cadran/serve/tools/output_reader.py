"""What an answer consists of while it grows: reasoning, text and tool calls, told apart piece by piece."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Thought:
    """A piece of reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class Said:
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class Called:
    """A call begins; calls of an answer are numbered from 0 in order."""

    name: str


@dataclass(frozen=True, slots=True)
class Argued:
    """A piece of the JSON text of the arguments of the call that began last."""

    fragment: str


@dataclass(frozen=True, slots=True)
class Hung:
    """The call that began last is complete, its arguments are a JSON object."""


Piece = Thought | Said | Called | Argued | Hung


class OutputReader(Protocol):
    """Reads one answer. The pieces joined are the same however the text was cut."""

    @property
    def thinking(self) -> bool:
        """Whether what comes now is reasoning."""
        ...

    def push(self, text: str) -> list[Piece]:
        """What new text makes certain; what may be the beginning of a mark waits."""
        ...

    def end(self) -> list[Piece]:
        """What was waiting, when no more text comes. A call that was cut in the middle stays without its ``Hung``."""
        ...


class PlainReader:
    """Reads an answer of a model that neither thinks aloud nor calls tools."""

    thinking = False

    def push(self, text: str) -> list[Piece]:
        """See ``OutputReader``."""
        return [Said(text)] if text else []

    def end(self) -> list[Piece]:
        """See ``OutputReader``."""
        return []
