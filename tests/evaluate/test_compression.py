import lzma
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadran.errors import UserError
from cadran.evaluate import compression
from cadran.evaluate.compression import xz_bits_per_byte


def noise(seed, size):
    return random.Random(seed).randbytes(size)


def test_noise_costs_eight_bits_a_byte_with_or_without_training():
    figures = xz_bits_per_byte(noise(0, 20_000), noise(1, 20_000))
    assert figures.alone == pytest.approx(8, abs=0.1)
    assert figures.given_training == pytest.approx(8, abs=0.1)


def test_text_seen_in_training_is_nearly_free():
    text = noise(2, 20_000)
    figures = xz_bits_per_byte(noise(3, 5_000) + text + noise(4, 5_000), text)
    assert figures.alone > 8
    assert figures.given_training < 0.2  # a match of LZMA is at most 273 bytes long


def test_repetition_is_nearly_free_alone():
    assert xz_bits_per_byte(b"", b"la souris, the mouse; " * 5_000).alone < 0.05


def test_alone_is_the_size_of_the_xz_file():
    text = b" ".join(str(i * i).encode() for i in range(3_000))
    file = lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)
    assert xz_bits_per_byte(noise(5, 1_000), text).alone == 8 * len(file) / len(text)


def test_dictionary_grows_with_the_training_text(monkeypatch):
    monkeypatch.setattr(compression, "_LEAST_DICTIONARY", 4096)  # 64 MiB of text between the copies would be slow
    far = noise(6, 2_000)
    assert xz_bits_per_byte(far + noise(7, 100_000), far).given_training < 4


@settings(max_examples=8, deadline=None)
@given(st.text(max_size=2_000), st.text(min_size=200, max_size=2_000))
def test_training_text_never_costs_more_than_a_few_bytes(training, held_out):
    held = held_out.encode()
    figures = xz_bits_per_byte(training.encode(), held)
    assert figures.given_training <= figures.alone + 8 * 16 / len(held)


def test_empty_held_out_text_is_the_users_error():
    with pytest.raises(UserError, match="held-out"):
        xz_bits_per_byte(b"training", b"")
