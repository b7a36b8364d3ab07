"""Vocabularies in the metadata of GGUF files, both ways, and what is refused."""

import json

import numpy as np
import pytest
from difficult_strings import strings
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizers import small_tokenizer
from tokenizers import Regex, models, pre_tokenizers
from tokenizers import Tokenizer as LibraryTokenizer

from cadran.errors import UserError
from cadran.model.gguf.reader import GgufFile
from cadran.model.gguf.writer import write_gguf
from cadran.tokenizer.bpe import train_bpe
from cadran.tokenizer.gguf_vocabulary import gguf_metadata, tokenizer_from_gguf
from cadran.tokenizer.pattern import PATTERN
from cadran.tokenizer.pre_tokenizers import TABLE, as_component, cuts_of, recognised
from cadran.tokenizer.tokenizer import Tokenizer

NAMES = sorted(name for known in TABLE for name in known.names)
CODE = ["def f(self):\n    return self.f(x)[0]\n", "if (self.f(x)):\n        print(self)\n", "f(x).g(y, z)\n"] * 20


def opened(metadata):
    serialised, config = tokenizer_from_gguf(metadata)
    return Tokenizer(serialised, config=config)


def own_metadata(tokenizer, **options):
    return gguf_metadata(tokenizer._serialised, {}, tokenizer.vocabulary_size, **{"warn": lambda text: None} | options)


