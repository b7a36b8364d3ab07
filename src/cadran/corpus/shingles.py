"""A text as the set of its word 5-grams, each a 64-bit number, for near-duplicate detection.

Numbers, not strings, so that a batch of texts is hashed by NumPy in a few vector operations. They depend on the words
alone (never on Python's randomised `hash`), hence are the same in every process and on every machine.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

WIDTH = 5

# A French elision is a word of its own: "l'arbre" is "l'" and "arbre", and shares "arbre" with "cet arbre".
# Chinese and Japanese set no spaces: there each character counts as a word.
_WORDS = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+(?:'(?=\w))?"
)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_SHIFT = np.uint64(33)
_KNOWN_WORDS = 1_000_000


def words(text: str) -> list[str]:
    """Words of a text in order: case-folded, punctuation dropped, elisions separate, both apostrophes alike."""
    return _WORDS.findall(text.casefold().replace("’", "'"))


class Shingler:
    """Turns texts into shingle hashes; keeps the hashes of the words it has met, which halves the time."""

    def __init__(self) -> None:
        self._word_hashes = _WordHashes()

    def batch(self, texts: Sequence[str]) -> tuple[Hashes, NDArray[np.uint64]]:
        """Shingles of several texts in one flat array.

        Returns:
            ``(hashes, offsets)``: the shingles of text i are ``hashes[offsets[i]:offsets[i + 1]]``, repeated where
            the text repeats itself. A text of 1 to 4 words has one shingle, a text without words none.
        """
        self._word_hashes.forget_if_full()
        split = [words(text) for text in texts]
        lengths = np.array([len(found) for found in split], dtype=np.int64)
        ends = np.cumsum(lengths)
        flat = np.fromiter(
            (self._word_hashes[word] for found in split for word in found), dtype=np.uint64, count=int(lengths.sum())
        )
        parts = []
        for end, length in zip(ends.tolist(), lengths.tolist(), strict=True):
            parts.append(_combine(flat[end - length : end]))
        offsets = np.cumsum([0, *(len(part) for part in parts)], dtype=np.uint64)
        return np.concatenate(parts) if parts else np.zeros(0, np.uint64), offsets

    def distinct(self, text: str) -> Hashes:
        """The set of shingles of one text, as a sorted array without repetition."""
        return np.unique(self.batch([text])[0])


def jaccard(one: Hashes, other: Hashes) -> float:
    """Jaccard similarity of two sets given as sorted arrays without repetition; 0 when both are empty.

    Source: Broder 1997, "On the resemblance and containment of documents".
    """
    if not len(one) or not len(other):
        return 0.0
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)


def _combine(word_hashes: Hashes) -> Hashes:
    """Hash of every window of five words (polynomial, then mixed); of all words where there are fewer."""
    width = min(WIDTH, len(word_hashes))
    count = len(word_hashes) - width + 1
    if not width:
        return word_hashes
    combined: Any = word_hashes[:count]
    for shift in range(1, width):
        combined = combined * _MULTIPLIER + word_hashes[shift : shift + count]
    combined = (combined ^ (combined >> _SHIFT)) * _MIX
    mixed: Hashes = combined ^ (combined >> _SHIFT)
    return mixed


class _WordHashes(dict[str, int]):
    """64-bit BLAKE2b of each word, computed once."""

    def __missing__(self, word: str) -> int:
        value = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        self[word] = value
        return value

    def forget_if_full(self) -> None:
        """Bound the memory: a corpus of gigabytes has millions of distinct words, most of them met once."""
        if len(self) > _KNOWN_WORDS:
            self.clear()
