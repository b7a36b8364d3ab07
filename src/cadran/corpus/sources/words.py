"""The word lists of the synthetic source, read from `words.yaml` beside this file."""

import functools
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

Pair = tuple[str, str]  # (English, French)
Adjective = tuple[str, str, str]  # (English, French masculine, French feminine)
Noun = tuple[str, str, str]  # (English, French, "m" or "f")


@dataclass(frozen=True, slots=True)
class Topic:
    """One subject of articles.

    Attributes:
        label: its name in each language, the ground truth of the topic task.
        category: what all its nouns are.
        person: whether its nouns are people (he, she) rather than things (it).
        nouns: what articles are about.
        facts: predicates that complete "It ..." and "Il ...".
    """

    label: Pair
    category: Noun
    person: bool
    nouns: tuple[Noun, ...]
    facts: tuple[Pair, ...]


@dataclass(frozen=True, slots=True)
class Words:
    """All lists; see the comments in `words.yaml`."""

    topics: tuple[Topic, ...]
    colours: tuple[Adjective, ...]
    tempers: tuple[Adjective, ...]
    qualities: tuple[Adjective, ...]
    places: tuple[str, ...]
    where: tuple[Pair, ...]
    when: tuple[Pair, ...]
    who: tuple[Pair, ...]
    tell: tuple[Pair, ...]


@functools.cache
def load_words() -> Words:
    """The lists, parsed once per process."""
    import yaml

    content = yaml.safe_load(files(__package__).joinpath("words.yaml").read_text(encoding="utf-8"))
    topics = tuple(Topic(**_tuples(topic)) for topic in content.pop("topics"))
    return Words(topics=topics, **_tuples(content))


def _tuples(mapping: dict[str, Any]) -> dict[str, Any]:
    return {name: _frozen(value) for name, value in mapping.items()}


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
