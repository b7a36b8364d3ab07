"""Articles and chats in English and French made from word lists: text for tests and for a pipeline without network.

Nothing in it is true. It has what a tiny model can learn (agreement, elision, accents, topics that follow from
nouns) and the meta fields of real articles, so that every stage downstream finds what it expects.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

from pydantic import Field

from cadran.corpus.sources.source import RawDocument, Source, SourceRecord
from cadran.corpus.sources.words import Adjective, load_words

_Item = TypeVar("_Item")
_CHAT_EVERY = 5
_VOWELS = frozenset("aeiouéèêàâîôœ")


class SyntheticSource(Source):
    """A number of generated documents, English and French in turn, every fifth one a chat.

    Attributes:
        synthetic: how many documents.
        seed: of the generator; the first documents of a longer corpus with the same seed are the same.
    """

    kind: ClassVar[str] = "synthetic"

    synthetic: Annotated[int, Field(ge=1)]
    seed: int = 0
    licence: str = "CC0-1.0"

    def documents(self, cache: Path, counts: Counter[str] | None = None) -> Iterator[RawDocument]:
        """The generated documents; a pure function of their number and the seed. See `Source.documents`."""
        # Only Random.random() is used: its sequence for a given integer seed is promised for all Python versions,
        # which is not true of choice() or shuffle().
        generator = random.Random(self.seed)
        for index in range(self.synthetic):
            subject = _Subject(generator, "fr" if index % 2 else "en")
            chat = index % _CHAT_EVERY == _CHAT_EVERY - 1
            text, meta = _chat(subject) if chat else _article(subject)
            yield RawDocument(str(index), text, subject.language, meta)

    def fingerprint(self, cache: Path) -> SourceRecord:
        """Record of the generated texts; see `Source.fingerprint`."""
        digest = hashlib.sha256()
        size = 0
        for document in self.documents(cache):
            line = json.dumps([document.key, document.text, document.meta], ensure_ascii=False, sort_keys=True)
            digest.update(f"{line}\n".encode())
            size += len(document.text.encode())
        locator = f"{self.synthetic} generated documents, seed {self.seed}"
        return SourceRecord(self.name, self.kind, locator, self.licence, digest.hexdigest(), size)


class _Subject:
    """What one document is about, with the words and agreements of its language ready to be put into sentences."""

    def __init__(self, generator: random.Random, language: str) -> None:
        self._generator = generator
        self.language = language
        self._tongue = 0 if language == "en" else 1
        words = self._words = load_words()
        topic = self.pick(words.topics)
        self.topic = topic.label[self._tongue]
        self._facts = topic.facts
        english, french, gender = self.pick(topic.nouns)
        adjective = self.pick(words.tempers if topic.person else words.colours)
        quality = self.pick(words.qualities)
        place = self.pick(words.places)
        if language == "en":
            noun = f"{adjective[0]} {english}"
            category = f"{quality[0]} {topic.category[0]}"
            self.title = f"{noun.capitalize()} of {place}"
            self.the = f"the {noun}"
            self.description = f"{category} of {place}"
            self.a_description = f"{'an' if category[0] in _VOWELS else 'a'} {self.description}"
            self.he, self.him = {"m": ("he", "him"), "f": ("she", "her")}[gender] if topic.person else ("it", "it")
        else:
            noun = f"{french} {_agree(adjective, gender)}"
            category = f"{topic.category[1]} {_agree(quality, topic.category[2])}"
            self.title = f"{noun.capitalize()} {_elide('de', place)}"
            self.the = _elide("la" if gender == "f" else "le", noun)
            self.description = f"{category} {_elide('de', place)}"
            self.a_description = f"{'une' if topic.category[2] == 'f' else 'un'} {self.description}"
            self.he = "elle" if gender == "f" else "il"
            self.him = "la" if gender == "f" else "le"

    def pick(self, items: Sequence[_Item]) -> _Item:
        """One of ``items``, by the generator."""
        return items[int(self._generator.random() * len(items))]

    def chance(self, probability: float) -> bool:
        """True with that probability."""
        return self._generator.random() < probability

    def year(self) -> int:
        """A year between 1500 and 1999."""
        return 1500 + int(self._generator.random() * 500)

    def fact(self) -> str:
        """What it does: "grows slowly"."""
        return self.pick(self._facts)[self._tongue]

    def where(self) -> str:
        return self.pick(self._words.where)[self._tongue]

    def when(self) -> str:
        return self.pick(self._words.when)[self._tongue]

    def told(self) -> str:
        """Who speaks of it, a whole clause: "painters mention it", "les peintres la mentionnent"."""
        who, tell = self.pick(self._words.who)[self._tongue], self.pick(self._words.tell)[self._tongue]
        return f"{who} {tell} {self.him}" if self.language == "en" else f"{who} {_elide(self.him, tell)}"


def _article(subject: _Subject) -> tuple[str, dict[str, str]]:
    """Text and meta of an article: a definition, then up to two more sentences."""
    french = subject.language == "fr"
    sentences = [f"{subject.the} {'est' if french else 'is'} {subject.a_description}"]
    if subject.chance(0.8):
        order = int(subject.chance(0.5))
        place, time = subject.where(), subject.when()
        clause = f"{subject.he} {subject.fact()} {place}"
        sentences.append(f"{time}, {clause}" if order else f"{clause} {time}")
    if subject.chance(0.6):
        told, year = subject.told(), subject.year()
        begin = f"{'comme en' if french else 'as in'} {year}, " if subject.chance(0.5) else ""
        sentences.append(f"{begin}{told}")
    extract = " ".join(f"{_sentence(sentence)}." for sentence in sentences)
    meta = {
        "title": subject.title,
        "description": _sentence(subject.description),
        "topic": subject.topic,
        "extract": extract,
    }
    return f"{subject.title}\n\n{extract}", meta


def _chat(subject: _Subject) -> tuple[str, dict[str, str]]:
    """Text and meta of a chat of one to three exchanges about the subject."""
    the, he = subject.the, subject.he
    exchanges = (
        _french_exchanges(subject, the, he) if subject.language == "fr" else _english_exchanges(subject, the, he)
    )
    chosen = [exchange for exchange in exchanges[1:] if subject.chance(0.5)]
    turns = [_sentence(turn) for exchange in [exchanges[0], *chosen] for turn in exchange]
    messages = [{"role": "assistant" if index % 2 else "user", "content": turn} for index, turn in enumerate(turns)]
    meta = {
        "messages": json.dumps(messages, ensure_ascii=False, separators=(",", ":")),
        "rating": f"{1 + int(subject.year() % 10)}.00",
    }
    return "\n".join(turns), meta


def _english_exchanges(subject: _Subject, the: str, he: str) -> list[tuple[str, str]]:
    ask = subject.pick(("Do you know", "Have you heard of", "Can you tell me about", "What do you know about"))
    return [
        (f"{ask} {the}?", f"Yes, {he} is {subject.a_description}."),
        (f"Where can {he} be seen?", f"{subject.where()}, most often {subject.when()}."),
        (f"And what is special about {subject.him}?", f"{he} {subject.fact()} {subject.when()}."),
        ("Who speaks of this?", f"{subject.told()}, as in {subject.year()}."),
    ]


def _french_exchanges(subject: _Subject, the: str, he: str) -> list[tuple[str, str]]:
    ask = subject.pick(("Connaissez-vous", "As-tu déjà vu", "Peux-tu me décrire", "Tu connais"))
    return [
        (f"{ask} {the}\u00a0?", f"Oui, c'est {subject.a_description}."),
        (f"Où peut-on {_elide(subject.him, 'observer')}\u00a0?", f"{subject.where()}, surtout {subject.when()}."),
        (f"Et que fait-{he}\u00a0?", f"{he} {subject.fact()} {subject.when()}."),
        ("Qui en parle\u00a0?", f"{subject.told()}, comme en {subject.year()}."),
    ]


def _agree(adjective: Adjective, gender: str) -> str:
    return adjective[2] if gender == "f" else adjective[1]


def _elide(word: str, following: str) -> str:
    """ "le" or "de" before a word: "le chêne", "l'orme", "d'Arlen"."""
    return f"{word[:-1]}'{following}" if following[0].lower() in _VOWELS else f"{word} {following}"


def _sentence(text: str) -> str:
    """With its first letter in upper case and the rest untouched."""
    return text[0].upper() + text[1:]
