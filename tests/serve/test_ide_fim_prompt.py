"""The prompt of fill-in-the-middle: every family's markers, the order, other files, the cut, and what ends a middle."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from cadran.model.gguf.writer import write_gguf
from cadran.serve.ide.fim_markers import FAMILIES, MarkerFamily, find_markers
from cadran.serve.ide.fim_prompt import FimTokens, echo_of
from cadran.tokenizer.tokenizer import Tokenizer

NOWHERE = Path("/nonexistent")


def with_marks(marks: Sequence[str], **config: object) -> Tokenizer:
    """A byte-level tokenizer that has these special tokens."""
    core = tokenizers.Tokenizer(tokenizers.models.BPE())
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    core.train_from_iterator([], trainer)
    core.add_special_tokens([tokenizers.AddedToken(mark, special=True, normalized=False) for mark in marks])
    return Tokenizer(core.to_str(), config=config)


def fim_for(tokenizer: Tokenizer, path: Path = NOWHERE, opening: tuple[int, ...] = ()) -> FimTokens:
    markers = find_markers(tokenizer, path)
    assert markers is not None
    return FimTokens(markers, tokenizer, opening)


@pytest.fixture(scope="module")
def ours() -> FimTokens:
    return fim_for(tiny_tokenizer())


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.prefix)
def test_each_family_is_known_by_its_names(family: MarkerFamily) -> None:
    marks = [family.prefix, family.suffix, *([family.middle] if family.order == "psm" else [])]
    fim = fim_for(with_marks(["<|endoftext|>", *marks]))
    text = fim.tokenizer.decode(fim.prompt("before", "after"))
    if family.order == "psm":
        assert text == f"{family.prefix}before{family.suffix}after{family.middle}"
    else:
        assert text == f"{family.suffix}after{family.prefix}before"


def test_a_model_without_markers_has_no_prompt() -> None:
    assert find_markers(with_marks(["<|endoftext|>", "<|fim_prefix|>"]), NOWHERE) is None


def test_configuration_turns_the_order_around() -> None:
    fim = fim_for(with_marks(["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"], fim_order="spm"))
    assert fim.tokenizer.decode(fim.prompt("a", "b")) == "<|fim_suffix|>b<|fim_prefix|>a<|fim_middle|>"
    assert fim.template().startswith("<|fim_suffix|>{{ .Suffix }}")


def test_keys_of_a_gguf_file_go_before_names(tmp_path: Path) -> None:
    tokenizer = with_marks(["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<A>", "<B>", "<C>"])
    ids = {
        key: tokenizer.encode(mark, special=True)[0] for key, mark in (("pre", "<A>"), ("suf", "<B>"), ("mid", "<C>"))
    }
    path = tmp_path / "model.gguf"
    keys = {f"tokenizer.ggml.fim_{key}_token_id": id for key, id in ids.items()}
    write_gguf(path, {"general.architecture": "qwen2", **keys}, [("x", np.zeros(1, np.float32), "F32")])
    fim = fim_for(tokenizer, path)
    assert tokenizer.decode(fim.prompt("1", "2")) == "<A>1<B>2<C>"


def test_the_opening_stands_once_before_everything() -> None:
    fim = FimTokens(fim_for(tiny_tokenizer()).markers, tiny_tokenizer(), (0,))
    for extra in ((), [("a.py", "x")]):
        ids = fim.prompt("a", "b", extra=extra, room=60)
        assert ids[0] == 0 and ids.count(0) == 1


def test_markers_in_a_text_are_text(ours: FimTokens) -> None:
    ids = ours.prompt("a<|fim_suffix|>b", "<|fim_middle|>")
    marks = ours.markers
    assert [ids.count(id) for id in (marks.prefix, marks.suffix, marks.middle)] == [1, 1, 1]
    assert ours.tokenizer.decode(ids).count("<|fim_suffix|>") == 2


def test_repository_and_files_come_before_the_gap() -> None:
    marks = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>"]
    fim = fim_for(with_marks(marks))
    text = fim.tokenizer.decode(fim.prompt("a", "b", extra=[("x.py", "1"), ("y.py", "2\n")], repo="mine", path="z.py"))
    assert text == (
        "<|repo_name|>mine\n<|file_sep|>x.py\n1\n<|file_sep|>y.py\n2\n"
        "<|file_sep|>z.py\n<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>"
    )
    assert set(fim.markers.stop_ids) >= {fim.tokenizer.encode(mark, special=True)[0] for mark in marks}


def test_code_llama_has_no_blank_before_the_suffix() -> None:
    names = [
        "<unk>",
        "▁<PRE>",
        "▁<SUF>",
        "▁<MID>",
        "▁<EOT>",
        *(f"<0x{n:02X}>" for n in range(256)),
        "▁",
        "a",
        "b",
        "▁a",
    ]
    model = {
        "type": "BPE", "vocab": {name: id for id, name in enumerate(names)}, "merges": [["▁", "a"]],
        "byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True, "dropout": None,
        "continuing_subword_prefix": None, "end_of_word_suffix": None, "ignore_merges": False,
    }  # fmt: skip
    added = [
        {"id": id, "content": names[id], "special": True, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False}
        for id in range(5)
    ]  # fmt: skip
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    steps = [back, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    tokenizer = Tokenizer(
        json.dumps(
            {
                "version": "1.0",
                "truncation": None,
                "padding": None,
                "added_tokens": added,
                "model": model,
                "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]},
                "pre_tokenizer": None,
                "post_processor": None,
                "decoder": {"type": "Sequence", "decoders": steps},
            }
        )
    )
    fim = fim_for(tokenizer)
    pre, suf, mid = (names.index(f"▁<{mark}>") for mark in ("PRE", "SUF", "MID"))
    assert fim.prompt("a", "ab") == (pre, names.index("▁a"), suf, names.index("a"), names.index("b"), mid)
    assert names.index("▁<EOT>") in fim.stop_ids


@given(before=st.text(max_size=300), after=st.text(max_size=300), room=st.integers(4, 200))
def test_a_prompt_keeps_to_its_room_and_to_the_ends_next_to_the_gap(before: str, after: str, room: int) -> None:
    fim = fim_for(tiny_tokenizer())
    whole, (ids, cut) = fim.prompt(before, after), fim.fitted(before, after, room=room)
    assert len(ids) <= room
    assert cut == (ids != whole)
    first, second = ids.index(fim.markers.suffix), len(ids) - 1
    prefix, suffix = ids[1:first], ids[first + 1 : second]
    assert tuple(fim.tokenizer.encode(before))[-len(prefix) :] == prefix or not prefix
    assert tuple(fim.tokenizer.encode(after))[: len(suffix)] == suffix


def test_long_texts_share_the_room_three_to_one(ours: FimTokens) -> None:
    ids = ours.prompt("a" * 5000, "b" * 5000, room=403)
    prefix, suffix = ids.index(ours.markers.suffix) - 1, len(ids) - ids.index(ours.markers.suffix) - 2
    assert suffix == 100
    assert 300 * 7 / 8 <= prefix <= 300


def test_a_short_side_leaves_its_share_to_the_other(ours: FimTokens) -> None:
    assert len(ours.prompt("a", "b" * 5000, room=403)) == 403
    ids = ours.prompt("a" * 5000, "b", room=403)
    assert 399 * 7 / 8 <= ids.index(ours.markers.suffix) - 1 <= 399


def test_typing_on_leaves_the_cut_where_it_was(ours: FimTokens) -> None:
    """What was computed for one keystroke serves the next: only now and then does the text begin elsewhere."""
    text = "".join(chr(ord("a") + n * n % 26) for n in range(3000))
    begins = {ours.prompt(text[:end], "b" * 2000, room=403)[1:60] for end in range(2000, 2100)}
    assert len(begins) <= 5


def test_files_are_left_out_before_the_text_around_the_gap_is_cut(ours: FimTokens) -> None:
    extra = [("far.py", "z" * 300), ("near.py", "n = 1")]
    ids, cut = ours.fitted("a" * 50, "b" * 20, extra=extra, room=120)
    text = ours.tokenizer.decode(ids)
    assert cut and "near.py" in text and "far.py" not in text
    assert "a" * 50 in text and "b" * 20 in text


def test_an_echo_is_the_beginning_of_the_suffix_and_long_enough_to_mean_something() -> None:
    assert echo_of("\n    return total\n}\n") == ("\n    return total",)
    assert echo_of(") {\n  a\n  return b;\n}") == (") {\n  a\n  return b;",)
    assert echo_of(")\n}\n") == ()
    assert echo_of("") == ()
    assert all(len(echo) <= 200 for echo in echo_of("x" * 5000))
