"""Rows of the shapes in use become readable text, and nothing of them is lost."""

import json

import pytest

from cadran.corpus.sources.rows import row_text


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "a\nb"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, "a\nb"),
        ({"instruction": "a", "input": "", "output": "b", "id": "x"}, "a\nb"),
        ({"prompt": "a", "completion": "b"}, "a\nb"),
        ({"question": "a", "answer": "b"}, "a\nb"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "a\nb"),
        ({"chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "rejected": []}, "a\nb"),
        ({"text": None, "prompt": "a", "response": "b"}, "a\nb"),
    ],
)
def test_known_shapes(row, text):
    found = row_text(row)
    assert found is not None
    assert found[0] == text
    assert json.loads(found[1]["row"]) == row


def test_a_text_is_the_text():
    assert row_text({"text": "a", "messages": []}) == ("a", {})
    assert row_text({"body": "a", "text": "b"}, "body") == ("a", {})


@pytest.mark.parametrize(
    "row", [{}, [], "text", 3, None, {"n": 1}, {"messages": []}, {"messages": [3, None]}, {"prompt": ""}]
)
def test_what_holds_no_words_is_none(row):
    assert row_text(row) is None
