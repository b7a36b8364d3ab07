"""Preferences with a ground truth, planted in a corpus: what is preferred is true of the document, in its language.

Each wrong answer is the right answer of another row of the same batch, and every answer is used once on either side.
Right and wrong ones then have the very same lengths, words and frequencies, so that nothing but the question tells
them apart: a model that always takes the longer answer, or the commonest topic, gains nothing.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from cadran.align.preference import PreferencePair
from cadran.align.rows import NO_TOPIC, clipped, reading
from cadran.align.small_talk import EXCHANGES
from cadran.corpus.document import Document

TASKS = ("topic", "description")
KINDS = (*TASKS, "language", "small talk")
LANGUAGES = ("en", "fr")
"""Those that questions can be put in."""
ALIKE = 3
"""Characters by which answers in two languages may differ in length."""
TRIES = 50
"""Random partners looked at before all of them are."""

_MAY_FIT = {
    "greeting": "how are you, fine, can, bye",
    "how are you": "fine, can",
    "who": "name, made, language, can, true",
    "can": "true, language",
    "made": "name",
    "thanks": "bye, fine",
}
NEAR = frozenset(frozenset({one, other}) for one, others in _MAY_FIT.items() for other in others.split(", "))
"""Intents of which one's answer may pass for the other's ("Can you help me?" - "I speak English and French")."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question with its right answer; rows that share ``label`` have right answers that may fit each other."""

    question: str
    answer: str
    language: str
    source: str
    label: str


