import hashlib
import json

import numpy as np
import pytest
from difficult_strings import FRAGMENTS, strings, unspecial_strings
from hypothesis import example, given
from hypothesis import strategies as st

from cadran.errors import UserError
from cadran.tokenizer.tokenizer import SPECIAL_TOKENS, Tokenizer


@given(text=strings)
@example(text="".join(FRAGMENTS))
def test_decode_encode_is_identity(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(text=strings)
def test_tokens_are_the_bytes_of_the_text(tokenizer, text):
    ids = tokenizer.encode(text)
    raw = text.encode("utf-8")
    assert b"".join(tokenizer.token_bytes(id) for id in ids) == raw
    assert tokenizer.bytes_per_token[ids].sum() == len(raw)


@given(batch=st.lists(strings))
def test_a_batch_has_the_ids_of_its_texts_alone(tokenizer, batch):
    arrays = tokenizer.encode_batch(batch)
    assert [array.tolist() for array in arrays] == [tokenizer.encode(text) for text in batch]
    assert all(array.dtype == tokenizer.dtype == np.uint16 for array in arrays)


def test_a_batch_is_cut_into_smaller_ones_without_losing_a_text(tokenizer, monkeypatch):
    monkeypatch.setattr("cadran.tokenizer.tokenizer.BATCH_CHARACTERS", 10)
    batch = ["", "été", "x" * 25, "", "the plane", "\n"]
    assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(batch)] == batch


@pytest.mark.parametrize("special", SPECIAL_TOKENS)
def test_a_special_token_typed_in_a_text_is_ordinary_text(tokenizer, special):
    typed = f"a {special}b{special}"
    for ids in (tokenizer.encode(typed), tokenizer.encode_batch([typed])[0]):
        assert not any(tokenizer.is_special(id) for id in ids)
        assert tokenizer.decode(ids, skip_special=True) == typed


def test_special_tokens_are_skipped_on_request(tokenizer):
    ids = [tokenizer.im_start, *tokenizer.encode("été"), tokenizer.im_end]
    assert tokenizer.decode(ids) == "<|im_start|>été<|im_end|>"
    assert tokenizer.decode(ids, skip_special=True) == "été"
    assert tokenizer.bytes_per_token[ids].sum() == len("été".encode())


def test_half_a_character_decodes_to_the_replacement_mark(tokenizer):
    byte_tokens = {tokenizer.token_bytes(id): id for id in range(tokenizer.vocabulary_size)}
    assert tokenizer.decode([byte_tokens[b"\xc3"], byte_tokens[b"a"]]) == "\ufffda"


@pytest.mark.parametrize("id", [-1, 400, 10**9])
def test_an_id_outside_the_vocabulary_is_refused(tokenizer, id):
    with pytest.raises(UserError, match="outside the vocabulary of 400"):
        tokenizer.decode([id])


def test_half_a_surrogate_pair_is_refused_with_its_place(tokenizer):
    with pytest.raises(UserError, match=r"U\+D83D at character 5"):
        tokenizer.encode("half \ud83d")
    with pytest.raises(UserError, match=r"U\+D83D at character 5"):
        tokenizer.encode_batch(["fine", "half \ud83d"])


def test_what_is_saved_is_what_is_loaded(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    content = (tmp_path / "tokenizer.json").read_bytes()
    assert loaded.fingerprint == tokenizer.fingerprint == hashlib.sha256(content).hexdigest()
    assert loaded.encode("L'été <|im_end|>") == tokenizer.encode("L'été <|im_end|>")
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again" / "tokenizer.json").read_bytes() == content


def test_an_absent_tokenizer_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer\.json in .*elsewhere"):
        Tokenizer.load(tmp_path / "elsewhere")


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"[1]", b'{"version":"1.0","model":{"type":"BPE"}}'])
def test_a_corrupt_tokenizer_is_named(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


@given(cut=st.integers(0, 2000))
def test_a_truncated_tokenizer_is_refused(tokenizer, cut):
    with pytest.raises(UserError, match="not a tokenizer"):
        Tokenizer(tokenizer._serialised[:cut])


def altered(tokenizer, **changes):
    return Tokenizer(json.dumps(json.loads(tokenizer._serialised) | changes))


def test_truncation_asked_for_in_the_file_is_ignored(tokenizer):
    cutting = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    padding = {"strategy": {"Fixed": 50}, "direction": "Right", "pad_to_multiple_of": None}
    padding |= {"pad_id": 3, "pad_type_id": 0, "pad_token": "<|pad|>"}
    other = altered(tokenizer, truncation=cutting, padding=padding)
    assert other.encode("the plane landed") == tokenizer.encode("the plane landed")
    assert other.encode_batch(["the plane landed"])[0].tolist() == tokenizer.encode("the plane landed")


def test_a_tokenizer_that_does_not_work_on_bytes_is_refused(tokenizer):
    with pytest.raises(UserError, match="does not work on bytes"):
        altered(tokenizer, decoder={"type": "Fuse"})


def test_a_tokenizer_without_chat_tokens_serves_text_and_names_what_it_lacks(tokenizer):
    content = json.loads(tokenizer._serialised)
    kept = [token for token in content["added_tokens"] if token["content"] == "<|endoftext|>"]
    other = altered(tokenizer, added_tokens=kept)
    assert other.decode(other.encode("été")) == "été"
    assert other.end_of_text == 0
    with pytest.raises(UserError, match=r"no <\|im_end\|>"):
        _ = other.im_end


@pytest.fixture(scope="module")
def saved(tokenizer, tmp_path_factory):
    """A base and a chat folder as ``transformers`` loads them, beside the configuration of a Qwen3 model."""
    transformers = pytest.importorskip("transformers")
    loaded = {}
    for chat in (False, True):
        folder = tmp_path_factory.mktemp("saved")
        tokenizer.save(folder, chat=chat)
        (folder / "config.json").write_text('{"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}')
        loaded[chat] = transformers.AutoTokenizer.from_pretrained(folder)
    return loaded


@given(text=unspecial_strings)
def test_transformers_has_the_same_ids_and_text(tokenizer, saved, text):
    ids = tokenizer.encode(text)
    assert saved[False](text).input_ids == ids
    assert saved[False].decode(ids) == text


def test_transformers_stops_a_base_model_at_the_end_of_text_and_a_chat_at_the_end_of_turn(tokenizer, saved):
    assert saved[False].eos_token_id == tokenizer.end_of_text
    assert saved[True].eos_token_id == tokenizer.im_end
    for loaded in saved.values():
        assert loaded.pad_token_id == tokenizer.pad
        assert loaded.bos_token is None
        assert set(loaded.all_special_tokens) == set(SPECIAL_TOKENS)
        assert len(loaded) == tokenizer.vocabulary_size


def test_only_a_chat_tokenizer_carries_the_template(saved):
    assert saved[False].chat_template is None
    assert "<|im_start|>" in saved[True].chat_template
