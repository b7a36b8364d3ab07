"""How the data file inside a wheel becomes documents: one function per layout.

`articles`: encyclopaedia summaries, a JSON object id -> {title, extract, description, topic}.
`chitchat`: human-human chats, a JSON object id -> {messages: [[{text, sender}, ...], ...], ratings, prompt}.
"""

import json
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

from cadran.corpus.sources.source import RawDocument

_ROLES = ("user", "assistant")


def articles(content: bytes, language: str) -> Iterator[RawDocument]:
    """One document per article: its title, an empty line, its extract; the four fields stay in meta."""
    for key, article in json.loads(content).items():
        fields = {name: str(article.get(name) or "") for name in ("title", "description", "topic", "extract")}
        yield RawDocument(key, f"{fields['title']}\n\n{fields['extract']}", language, fields)


def chitchat(content: bytes, language: str) -> Iterator[RawDocument]:
    """One document per chat that has at least two turns; what one person sends in a row is one turn.

    meta["messages"] is a JSON list of {role, content}, user first, alternating; meta["rating"] the mean of the marks
    the chat was given (1 to 10, two decimals); meta["prompt"] the subject that was proposed.
    """
    for key, chat in json.loads(content).items():
        sent = [message for group in chat["messages"] for message in group if message["text"].strip()]
        turns = [
            " ".join(" ".join(message["text"].split()) for message in group)
            for _, group in groupby(sent, key=lambda message: message["sender"])
        ]
        if len(turns) < 2:
            continue
        messages = [{"role": _ROLES[index % 2], "content": turn} for index, turn in enumerate(turns)]
        meta = {"messages": json.dumps(messages, ensure_ascii=False, separators=(",", ":"))}
        marks = [mark for mark in _marks(chat.get("ratings")) if mark is not None]
        if marks:
            meta["rating"] = f"{sum(marks) / len(marks):.2f}"
        if chat.get("prompt"):
            meta["prompt"] = str(chat["prompt"])
        yield RawDocument(key, "\n".join(turns), language, meta)


def _marks(ratings: Any) -> list[Any]:
    return list(ratings.values()) if isinstance(ratings, dict) else []


READERS: dict[str, Callable[[bytes, str], Iterator[RawDocument]]] = {"articles": articles, "chitchat": chitchat}
