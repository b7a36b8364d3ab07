"""Planted preferences: the chosen answer is true, the rejected one is not, and nothing but the question tells which."""

from collections import Counter
from statistics import fmean

import pytest

from cadran.align.planted import ALIKE, NEAR, planted_pairs, small_talk_pairs
from cadran.align.preference import PreferencePair, checked
from cadran.align.small_talk import EXCHANGES
from cadran.corpus.document import Document

TOPICS = {"en": ["People"] * 4 + ["Geography"] * 3 + ["Biology and health sciences"] * 3,
          "fr": ["Personnalités"] * 4 + ["Science"] * 3 + ["Vie quotidienne"] * 3}  # fmt: skip
NOUNS = {"en": "river mountain English footballer small mammal of the north", "fr": "fleuve montagne footballeur petit"}


def article(language: str, number: int, **changes: str) -> Document:
    extract = f"{language} {number} is the subject of this text."
    words = NOUNS[language].split()
    meta = {
        "title": f"Title {number}", "extract": extract, "topic": TOPICS[language][number % 10],
        "description": f"{language} {' '.join(words[: 1 + number % len(words)])} {number % 7}",
    }  # fmt: skip
    return Document(f"{language}{number}", extract, "wiki", language, meta | changes)


ARTICLES = [article(language, number) for number in range(120) for language in ("en", "fr")]
BY_EXTRACT = {document.meta["extract"]: document for document in ARTICLES}


def of(pair: PreferencePair) -> Document:
    return BY_EXTRACT[pair.messages[0]["content"].split("\n\n")[0]]


@pytest.fixture(scope="module")
def pairs() -> list[PreferencePair]:
    return list(planted_pairs(ARTICLES, seed=0, characters=360))


def of_kind(pairs: list[PreferencePair], kind: str, language: str) -> list[PreferencePair]:
    return [pair for pair in pairs if (pair.kind, pair.language) == (kind, language)]


def test_every_pair_can_be_learnt_from(pairs: list[PreferencePair]) -> None:
    assert len(pairs) > 600
    assert all(checked(pair) is pair for pair in pairs)
    assert len({pair.source for pair in pairs}) == len({(p.source, p.messages[0]["content"]) for p in pairs})


def test_the_chosen_answer_is_the_articles_own_and_the_rejected_one_is_not(pairs: list[PreferencePair]) -> None:
    for kind in ("topic", "description"):
        for language in ("en", "fr"):
            known = {document.meta[kind] for document in ARTICLES if document.language == language}
            for pair in of_kind(pairs, kind, language):
                assert pair.chosen == of(pair).meta[kind] != pair.rejected
                assert pair.rejected in known


def test_the_answer_in_another_language_is_of_the_other_language(pairs: list[PreferencePair]) -> None:
    for language, other in (("en", "fr"), ("fr", "en")):
        theirs = {d.meta[task] for d in ARTICLES if d.language == other for task in ("topic", "description")}
        found = of_kind(pairs, "language", language)
        assert len(found) > 20
        for pair in found:
            assert of(pair).language == language
            assert pair.chosen in (of(pair).meta["topic"], of(pair).meta["description"])
            assert pair.rejected in theirs


def test_each_answer_is_as_often_wrong_as_right_so_that_length_and_frequency_give_nothing_away(
    pairs: list[PreferencePair],
) -> None:
    for kind in ("topic", "description"):
        for language in ("en", "fr"):
            found = of_kind(pairs, kind, language)
            assert len(found) == 120
            assert Counter(pair.chosen for pair in found) == Counter(pair.rejected for pair in found)
    both = [pair for pair in pairs if pair.kind == "language"]
    assert Counter(pair.chosen for pair in both) == Counter(pair.rejected for pair in both)
    assert all(abs(len(pair.chosen) - len(pair.rejected)) <= ALIKE for pair in both)


def test_a_count_is_dealt_evenly_to_kinds_and_languages() -> None:
    found = Counter((p.kind, p.language) for p in planted_pairs(ARTICLES, 0, 360, count=240))
    assert found == {(k, g): 40 for k in ("topic", "description", "language") for g in ("en", "fr")}
    assert Counter(p.kind for p in planted_pairs(ARTICLES, 0, 360, small_talk=40, count=60))["small talk"] == 20


