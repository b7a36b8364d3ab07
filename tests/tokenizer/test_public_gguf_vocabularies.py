"""Vocabularies of real GGUF files: against the tokenizer.json of the same model, and written back."""

import pytest
from nasty_texts import NASTY
from public_checkpoints import checkpoint
from public_vocabularies import gemma3_metadata, llama_cpp_vocabulary, smollm2_metadata

from cadran.tokenizer.gguf_vocabulary import gguf_metadata, tokenizer_from_gguf
from cadran.tokenizer.tokenizer import Tokenizer

pytestmark = pytest.mark.network


def opened(metadata):
    serialised, config = tokenizer_from_gguf(metadata)
    return Tokenizer(serialised, config=config)


@pytest.mark.parametrize("name", ["gpt-2", "llama-spm", "phi-3", "falcon", "deepseek-coder"])
def test_what_is_read_is_written_again(name):
    metadata = llama_cpp_vocabulary(name)
    serialised, config = tokenizer_from_gguf(metadata)
    size = len(metadata["tokenizer.ggml.tokens"])
    written = gguf_metadata(serialised, config, size, warn=pytest.fail)
    for key in ("model", "tokens", "merges", "bos_token_id", "eos_token_id", "padding_token_id"):
        assert written.get(f"tokenizer.ggml.{key}") == metadata.get(f"tokenizer.ggml.{key}")
    tokenizer, again = Tokenizer(serialised), opened({**metadata, **written})
    assert all(again.encode(text, special=True) == tokenizer.encode(text, special=True) for text in NASTY)


def test_gemma_3_out_of_gguf_is_gemma_3_out_of_its_tokenizer_json(tmp_path):
    ours, theirs = opened(gemma3_metadata(tmp_path)), Tokenizer.load(checkpoint("gemma3"))
    for text in (text for text in NASTY if "▁" not in text):  # a typed ▁ meets the renamed runs of spaces in GGUF
        for special in (False, True):
            assert ours.encode(text, special) == theirs.encode(text, special)
    assert all(ours.token_bytes(id) == theirs.token_bytes(id) for id in range(ours.vocabulary_size))
    assert (ours.bos, ours.adds_bos) == (theirs.bos, theirs.adds_bos) == (2, True)
    assert {1, 106} == set(ours.eos_ids)


def test_smollm2_writes_a_year_digit_by_digit(tmp_path):
    tokenizer = opened(smollm2_metadata(tmp_path))
    assert [tokenizer.token_bytes(id) for id in tokenizer.encode("2026")] == [b"2", b"0", b"2", b"6"]
    assert tokenizer.decode(tokenizer.eos_ids[:1]) == "<|im_end|>"