@pytest.fixture(scope="module")
def byte_metadata():
    """A vocabulary of single bytes and a few merges, without a pre-tokenizer."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġt", "he", "Ġthe", "12", "<|im_end|>", "<think>"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [*[1] * (len(tokens) - 2), 3, 4],
        "tokenizer.ggml.merges": ["Ġ t", "h e", "Ġt he", "1 2", "q qq"],
        "tokenizer.ggml.eos_token_id": len(tokens) - 2,
    }


@pytest.mark.parametrize("name", NAMES)
def test_each_known_pre_tokenizer_opens_and_loses_nothing(byte_metadata, name):
    tokenizer = opened(byte_metadata | {"tokenizer.ggml.pre": name})
    for text in (" the 12 été's ١٢٣ 日本語\r\n\n  x=(1)", "", "  \t\n"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode(" the") == [byte_metadata["tokenizer.ggml.tokens"].index("Ġthe")]


@pytest.mark.parametrize("known", TABLE, ids=lambda known: known.names[0])
def test_the_table_is_recognised_from_its_own_cuts(known):
    found = recognised(cuts_of(as_component(known.cuts)), known.ignore_merges)
    assert (found.cuts, found.ignore_merges) == (known.cuts, known.ignore_merges)


@pytest.mark.parametrize(
    ("pre_tokenizer", "name"),
    [
        (pre_tokenizers.ByteLevel(add_prefix_space=False), "gpt-2"),
        (
            pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
            "smollm",
        ),
        (pre_tokenizers.ByteLevel(add_prefix_space=True), None),
        (pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(False)]), None),
        (pre_tokenizers.Split(Regex("x"), "merged_with_next"), None),
    ],
)
def test_other_spellings_of_the_same_cuts_are_recognised_and_other_cuts_are_not(pre_tokenizer, name):
    core = LibraryTokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizer
    cuts = cuts_of(json.loads(core.to_str())["pre_tokenizer"])
    known = None if cuts is None else recognised(cuts, False)
    assert (known and known.names[0]) == name


def test_line_breaks_may_be_written_as_they_are():
    known = next(known for known in TABLE if "deepseek-v3" in known.names)
    literal = tuple(cut.replace(r"\r\n", "\r\n") for cut in known.cuts)
    assert literal != known.cuts
    assert recognised(literal, False) is known


def test_an_unknown_or_unnamed_pre_tokenizer_is_refused_with_the_known_ones(byte_metadata):
    with pytest.raises(UserError, match=r"'mystery' is not known.*deepseek-v3.*llama-bpe.*smollm"):
        opened(byte_metadata | {"tokenizer.ggml.pre": "mystery"})
    with pytest.raises(UserError, match=r"tokenizer\.ggml\.pre.*newer conversion"):
        opened(byte_metadata)


@pytest.mark.parametrize("kind", [None, "bert", "t5", 7, "x" * 1000])
def test_another_kind_of_vocabulary_is_refused_with_the_known_ones(kind):
    with pytest.raises(UserError, match="gpt2, llama") as refusal:
        tokenizer_from_gguf({"tokenizer.ggml.model": kind})
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokens", []),
        ("tokens", ["a", "a"]),
        ("tokens", ["a", 1]),
        ("tokens", "ab"),
        ("token_type", [1]),
        ("token_type", ["1"]),
        ("merges", [1]),
        ("merges", {"a": "b"}),
    ],
)
def test_damaged_metadata_are_refused(byte_metadata, key, value):
    with pytest.raises(UserError, match=r"fetch the file anew|choose a file"):
        tokenizer_from_gguf(byte_metadata | {"tokenizer.ggml.pre": "gpt-2", f"tokenizer.ggml.{key}": value})


wild = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=6,
)


@given(
    base=st.sampled_from(["gpt2", "llama"]),
    key=st.sampled_from(
        [
            *("tokens", "token_type", "scores", "merges", "pre", "model", "bos_token_id", "eos_token_id"),
            *("unknown_token_id", "add_bos_token", "add_eos_token", "add_space_prefix"),
        ]
    ),
    value=wild,
    template=wild,
)
def test_whatever_the_metadata_hold_they_open_or_are_refused(byte_metadata, base, key, value, template):
    metadata = byte_metadata | {"tokenizer.ggml.pre": "gpt-2"} if base == "gpt2" else dict(LLAMA)
    metadata |= {f"tokenizer.ggml.{key}": value, "tokenizer.chat_template": template, "general.name": template}
    try:
        tokenizer = opened(metadata)
    except UserError:
        return
    assert isinstance(tokenizer.decode(tokenizer.encode("the ab")), str)
    assert tokenizer.bos is None or tokenizer.bos < tokenizer.vocabulary_size


def test_sentence_piece_without_its_scores_is_refused():
    damaged = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["a", "b"], "tokenizer.ggml.scores": [0.0]}
    with pytest.raises(UserError, match="1 scores for 2 tokens"):
        tokenizer_from_gguf(damaged)


@given(text=strings)
def test_our_own_cuts_come_back_exactly(tokenizer, text):
    written = own_metadata(tokenizer)
    assert written["cadran.tokenizer.pattern"] == PATTERN
    again = opened(written)
    for special in (False, True):
        assert again.encode(text, special) == tokenizer.encode(text, special)


def test_the_nearest_name_fits_what_the_vocabulary_was_learnt_from_and_a_warning_says_so(tokenizer):
    said = []
    assert own_metadata(tokenizer, warn=said.append)["tokenizer.ggml.pre"] == "poro-chat"
    assert own_metadata(train_bpe(CODE, 300), warn=said.append)["tokenizer.ggml.pre"] == "dbrx"
    assert "as poro-chat does" in said[0]
    assert "as dbrx does" in said[1]
    with pytest.warns(UserWarning, match="poro-chat"):
        gguf_metadata(tokenizer._serialised, {}, 400)


def test_a_way_to_cut_that_has_no_name_is_refused(tokenizer):
    content = json.loads(tokenizer._serialised)
    for change in (
        {"pre_tokenizer": as_component((r"\p{L}+",))},
        {"pre_tokenizer": as_component(TABLE[0].cuts), "normalizer": {"type": "Lowercase"}},
    ):
        with pytest.raises(UserError, match=r"no name.*--hf"):
            gguf_metadata(json.dumps(content | change), {}, 400)


def test_unigram_is_refused(tokenizer):
    with pytest.raises(UserError, match=r"Unigram.*--hf"):
        gguf_metadata(small_tokenizer("unigram"), {}, 1000)
    with pytest.raises(UserError, match="not a tokenizer"):
        gguf_metadata("{}", {}, 1000)


def test_ids_without_a_token_are_filled_and_too_many_tokens_are_refused(tokenizer):
    written = gguf_metadata(tokenizer._serialised, {}, 410, warn=lambda text: None)
    assert written["tokenizer.ggml.tokens"][399:402] == [written["tokenizer.ggml.tokens"][399], "[PAD400]", "[PAD401]"]
    assert written["tokenizer.ggml.token_type"][399:402] == [1, 5, 5]
    with pytest.raises(UserError, match="id 399 and the model 300"):
        gguf_metadata(tokenizer._serialised, {}, 300)


def test_special_tokens_frames_and_templates_go_both_ways(tokenizer, tmp_path):
    tokenizer.save(tmp_path, chat=True)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    written = gguf_metadata(tokenizer._serialised, config, 400, warn=lambda text: None)
    assert written["tokenizer.ggml.eos_token_id"] == tokenizer.im_end
    assert written["tokenizer.ggml.padding_token_id"] == tokenizer.pad
    assert written["tokenizer.ggml.token_type"][:8] == [3] * 7 + [1]
    again = opened(written)
    assert again.config["chat_template"] == config["chat_template"]
    assert (again.eos_ids[0], again.pad, again.adds_bos) == (tokenizer.im_end, tokenizer.pad, False)
    named = [{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}]
    written = gguf_metadata(tokenizer._serialised, config | {"chat_template": named}, 400, warn=lambda text: None)
    assert written["tokenizer.chat_template"] == "a"
    assert written["tokenizer.chat_template.rag"] == "b"
    assert opened(written).config["chat_template"] == named


def test_an_end_of_turn_is_found_by_its_name(byte_metadata):
    tokens = byte_metadata["tokenizer.ggml.tokens"]
    metadata = byte_metadata | {
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.token_type": [1] * len(tokens),
        "tokenizer.ggml.eos_token_id": tokens.index("<think>"),
        "tokenizer.ggml.bos_token_id": 0,
    }
    tokenizer = opened(metadata)
    assert tokenizer.eos_ids == (tokens.index("<think>"), tokens.index("<|im_end|>"))
    assert tokenizer.is_special(tokens.index("<|im_end|>"))
    assert tokenizer.adds_bos
    assert not opened(metadata | {"tokenizer.ggml.add_bos_token": False}).adds_bos


def test_the_file_that_is_made_adds_bos_for_programs_that_ask_the_library(byte_metadata):
    metadata = byte_metadata | {"tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.bos_token_id": 5}
    serialised, _ = tokenizer_from_gguf(metadata | {"tokenizer.ggml.add_bos_token": True})
    assert LibraryTokenizer.from_str(serialised).encode("").ids == [5]
    serialised, _ = tokenizer_from_gguf(metadata)
    assert LibraryTokenizer.from_str(serialised).encode("").ids == []


LLAMA = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": [
        *("<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))),
        *("▁", "a", "b", "▁a", "ab", "▁ab", "<|user|>", "  "),
    ],
    "tokenizer.ggml.scores": [0.0] * 259 + [-10.0, -11.0, -12.0, -1.0, -2.0, -0.5, -1000.0, -1000.0],
    "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * 6, 3, 4],
}


@given(text=st.text(alphabet="ab é\n", max_size=12), prefix=st.booleans())
def test_sentence_piece_goes_through_a_file_and_back(tmp_path_factory, text, prefix):
    ours = opened(LLAMA | {"tokenizer.ggml.add_space_prefix": prefix})
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    serialised, config = tokenizer_from_gguf(LLAMA | {"tokenizer.ggml.add_space_prefix": prefix})
    written = gguf_metadata(serialised, config, len(LLAMA["tokenizer.ggml.tokens"]) + 3, warn=pytest.fail)
    write_gguf(path, written, [("x", np.zeros((1, 32), np.float32), "F32")])
    with GgufFile.open(path) as file:
        again = opened(file.metadata)
    assert again.encode(text) == ours.encode(text)
    if not (prefix and "  " in text):  # as in llama.cpp, the text after a user-defined token gets a space of its own
        assert ours.decode(ours.encode(text)) == text
    assert (again.bos, again.adds_bos, again.eos_ids) == (ours.bos, ours.adds_bos, ours.eos_ids) == (1, True, (2,))


def test_phi_3_takes_the_white_space_after_its_special_tokens():
    user, space = LLAMA["tokenizer.ggml.tokens"].index("<|user|>"), LLAMA["tokenizer.ggml.tokens"].index("▁ab")
    for name, rest in (("Phi3", [space]), ("Other", opened(LLAMA).encode("\n ab"))):
        assert opened(LLAMA | {"general.name": name}).encode("<|user|>\n ab", special=True) == [user, *rest]


def test_merges_that_no_scores_give_are_warned_of():
    content = json.loads(tokenizer_from_gguf(LLAMA)[0])
    content["model"]["merges"].remove(["▁a", "b"])
    said = []
    gguf_metadata(json.dumps(content), {}, 300, warn=said.append)
    assert "other tokens there" in said[0]
    content["normalizer"] = {"type": "Lowercase"}
    with pytest.raises(UserError, match=r"SentencePiece.*--hf"):
        gguf_metadata(json.dumps(content), {}, 300)