def test_the_beginning_of_the_pairs_is_balanced_too(pairs: list[PreferencePair]) -> None:
    assert set(Counter((p.kind, p.language) for p in pairs[:120]).values()) == {20}


def test_pairs_depend_on_the_seed_alone(pairs: list[PreferencePair]) -> None:
    assert list(planted_pairs(iter(ARTICLES), 0, 360)) == pairs
    other = list(planted_pairs(ARTICLES, 1, 360))
    assert other != pairs and len(other) == len(pairs)


def test_a_topic_of_more_than_half_of_the_articles_is_still_never_its_own_wrong_answer() -> None:
    documents = [article("en", n, topic="People" if n % 4 else f"Topic {n % 3}") for n in range(80)]
    found = [pair for pair in planted_pairs(documents, 0, 360) if pair.kind == "topic"]
    assert len(found) == 40  # each of the 20 others once against the majority, and the other way round
    assert all(pair.chosen != pair.rejected for pair in found)
    assert Counter(p.chosen for p in found) == Counter(p.rejected for p in found)
    alone = [article("en", n, topic="People", description="") for n in range(5)]
    assert list(planted_pairs(alone, 0, 360)) == []


def test_answers_that_differ_in_case_alone_are_no_preference() -> None:
    documents = [article("en", n, description="American actor" if n % 2 else "american Actor") for n in range(6)]
    assert not [pair for pair in planted_pairs(documents, 0, 360) if pair.kind == "description"]


def test_one_language_gives_no_pairs_about_the_language() -> None:
    kinds = Counter(pair.kind for pair in planted_pairs(ARTICLES[::2], 0, 360, count=100))
    assert kinds == {"topic": 50, "description": 50}


def test_what_is_no_article_or_has_no_truth_is_passed_over() -> None:
    documents = [
        article("en", 1, messages="[]"), article("en", 2, extract=""), article("en", 3, title=""),
        article("en", 4, topic="Uncategorized", description=""), Document("x", "text", "folder", "en", {}),
    ]  # fmt: skip
    assert list(planted_pairs(documents, 0, 360)) == []


def test_long_articles_are_quoted_in_part() -> None:
    long = [article("en", n, extract=f"word{n} " * 200) for n in range(20)]
    found = list(planted_pairs(long, 0, 100))
    assert found and all(len(p.messages[0]["content"].split("\n\n")[0]) <= 100 for p in found)


def intents(language: str, text: str, place: int) -> set[str]:
    return {intent for intent, exchange in EXCHANGES[language].items() if text in exchange[place]}


def test_small_talk_prefers_what_fits_to_what_cannot() -> None:
    found = [pair for pair in small_talk_pairs(400, 0) if pair.kind == "small talk"]
    assert Counter(pair.language for pair in found) == {"en": 100, "fr": 100}
    for pair in found:
        asked = intents(pair.language, pair.messages[0]["content"], 0)
        wrong = intents(pair.language, pair.rejected, 1)
        assert asked & intents(pair.language, pair.chosen, 1)
        assert asked and wrong and not asked & wrong
        assert not any(frozenset({one, other}) in NEAR for one in asked for other in wrong)


def test_small_talk_in_the_wrong_language_says_the_same() -> None:
    found = [pair for pair in small_talk_pairs(400, 0) if pair.kind == "language"]
    assert Counter(pair.language for pair in found) == {"en": 100, "fr": 100}
    for pair in found:
        other = "fr" if pair.language == "en" else "en"
        asked = intents(pair.language, pair.messages[0]["content"], 0)
        assert asked & intents(pair.language, pair.chosen, 1) & intents(other, pair.rejected, 1)


@pytest.mark.parametrize("count", [0, 1, 2, 5, 40, 401])
def test_small_talk_gives_as_many_as_were_asked_for(count: int) -> None:
    found = list(small_talk_pairs(count, 3))
    assert len(found) == count and all(checked(pair) for pair in found)
    assert found == list(small_talk_pairs(count, 3))


def test_small_talks_right_answers_are_as_long_as_its_wrong_ones() -> None:
    found = list(small_talk_pairs(2000, 0))
    for kind in ("small talk", "language"):
        lengths = [(len(p.chosen), len(p.rejected)) for p in found if p.kind == kind]
        assert abs(fmean(c - r for c, r in lengths)) < 0.03 * fmean(c for c, _ in lengths)
    assert all(frozenset(pair) <= set(EXCHANGES["en"]) for pair in NEAR)
