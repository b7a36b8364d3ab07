"""Chat rows with a ground truth, made from documents: definition of a title, one-line description, topic of a text.

An article becomes short conversations in its own language, so that the model answers in the language of the
question. A document that is no article becomes a text to continue. Chats are taken as they are.
"""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from cadran.corpus.document import Document

Message = dict[str, str]

PROMPTS: dict[str, dict[str, tuple[str, ...]]] = {
    "en": {
        "topic": ("What is the topic of this text?", "Give the topic of the following text.", "Which topic is this?"),
        "description": ("Describe it in one line.", "Sum it up in a few words.", "In one line, what is it about?"),
        "definition": ("What is {title}?", "Tell me about {title}.", "Define {title}."),
        "continuation": ("Continue this text.",),
    },
    "fr": {
        "topic": ("Quel est le thème de ce texte ?", "Donne le thème du texte suivant.", "De quel thème s'agit-il ?"),
        "description": ("Décris-le en une ligne.", "Résume en quelques mots.", "En une ligne, qu'est-ce que c'est ?"),
        "definition": ("Qu'est-ce que {title} ?", "Parle-moi de {title}.", "Définis {title}."),
        "continuation": ("Continue ce texte.",),
    },
}  # fmt: skip
"""Questions by language and task; the first of each is the one asked in evaluation."""

NO_TOPIC = frozenset({"", "Uncategorized"})
SENTENCE_END = re.compile(r"(?<=[\w)\]»\"'’]{3}[.!?…])[\s\u00a0]+(?=[\"«(\w])")
"""White space after a full stop that ends three characters of a word: "M. Dupont" and "Dr. Smith" are not cut."""

SHORTEST_ANSWER = 40


@dataclass(frozen=True, slots=True)
class ChatRow:
    """One conversation to learn from.

    Attributes:
        messages: ``role`` and ``content``.
        language: ISO 639-1 code.
        task: ``definition``, ``reading`` (topic and description), ``continuation`` or ``chat``.
        source: id of the document it was made from, to name it in an error.
    """

    messages: list[Message]
    language: str
    task: str
    source: str


def first_sentence(text: str) -> str:
    """The first sentence of at least ``SHORTEST_ANSWER`` characters ."""
    for match in SENTENCE_END.finditer(text):
        if match.start() >= SHORTEST_ANSWER:
            return text[: match.start()].strip()
    return text.strip()


def clipped(text: str, characters: int) -> str:
    """The beginning of a text, at most so many characters, ending at a sentence or else at a word."""
    if len(text) <= characters:
        return text.strip()
    ends = [match.start() for match in SENTENCE_END.finditer(text) if match.start() <= characters]
    if ends and ends[-1] >= characters // 3:
        return text[: ends[-1]].strip()
    return text[:characters].rsplit(maxsplit=1)[0].strip()


def question(language: str, task: str, pick: int = 0, **values: str) -> str:
    """A question in a language (English where we have none), e.g. ``question("fr", "topic")``."""
    choices = PROMPTS.get(language, PROMPTS["en"])[task]
    return choices[pick % len(choices)].format(**values)


def reading(language: str, task: str, text: str, pick: int = 0) -> str:
    """A question about a text that is given before it.

    The question comes last: a small model that meets it first has forgotten it by the end of the text (LAB.md).
    """
    return f"{text}\n\n{question(language, task, pick)}"


def article_rows(document: Document, generator: random.Random, characters: int) -> Iterator[ChatRow]:
    """Rows of one document that is not a chat.

    Args:
        document: with ``title``, ``extract``, ``description``, ``topic`` in its meta, or plain text.
        generator: chooses the wording; use ``random.Random(seed)``.
        characters: most characters of text quoted in a question.
    """
    meta, language = document.meta, document.language
    pick, order = int(generator.random() * 3), generator.random()
    extract = meta.get("extract", "")
    if not meta.get("title") or not extract:
        yield from _continuation(document, characters)
        return
    definition = first_sentence(extract)
    turns = [(question(language, "definition", pick, title=meta["title"]), clipped(definition, characters))]
    yield _row(turns, document, "definition")
    text = clipped(extract, characters)
    asked: list[tuple[str, str]] = []
    if meta.get("topic", "") not in NO_TOPIC:
        asked.append(("topic", meta["topic"]))
    if meta.get("description"):
        asked.append(("description", meta["description"]))
    if order < 0.5:
        asked.reverse()
    turns = [
        (reading(language, task, text, pick) if not index else question(language, task, pick), answer)
        for index, (task, answer) in enumerate(asked)
    ]
    if turns:
        yield _row(turns, document, "reading")


def _continuation(document: Document, characters: int) -> Iterator[ChatRow]:
    text = clipped(document.text, 2 * characters)
    words = text.split(" ")
    if len(words) < 8:
        return
    half = len(words) // 2
    asked = f"{question(document.language, 'continuation')}\n{' '.join(words[:half])}"
    yield _row([(asked, " ".join(words[half:]))], document, "continuation")


def _row(turns: list[tuple[str, str]], document: Document, task: str) -> ChatRow:
    messages = [
        message
        for asked, answer in turns
        for message in ({"role": "user", "content": asked}, {"role": "assistant", "content": answer})
    ]
    return ChatRow(messages, document.language, task, document.id)


def chat_row(document: Document) -> ChatRow | None:
    """The conversation of a chat document, from its first user turn to its last answer; None when there is none."""
    messages = json.loads(document.meta["messages"])
    while messages and messages[0]["role"] != "user":
        del messages[0]
    while messages and messages[-1]["role"] != "assistant":
        del messages[-1]
    return ChatRow(messages, document.language, "chat", document.id) if messages else None
