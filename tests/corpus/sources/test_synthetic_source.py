"""The synthetic source: a pure function of its size and seed, shaped like the real sources."""

import hashlib
import json
import re
import unicodedata

import pytest

from cadran.corpus.deduplicate import near_duplicates
from cadran.corpus.language import identify
from cadran.corpus.normalise import normalise
from cadran.corpus.sources.synthetic import SyntheticSource
from cadran.corpus.sources.words import load_words


def make(count: int, seed: int, tmp_path):
    return list(SyntheticSource(synthetic=count, seed=seed).documents(tmp_path))


def test_same_number_and_seed_give_the_same_documents(tmp_path):
    assert make(200, 7, tmp_path) == make(200, 7, tmp_path)
    assert make(200, 7, tmp_path) == make(300, 7, tmp_path)[:200]
    assert make(200, 7, tmp_path) != make(200, 8, tmp_path)


def test_the_documents_are_these(tmp_path):
    """Golden: the same on every Python version; changing the generator changes every run made from it."""
    text = "\n".join(document.text for document in make(50, 1, tmp_path))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "43793f4ff05a5831"


def test_languages_alternate_and_every_fifth_is_a_chat(tmp_path):
    documents = make(100, 3, tmp_path)
    assert [document.language for document in documents] == ["en", "fr"] * 50
    for index, document in enumerate(documents):
        assert ("messages" in document.meta) == (index % 5 == 4)


def test_articles_have_a_title_a_description_a_topic_and_an_extract(tmp_path):
    labels = [set(), set()]
    for topic in load_words().topics:
        for label, known in zip(topic.label, labels, strict=True):
            known.add(label)
    seen = set()
    for document in make(2000, 5, tmp_path):
        if "messages" not in document.meta:
            assert set(document.meta) == {"title", "description", "topic", "extract"}
            assert document.text == f"{document.meta['title']}\n\n{document.meta['extract']}"
            assert document.meta["topic"] in labels[document.language == "fr"]
            seen.add(document.meta["topic"])
    assert seen == labels[0] | labels[1]


def test_chats_alternate_and_their_text_is_their_turns(tmp_path):
    for document in make(100, 5, tmp_path)[4::5]:
        messages = json.loads(document.meta["messages"])
        assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)
        assert document.text == "\n".join(message["content"] for message in messages)
        assert 1 <= float(document.meta["rating"]) <= 10


def test_french_agrees_and_elides(tmp_path):
    text = "\n".join(document.text for document in make(4000, 2, tmp_path) if document.language == "fr")
    plain = unicodedata.normalize("NFD", text.lower())
    for wrong in (" de a", " de e", " de i", " de o", " de u", " le a", " le e", " la e", " la a", " le o", "l'h"):
        assert wrong not in plain
    assert "d'" in text and "l'" in text and "é" in text and "œ" in text
    masculine = "blanc|noir|vert|bleu|gris|brun|doré|lourd|léger|rond|carré"
    assert re.search(r"\bla \w+ blanche\b", text) and re.search(r"\ble \w+ blanc\b", text)
    assert not re.search(rf"\bla \w+ ({masculine})\b", text)
    assert not re.search(r"\ble \w+ (blanche|noire|verte|bleue|grise|brune|dorée|lourde|légère|ronde|carrée)\b", text)


def test_english_articles_agree(tmp_path):
    text = "\n".join(document.text for document in make(4000, 2, tmp_path) if document.language == "en")
    for wrong in (" a ancient", " an rare", " a animal"):
        assert wrong not in text
    assert " an ancient" in text


def test_hardly_any_document_repeats_another_and_none_needs_repair(tmp_path):
    texts = [document.text for document in make(3000, 4, tmp_path)]
    assert len(set(texts)) > 0.995 * len(texts)
    assert len(near_duplicates(texts)) < 0.005 * len(texts)
    assert all(normalise(text) == text for text in texts)


def test_the_classifier_agrees_with_the_claimed_language(tmp_path):
    documents = make(400, 6, tmp_path)
    agreeing = sum(identify(document.text, document.language) == document.language for document in documents)
    assert agreeing >= 0.995 * len(documents)


def test_fingerprint_follows_content(tmp_path):
    record = SyntheticSource(synthetic=20, seed=1).fingerprint(tmp_path)
    assert record == SyntheticSource(synthetic=20, seed=1).fingerprint(tmp_path)
    assert record.sha256 != SyntheticSource(synthetic=20, seed=2).fingerprint(tmp_path).sha256
    assert record.bytes == sum(len(document.text.encode()) for document in make(20, 1, tmp_path))


@pytest.mark.parametrize("words", ["colours", "tempers", "qualities"])
def test_no_word_is_listed_twice(words):
    listed = [english for english, _, _ in getattr(load_words(), words)]
    assert len(set(listed)) == len(listed)