def planted_pairs(
    documents: Iterable[Document], seed: int, characters: int, small_talk: int = 0, count: int | None = None
) -> Iterator[PreferencePair]:
    """Preferences made from articles and small talk.

    Args:
        documents: articles have ``title``, ``extract``, ``topic`` and ``description`` in their meta; others are passed
            over. For held-out pairs give held-out documents.
        seed: of all choices.
        characters: most characters of text quoted in a question.
        small_talk: so many pairs of small talk beside those from articles. It knows few questions: hold some out with
            ``preference.split_pairs``.
        count: most pairs from articles, dealt evenly to kinds and languages; None makes all there are.

    Yields:
        Kinds and languages in turn, as long as each lasts. ``topic`` and ``description``: the article's own against
        another's in the same language. ``language``: the right answer, or one of small talk with the same intent,
        against one in the other language. ``small talk``: an answer that fits against one that does not.
    """
    asked = _asked(documents, seed, characters)
    languages = sorted({language for _, language in asked})
    cells = [(kind, language) for kind in TASKS for language in languages if asked.get((kind, language))]
    two = set(LANGUAGES) <= set(languages)
    share = None if count is None else -(-count // max(1, len(cells) + 2 * two))
    piles: list[list[PreferencePair]] = []
    for kind, language in cells:
        rows = _drawn(asked[kind, language], share, f"{seed} {kind} {language}")
        piles.append(_paired(rows, kind, f"{seed} wrong {kind} {language}", lambda one, other: one == other))
    if two:
        piles.extend(_other_language(asked, share, seed))
    from_articles = _in_turn(piles)
    kept = from_articles if count is None else from_articles[:count]
    yield from _in_turn([kept, list(small_talk_pairs(small_talk, seed))])


def small_talk_pairs(count: int, seed: int) -> Iterator[PreferencePair]:
    """Pairs of small talk, half of them ``small talk`` and half ``language``, half in each language.

    Args:
        count: how many.
        seed: of all choices.
    """
    generator = random.Random(f"{seed} small talk")
    quarter = -(-count // 4)
    common = sorted(set.intersection(*(set(EXCHANGES[language]) for language in LANGUAGES)))
    both: list[tuple[_Asked, ...]] = []
    for _ in range(quarter):
        intent = generator.choice(common)
        both.append(tuple(_small_talk(language, intent, generator) for language in LANGUAGES))
    piles = [[_pair(rows[right], rows[1 - right], "language") for rows in both] for right in (0, 1)]
    for language in LANGUAGES:
        # Evenly from all intents, at least two rows of each, so that every row finds a wrong answer.
        intents = sorted(EXCHANGES[language]) * max(2, -(-quarter // len(EXCHANGES[language])))
        generator.shuffle(intents)
        rows = [_small_talk(language, intent, generator) for intent in intents]
        piles.append(_paired(rows, "small talk", f"{seed} wrong {language}", _may_fit)[:quarter])
    yield from _in_turn(piles)[:count]


def _may_fit(one: str, other: str) -> bool:
    return one == other or frozenset({one, other}) in NEAR


def _small_talk(language: str, intent: str, generator: random.Random) -> _Asked:
    asked, answers = EXCHANGES[language][intent]
    question, answer = generator.choice(asked), generator.choice(answers)
    return _Asked(question, answer, language, f"{intent!r} in {language}", intent)


def _asked(documents: Iterable[Document], seed: int, characters: int) -> dict[tuple[str, str], list[_Asked]]:
    """Questions about articles by task and language."""
    found: dict[tuple[str, str], list[_Asked]] = {}
    generator = random.Random(f"{seed} wording")
    for document in documents:
        meta, language = document.meta, document.language
        pick = generator.randrange(3)
        text = clipped(meta.get("extract", ""), characters)
        if not meta.get("title") or not text or "messages" in meta:
            continue
        for task in TASKS:
            answer = meta.get(task, "").strip()
            if answer not in NO_TOPIC:
                row = _Asked(
                    reading(language, task, text, pick), answer, language, f"the {task} of {document.id}",
                    answer.casefold(),
                )  # fmt: skip
                found.setdefault((task, language), []).append(row)
    return found


def _drawn(rows: Sequence[_Asked], share: int | None, seed: str) -> list[_Asked]:
    return random.Random(seed).sample(rows, len(rows) if share is None else min(share, len(rows)))


def _paired(rows: Sequence[_Asked], kind: str, seed: str, may_fit: Callable[[str, str], bool]) -> list[PreferencePair]:
    """Each row with the answer of another; rows for which there is none are left out, with their own answer."""
    generator = random.Random(seed)
    places = range(len(rows))
    wrong = list(places)
    generator.shuffle(wrong)

    def clash(row: int, answer: int) -> bool:
        return may_fit(rows[row].label, rows[answer].label)

    for row in places:
        if not clash(row, wrong[row]):
            continue
        candidates = [generator.randrange(len(rows)) for _ in range(TRIES)]
        for other in (*candidates, *places):
            if not clash(row, wrong[other]) and not clash(other, wrong[row]):
                wrong[row], wrong[other] = wrong[other], wrong[row]
                break
    return [_pair(rows[row], rows[wrong[row]], kind) for row in places if not clash(row, wrong[row])]


def _other_language(
    asked: dict[tuple[str, str], list[_Asked]], share: int | None, seed: int
) -> list[list[PreferencePair]]:
    """For each language, right answers against those of an article in the other one that are about as long."""
    piles: list[list[list[PreferencePair]]] = [[] for _ in LANGUAGES]
    for task in TASKS:
        drawn = (_drawn(asked.get((task, name), ()), None, f"{seed} {task} {name}") for name in LANGUAGES)
        matched = _matched(*(sorted(rows, key=lambda row: len(row.answer)) for rows in drawn))
        random.Random(f"{seed} order {task}").shuffle(matched)
        half = None if share is None else -(-share // len(TASKS))
        for pile, right in zip(piles, (0, 1), strict=True):
            pile.append([_pair(both[right], both[1 - right], "language") for both in matched[:half]])
    return [_in_turn(pile) for pile in piles]


def _matched(one: list[_Asked], other: list[_Asked]) -> list[tuple[_Asked, _Asked]]:
    """Different answers of about the same length from two lists that are sorted by length, each used once at most."""
    pairs: list[tuple[_Asked, _Asked]] = []
    first = second = 0
    while first < len(one) and second < len(other):
        left, right = one[first], other[second]
        longer = len(left.answer) - len(right.answer)
        alike = abs(longer) <= ALIKE
        if alike and left.label != right.label:
            pairs.append((left, right))
        first += alike or longer < 0
        second += alike or longer > 0
    return pairs


def _pair(right: _Asked, wrong: _Asked, kind: str) -> PreferencePair:
    messages = [{"role": "user", "content": right.question}]
    return PreferencePair(messages, right.answer, wrong.answer, kind, right.language, source=f"{right.source} ({kind})")


def _in_turn(piles: Sequence[Sequence[PreferencePair]]) -> list[PreferencePair]:
    """One of each pile, again and again; those that are exhausted are passed over."""
    return [pair for round_ in zip_longest(*piles) for pair in round_ if pair is not None]
