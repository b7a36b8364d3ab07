"""Bytes become text whatever wrote them, and binaries are refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadran.corpus.normalise import normalise
from cadran.corpus.sources.encoding import NotText, decode

FRENCH = "L'été, déjà : « œuvre » à 5 €"
PRINTABLE = st.text(st.characters(exclude_categories=["Cs", "Cc"]))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@given(text=PRINTABLE)
def test_unicode_encodings_are_read_exactly(encoding, text):
    assert decode(text.encode(encoding)) == (text.removeprefix("\ufeff") if encoding == "utf-8" else text, False)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_with_a_mark_of_either_order(encoding):
    assert decode(("\ufeff" + FRENCH).encode(encoding)) == (FRENCH, False)


def test_windows_1252_is_read_and_reported_as_repaired():
    assert decode(FRENCH.encode("cp1252")) == (FRENCH, True)


def test_bytes_without_meaning_in_windows_1252_fall_back_on_latin_1():
    text, repaired = decode(b"caf\xe9 \x81 " + b"abc " * 20)
    assert text.startswith("café") and repaired


def test_utf_8_with_one_broken_byte_is_whole_after_normalisation():
    content = FRENCH.encode() + b"\n\xe9t\xe9\n"
    text, repaired = decode(content)
    assert repaired
    assert normalise(text) == f"{FRENCH}\nété"


@pytest.mark.parametrize(
    "content", [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", bytes(range(32)) * 20, b"\xff\xfea", b"PK\x03\x04\0"]
)
def test_binary_is_refused(content):
    with pytest.raises(NotText):
        decode(content)
