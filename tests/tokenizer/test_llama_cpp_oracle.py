"""Vocabularies of llama.cpp's own tests, read from GGUF: the ids that others wrote down."""

import pytest
from public_vocabularies import VOCABULARIES, llama_cpp_texts, llama_cpp_vocabulary

from cadran.errors import UserError
from cadran.tokenizer.gguf_vocabulary import tokenizer_from_gguf
from cadran.tokenizer.stream import IncrementalDecoder
from cadran.tokenizer.tokenizer import Tokenizer

pytestmark = pytest.mark.network


def opened(metadata):
    serialised, config = tokenizer_from_gguf(metadata)
    return Tokenizer(serialised, config=config)


@pytest.fixture(scope="module", params=VOCABULARIES)
def vocabulary(request):
    metadata = llama_cpp_vocabulary(request.param)
    return request.param, metadata, opened(metadata)


def test_every_text_has_the_ids_of_the_oracle(vocabulary):
    name, _, tokenizer = vocabulary
    texts = llama_cpp_texts(name)
    assert len(texts) >= 46
    assert {text: tokenizer.encode(text) for text, _ in texts} == dict(texts)
    batch = tokenizer.encode_batch([text for text, _ in texts])
    assert [ids.tolist() for ids in batch] == [ids for _, ids in texts]


def test_every_text_comes_back_whole_and_in_pieces(vocabulary):
    name, _, tokenizer = vocabulary
    for text, ids in llama_cpp_texts(name):
        decoder = IncrementalDecoder(tokenizer)
        pieces = [decoder.push(id) for id in ids]
        assert tokenizer.decode(ids) == text
        assert "".join(pieces) + decoder.flush() == text
        assert not any("\ufffd" in piece for piece in pieces)


def test_files_that_do_not_say_how_they_cut_and_other_kinds_are_refused():
    for name in ("gpt-neox", "aquila"):
        with pytest.raises(UserError, match="newer conversion"):
            opened(llama_cpp_vocabulary(name))
    for name, kind in (("bert-bge", "bert"), ("nomic-bert-moe", "t5")):
        with pytest.raises(UserError, match=f"'{kind}'.*gpt2, llama"):
            opened(llama_cpp_vocabulary(name))
