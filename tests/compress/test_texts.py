"""What is learnt from and what is judged by."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadran.compress.texts import Texts, calibration_windows, own_texts, read_texts, split_texts, thinned
from cadran.errors import UserError


@given(st.lists(st.text("abc\n ", min_size=1), min_size=1, max_size=30))
def test_nothing_is_on_both_sides(documents):
    try:
        learnt, judged = split_texts(Texts(tuple(documents), "data"))
    except UserError:
        assert len(documents) < 5
        return
    assert judged.documents and judged.source == "held-out part of data"
    assert not set(learnt.documents) & set(judged.documents) or len(documents) < 5
    assert len("".join(judged.documents)) + len("".join(learnt.documents)) <= len("".join(documents))


def test_a_single_document_is_cut_between_lines():
    text = "".join(f"line {number}\n" for number in range(50))
    learnt, judged = split_texts(Texts((text,), "data"))
    assert learnt.documents[0] + judged.documents[0] == text and judged.documents[0].startswith("line 40\n")


def test_a_single_line_cannot_be_both():
    with pytest.raises(UserError, match="too short to be learnt from and judged by"):
        split_texts(Texts(("one line",), "data"))


def test_files_folders_and_rows_are_read(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": word}) + "\n" for word in ("two", "three")))
    (tmp_path / "notes.log").write_text("four")
    assert read_texts(tmp_path / "a.txt").documents == ("one",)
    assert read_texts(tmp_path / "b.jsonl").documents == ("two", "three")
    assert read_texts(tmp_path / "notes.log").documents == ("four",)
    assert read_texts(tmp_path).documents == ("one", "two", "three")


@pytest.mark.parametrize("content", [None, b"", b"\0\1\2" * 99])
def test_what_holds_no_text_is_refused_by_name(tmp_path, content):
    path = tmp_path / "data.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"data\.txt"):
        read_texts(path)


def test_a_run_is_judged_by_its_held_out_documents_and_others_by_python_itself(tmp_path):
    stage = tmp_path / "run" / "base"
    stage.mkdir(parents=True)
    assert own_texts(stage).source == "documentation of Python's standard library"
    (tmp_path / "run" / "corpus").mkdir()
    rows = [
        {"id": str(n), "text": f"text {n}", "source": "s", "language": "en", "meta": {}, "split": split}
        for n, split in enumerate(["train", "validation", "train"])
    ]
    (tmp_path / "run" / "corpus" / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert own_texts(stage) == Texts(("text 1",), "held-out documents of the run")


def test_windows_lie_evenly_in_the_text():
    found = calibration_windows([np.arange(60), np.arange(60, 100)], "data", count=5, length=10)
    assert found[:, 0].tolist() == [0, 20, 40, 60, 90] and found.shape == (5, 10)
    assert calibration_windows([np.arange(45)], "data", count=64, length=10).shape == (4, 10)


def test_too_little_to_calibrate_with_is_refused_with_both_numbers():
    with pytest.raises(UserError, match="data has 39 tokens to calibrate with, and 40 are the least"):
        calibration_windows([np.arange(39)], "data", count=64, length=10)


def test_long_texts_are_thinned_evenly():
    texts = Texts(tuple(f"{number:04}" * 100 for number in range(100)), "data")
    kept = thinned(texts, 400).documents
    assert len(kept) == 24 and kept[0].startswith("0000") and kept[-1] > "0090"
    assert thinned(texts, 10_000) == texts
