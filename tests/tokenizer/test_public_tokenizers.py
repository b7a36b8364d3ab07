"""tokenizer.json files of public checkpoints, in our hands and in those of ``tokenizers`` and ``transformers``."""

import pytest
import tokenizers
from nasty_texts import NASTY
from public_checkpoints import checkpoint

from cadran.tokenizer.gguf_vocabulary import gguf_metadata, tokenizer_from_gguf
from cadran.tokenizer.stream import IncrementalDecoder
from cadran.tokenizer.tokenizer import Tokenizer

pytestmark = pytest.mark.network

# name -> bos, adds_bos, eos, name of its cuts in GGUF files
FACTS = {
    "llama3": ("<|begin_of_text|>", False, "<|end_of_text|>", "llama-bpe"),
    "qwen3": (None, False, "<|im_end|>", "qwen2"),
    "gemma3": ("<bos>", True, "<end_of_turn>", None),
    "deepseek_v3": ("<｜begin▁of▁sentence｜>", True, "<｜end▁of▁sentence｜>", "deepseek-v3"),
}


@pytest.fixture(scope="module", params=FACTS)
def opened(request):
    """Name, our tokenizer, the library's and that of ``transformers``."""
    transformers = pytest.importorskip("transformers")
    folder = checkpoint(request.param)
    core = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return request.param, Tokenizer.load(folder), core, transformers.PreTrainedTokenizerFast(tokenizer_object=core)


def test_ids_are_those_of_the_library_with_and_without_special_tokens(opened):
    _, ours, core, theirs = opened
    for text in NASTY:
        assert ours.encode(text, special=True) == core.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, special=True) == theirs.encode(text, add_special_tokens=False)
    plain = [text for text in NASTY if "<" not in text]
    assert [ours.encode(text) for text in plain] == [ours.encode(text, special=True) for text in plain]
    assert [ids.tolist() for ids in ours.encode_batch(plain)] == [ours.encode(text) for text in plain]


def test_no_text_forges_a_special_token(opened):
    _, ours, core, _ = opened
    for id, token in core.get_added_tokens_decoder().items():
        if token.special or "|" in token.content or "｜" in token.content:
            assert ours.encode(token.content, special=True) == [id]
            assert id not in ours.encode(f"a {token.content} b"), token.content
            assert ours.is_special(id)


def test_texts_are_those_of_the_library_whole_and_in_pieces(opened):
    _, ours, core, theirs = opened
    every = range(0, ours.vocabulary_size, 997)
    for ids in [*(ours.encode(text, special=True) for text in NASTY), list(every), list(reversed(every))]:
        for skip in (False, True):
            decoder = IncrementalDecoder(ours, skip)
            streamed = "".join(map(decoder.push, ids)) + decoder.flush()
            assert streamed == ours.decode(ids, skip) == core.decode(ids, skip_special_tokens=skip)
            assert streamed == theirs.decode(ids, skip_special_tokens=skip)


def test_the_frame_of_a_text_is_what_the_checkpoint_says(opened):
    name, ours, core, _ = opened
    bos, adds_bos, eos, _ = FACTS[name]
    assert ours.bos == (None if bos is None else core.token_to_id(bos))
    assert ours.adds_bos is adds_bos
    assert ours.adds_eos is False
    assert ours.eos_ids[0] == core.token_to_id(eos)


def test_through_gguf_the_ids_stay(opened):
    name, ours, _, _ = opened
    pre = FACTS[name][3]
    if pre is None:
        pytest.skip("Gemma's way through GGUF is compared with a real file (test_llama_cpp_oracle)")
    folder = checkpoint(name)
    metadata = gguf_metadata(
        (folder / "tokenizer.json").read_text(encoding="utf-8"), ours.config, ours.vocabulary_size, warn=pytest.fail
    )
    assert metadata["tokenizer.ggml.pre"] == pre
    serialised, config = tokenizer_from_gguf(metadata)
    again = Tokenizer(serialised, config=config)
    assert (again.bos, again.adds_bos, again.eos_ids[0]) == (ours.bos, ours.adds_bos, ours.eos_ids[0])
    for text in NASTY:
        assert [again.encode(text, special) for special in (False, True)] == [
            ours.encode(text, special) for special in (False, True)
        ]
