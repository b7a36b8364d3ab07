"""A row of a table or of a JSON-lines file to text: which of its fields a reader would read, in which order.

A row that has a text is that text. Any other row (a chat, an instruction with its answer, a preference pair) keeps
itself as JSON in meta["row"], so that alignment can convert it later, and its words become the text.
"""

import json
from collections.abc import Mapping
from typing import Any

# Fields that hold prose in the row shapes in use, in reading order. "chosen" stands for the preference pairs; what
# was rejected is not something to learn to write.
_CONVERSATIONS = ("messages", "conversations", "conversation", "chosen")
_PROSE = (
    "system",
    "instruction",
    "prompt",
    "question",
    "input",
    "context",
    "completion",
    "response",
    "output",
    "answer",
)
_SPOKEN = ("content", "value", "text")


def row_text(row: Any, field: str = "text") -> tuple[str, dict[str, str]] | None:
    """Text and meta of one row, or None when it holds nothing that can be read.

    Args:
        row: a decoded JSON object.
        field: the field that holds the text; dots are not interpreted.

    Returns:
        ``(text, {})`` when ``row[field]`` is a string, else ``(its words, {"row": the row as JSON})``.
    """
    if not isinstance(row, Mapping):
        return None
    value = row.get(field)
    if isinstance(value, str):
        return value, {}
    text = _turns(value) or next(filter(None, (_turns(row.get(name)) for name in _CONVERSATIONS)), "")
    if not text:
        parts = [row[name] for name in (*_PROSE, *_CONVERSATIONS) if isinstance(row.get(name), str)]
        text = "\n".join(filter(None, parts))
    if not text:
        return None
    return text, {"row": json.dumps(row, ensure_ascii=False, separators=(",", ":"), default=str)}


def _turns(conversation: Any) -> str:
    """The turns of a chat joined by newlines, "" if it is not one."""
    if not isinstance(conversation, list):
        return ""
    spoken = []
    for turn in conversation:
        said = (
            next((turn[name] for name in _SPOKEN if isinstance(turn.get(name), str)), "")
            if isinstance(turn, Mapping)
            else turn
        )
        if isinstance(said, str) and said:
            spoken.append(said)
    return "\n".join(spoken)
