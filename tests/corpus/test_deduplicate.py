"""Near-duplicates: what repeats is found, what does not is kept, and nothing but the texts decides."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadran.corpus.deduplicate import bands_and_rows, near_duplicates, signatures
from cadran.corpus.shingles import Shingler, jaccard, words

WORDS = [f"mot{number}" for number in range(3000)]


def document(generator: random.Random, length: int = 150) -> list[str]:
    return [generator.choice(WORDS) for _ in range(length)]


def planted(seed: int, count: int, edits: int) -> tuple[list[str], list[int]]:
    """Texts of which some repeat an earlier one with ``edits`` words changed; indices of the repeats."""
    generator = random.Random(seed)
    originals = [document(generator) for _ in range(count)]
    copies = []
    for original in originals[::2]:
        copy = list(original)
        for place in generator.sample(range(len(copy)), edits):
            copy[place] = "autre"
        copies.append(copy)
    texts = [" ".join(text) for text in originals + copies]
    return texts, list(range(count, count + len(copies)))


def true_jaccard(one: str, other: str) -> float:
    def shingles(text: str) -> set[tuple[str, ...]]:
        found = words(text)
        return {tuple(found[index : index + 5]) for index in range(len(found) - 4)}

    return len(shingles(one) & shingles(other)) / len(shingles(one) | shingles(other))


def test_exact_copy_and_one_word_edit_are_found_and_the_unrelated_kept():
    generator = random.Random(0)
    text = document(generator)
    edited = [*text[:70], "autre", *text[71:]]
    unrelated = document(generator)
    texts = [" ".join(text), " ".join(unrelated), " ".join(edited), " ".join(text).upper() + "."]
    assert near_duplicates(texts) == {2: 0, 3: 0}


@pytest.mark.parametrize("edits", [1, 2, 3])
def test_every_planted_duplicate_is_found(edits):
    texts, repeats = planted(seed=edits, count=400, edits=edits)
    above = [index for index in repeats if true_jaccard(texts[index], texts[2 * (index - 400)]) >= 0.8]
    found = near_duplicates(texts)
    assert len(above) > 150
    assert len(set(above) & set(found)) >= 0.99 * len(above)
    assert set(found) <= set(above)


def test_no_text_below_the_threshold_is_removed():
    texts, _ = planted(seed=9, count=400, edits=5)  # around 0.7: candidates, but not duplicates
    for index, original in near_duplicates(texts, 0.7).items():
        assert true_jaccard(texts[index], texts[original]) >= 0.7
    assert near_duplicates(texts, 0.9) == {}


def test_the_first_of_a_cluster_is_kept_and_every_removed_text_resembles_a_kept_one():
    generator = random.Random(4)
    chain = [document(generator)]
    for _ in range(12):  # each resembles the one before, the last no longer the first
        chain.append([*chain[-1][3:], *document(generator, 3)])
    texts = [" ".join(text) for text in chain]
    found = near_duplicates(texts)
    assert 0 not in found and found
    for index, original in found.items():
        assert original not in found and original < index
        assert true_jaccard(texts[index], texts[original]) >= 0.8


def test_short_and_wordless_texts():
    assert near_duplicates(["", "", "!!!", "???"]) == {}
    assert near_duplicates(["Deux mots", "deux mots !", "deux maux"]) == {1: 0}
    assert near_duplicates([]) == {}


def test_french_elisions_are_words_and_both_apostrophes_are_one():
    assert words("L’arbre qu'aujourd’hui n'importe") == ["l'", "arbre", "qu'", "aujourd'", "hui", "n'", "importe"]
    assert words("'Dogs' don't") == ["dogs", "don'", "t"]
    assert words("Œuvre, déjà-vu 1er_essai") == ["œuvre", "déjà", "vu", "1er_essai"]
    assert words("日本の木") == ["日", "本", "の", "木"]


@given(st.lists(st.text("ab c'é", max_size=40), min_size=1, max_size=8))
def test_a_signature_depends_on_its_own_text_alone(texts):
    together = signatures(*Shingler().batch(texts))
    for index, text in enumerate(texts):
        assert np.array_equal(together[index], signatures(*Shingler().batch([text]))[0])


@given(st.text("abc "), st.text("abc "))
def test_jaccard_of_hashes_is_jaccard_of_word_windows(one, other):
    def windows(text: str) -> set[tuple[str, ...]]:
        found = words(text)
        width = min(5, len(found))
        return {tuple(found[index : index + width]) for index in range(len(found) - width + 1)} if found else set()

    expected = (
        len(windows(one) & windows(other)) / len(windows(one) | windows(other))
        if windows(one) and windows(other)
        else 0
    )
    shingler = Shingler()
    assert jaccard(shingler.distinct(one), shingler.distinct(other)) == pytest.approx(expected)


def test_banding_finds_99_percent_at_the_threshold():
    for threshold in (0.5, 0.7, 0.8, 0.9, 0.95):
        bands, rows = bands_and_rows(threshold)
        assert bands * rows <= 128
        assert 1 - (1 - threshold**rows) ** bands >= 0.99
    assert bands_and_rows(0.8) == (21, 6)


def test_threads_and_hash_randomisation_change_nothing():
    program = (
        "import hashlib, random\n"
        "from cadran.corpus.shingles import Shingler\n"
        "from cadran.corpus.deduplicate import signatures\n"
        "g = random.Random(1)\n"
        "texts = [' '.join(str(g.randrange(500)) for _ in range(200)) for _ in range(300)]\n"
        "print(hashlib.sha256(signatures(*Shingler().batch(texts)).tobytes()).hexdigest())\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2", "3")
    }
    assert len(digests) == 1


def test_a_golden_signature_holds():
    """A library upgrade that changes signatures changes which candidates are compared: it must be noticed."""
    signature = signatures(*Shingler().batch(["le chat dort sur le tapis rouge du salon"]))[0]
    assert signature[:4].tolist() == [3426099125, 3237636506, 3292342433, 3476939730]
