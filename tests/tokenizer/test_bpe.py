import os
import subprocess
import sys
from pathlib import Path

import pytest

from cadran.errors import UserError
from cadran.tokenizer.bpe import LEAST_VOCABULARY, train_bpe
from cadran.tokenizer.tokenizer import SPECIAL_TOKENS

TRAIN = """
from conftest import TEXTS
from cadran.tokenizer.bpe import train_bpe
print(train_bpe(TEXTS, 400).fingerprint)
"""


def fingerprint_with(threads: int, seed: int) -> str:
    environment = os.environ | {
        "RAYON_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false",
        "PYTHONHASHSEED": str(seed),
    }
    command = [sys.executable, "-c", TRAIN]
    folder = Path(__file__).parent
    return subprocess.run(
        command, env=environment, cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_training_gives_the_same_bytes_in_any_process_with_any_number_of_threads(tokenizer):
    assert {fingerprint_with(1, 0), fingerprint_with(2, 1), fingerprint_with(3, 2)} == {tokenizer.fingerprint}


def test_the_order_of_the_texts_does_not_matter(tokenizer, texts):
    assert train_bpe(iter(reversed(texts)), 400).fingerprint == tokenizer.fingerprint


def test_the_vocabulary_has_the_size_asked_for(tokenizer):
    assert tokenizer.vocabulary_size == 400
    assert tokenizer.notice == ""


def test_special_tokens_come_first(tokenizer):
    names = [tokenizer.decode([id]) for id in range(len(SPECIAL_TOKENS))]
    assert tuple(names) == SPECIAL_TOKENS
    ids = (tokenizer.end_of_text, tokenizer.im_start, tokenizer.im_end, tokenizer.pad)
    assert (*ids, tokenizer.fim_prefix, tokenizer.fim_middle, tokenizer.fim_suffix) == (0, 1, 2, 3, 4, 5, 6)


def test_every_byte_is_a_token(tokenizer):
    tokens = {tokenizer.token_bytes(id) for id in range(tokenizer.vocabulary_size)}
    assert {bytes([byte]) for byte in range(256)} <= tokens


@pytest.mark.parametrize("vocabulary", [-1, 0, 7, LEAST_VOCABULARY - 1])
def test_a_vocabulary_too_small_is_refused_with_the_least_valid_number(texts, vocabulary):
    with pytest.raises(UserError, match="at least 264"):
        train_bpe(texts, vocabulary)


def test_the_least_vocabulary_has_one_merge(texts):
    tokenizer = train_bpe(texts, 264)
    assert tokenizer.vocabulary_size == 264
    assert len(tokenizer.token_bytes(263)) == 2


@pytest.mark.parametrize("texts", [[], [""], ["ab ab"]])
def test_too_little_text_gives_a_smaller_vocabulary_and_says_so(texts):
    tokenizer = train_bpe(texts, 1000)
    assert tokenizer.vocabulary_size < 1000
    assert f"{tokenizer.vocabulary_size} only, not 1000" in tokenizer.notice
    assert tokenizer.decode(tokenizer.encode("été 😀\n")) == "été 😀\n"


def test_a_text_with_half_a_surrogate_pair_is_refused():
    with pytest.raises(UserError, match="surrogate"):
        train_bpe(["fine", "half \ud83d"], 300)
