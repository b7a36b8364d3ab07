"""Normalisation repairs what is broken, keeps what an author meant, and has nothing left to do the second time."""

import json
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cadran.corpus.normalise import _MAYBE_MOJIBAKE, normalise, normalise_meta

# Text in which trouble is frequent: what encodings break, what is invisible, what moves lines, what composes.
TROUBLE = st.text(
    st.sampled_from(
        "aÀéœ ’«»\u00a0\u202fÃÂâ€™\x80\x85\x92\x9d\r\n\t\x0b\x0c\x00\x1b\u200b\u00ad\ufeff\u2028\u0301\ud83d\ude00ŒÅ"
    ),
    max_size=30,
)
FRENCH = (
    "«\u00a0L’été à Orléans, c'est déjà l’œuvre d'un maître\u202f!\u00a0» dit-elle — “oui”, ﬁn…"
    " Ça coûte 5\u00a0000\u00a0€."
)


@given(
    st.text(max_size=60)
    | TROUBLE
    | st.text(st.characters(codec="utf-8"), max_size=40).map(lambda text: text.encode().decode("latin-1"))
)
@example("Ã\x00\xa9")  # taking out the control character uncovers a mojibake
@example("a\u0301\u00ad\u0301")
@example("\ud83d\ud83d\ude00")
def test_normalise_is_idempotent_and_always_encodable(text):
    once = normalise(text)
    assert normalise(once) == once
    once.encode("utf-8")
    assert unicodedata.is_normalized("NFC", once)
    assert "\r" not in once and "\n\n\n\n" not in once and "\x00" not in once
    assert not any(line != line.rstrip() for line in once.split("\n"))


def test_french_typography_is_left_as_written():
    assert normalise(FRENCH) == FRENCH


@pytest.mark.parametrize("wrong", ["cp1252", "latin-1", "macroman"])
def test_mojibake_is_undone(wrong):
    right = (
        "L’été à Orléans, c’est déjà très chaud…" if wrong != "latin-1" else "L'été à Orléans, c'est déjà très chaud"
    )
    assert normalise(right.encode("utf-8").decode(wrong)) == right


def test_a_broken_line_does_not_change_the_good_one_beside_it():
    good = "Ligne saine : déjà vu, Ångström."
    broken = "ligne cassée, déjà".encode().decode("cp1252")
    assert normalise(f"{good}\n{broken}") == f"{good}\nligne cassée, déjà"


@given(
    st.text(st.characters(codec="utf-8"), max_size=30),
    st.sampled_from(["latin-1", "cp1252", "cp1251", "macroman", "cp437"]),
)
def test_the_fast_check_never_misses_a_line_that_ftfy_would_repair(text, wrong):
    from ftfy import fix_encoding

    line = text.replace("\n", " ").encode().decode(wrong, "replace")
    if fix_encoding(line) != line:
        assert _MAYBE_MOJIBAKE.search(line)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("a\r\nb\rc\u2028d\x0be", "a\nb\nc\nd\ne"),
        ("a  \t\nb\u00a0\nc", "a\nb\nc"),
        ("a\n\n\n\n\n\nb", "a\n\n\nb"),
        ("a\n \n\t\n \nb", "a\n\n\nb"),
        ("a\n\n\nb", "a\n\n\nb"),
        ("\ufeff\n\n  indented\n", "  indented"),
        ("so\u00adft\u200b \x07bell", "soft bell"),
        ("e\u0301", "é"),
        ("\ud800x", "\ufffdx"),
        ("\ud83d\ude00", "😀"),
        ("\tcode", "\tcode"),
        ("👩\u200d🔬", "👩\u200d🔬"),
        (" \n\t\n", ""),
        ("", ""),
    ],
)
def test_white_space_and_invisible_characters(raw, clean):
    assert normalise(raw) == clean


def test_meta_is_normalised_inside_its_json():
    messages = json.dumps([{"role": "user", "content": "dÃ©jÃ\xa0 \x07vu  \n"}])
    meta = normalise_meta({"title": "e\u0301t\u00e9", "messages": messages})
    assert meta["title"] == "été"
    assert json.loads(meta["messages"]) == [{"role": "user", "content": "déjà vu"}]
