"""Ratings: what was rated is on the disk, whole, whoever writes beside, and a hostile file spoils nothing."""

import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cadran.align.data.row import Labelled
from cadran.align.preference import PreferencePair
from cadran.align.ratings import LONGEST_LINE, RATINGS, append_rating, read_ratings
from cadran.errors import UserError

ASKED = [{"role": "user", "content": "Who are you?"}]
PAIR = PreferencePair(ASKED, "A model.", "Yes.", "rating", "en")
THUMB = Labelled(ASKED, "A model.", True, "en")
LINE = json.dumps({"messages": ASKED, "chosen": "A model.", "rejected": "Yes."})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / RATINGS


def test_no_file_holds_no_ratings(path: Path) -> None:
    assert read_ratings(path) == ([], [], [])


def test_ratings_are_read_as_they_were_given(path: Path) -> None:
    append_rating(path, PAIR, models={"chosen": "quickstart", "rejected": "smollm2"}, by="anna")
    append_rating(path, THUMB)
    pairs, labelled, refused = read_ratings(path)
    assert pairs == [PreferencePair(ASKED, "A model.", "Yes.", "rating", "en", source="line 1 of ratings.jsonl")]
    assert labelled == [Labelled(ASKED, "A model.", True, "en", source="line 2 of ratings.jsonl")]
    assert refused == []


def test_the_file_holds_what_its_format_says_and_nothing_else(path: Path) -> None:
    append_rating(path, PAIR, models={"chosen": "quickstart"}, by="anna")
    append_rating(path, THUMB)
    assert [json.loads(line) for line in path.read_bytes().decode().splitlines()] == [
        {
            "messages": ASKED, "chosen": "A model.", "rejected": "Yes.", "kind": "rating", "language": "en",
            "models": {"chosen": "quickstart"}, "by": "anna",
        },
        {"messages": ASKED, "answer": "A model.", "liked": True, "language": "en"},
    ]  # fmt: skip


TEXT = st.text(min_size=1, max_size=20).filter(lambda text: text.strip() != "")


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=TEXT, answers=st.lists(TEXT, min_size=2, max_size=2, unique_by=str.strip))
def test_any_text_comes_back_unchanged(tmp_path: Path, asked: str, answers: list[str]) -> None:
    path = tmp_path / RATINGS
    path.unlink(missing_ok=True)
    pair = PreferencePair([{"role": "user", "content": asked}], *answers)
    append_rating(path, pair)
    (read,) = read_ratings(path).pairs
    assert (read.messages, read.chosen, read.rejected) == (pair.messages, pair.chosen, pair.rejected)


def test_the_last_word_about_the_same_answers_counts(path: Path) -> None:
    append_rating(path, PAIR)
    append_rating(path, THUMB)
    append_rating(path, PreferencePair(ASKED, "Yes.", "A model."))
    append_rating(path, Labelled(ASKED, "A model.", False))
    pairs, labelled, _ = read_ratings(path)
    assert [(pair.chosen, pair.source) for pair in pairs] == [("Yes.", "line 3 of ratings.jsonl")]
    assert [row.label for row in labelled] == [False]
    assert len(path.read_bytes().splitlines()) == 4


def test_writers_side_by_side_lose_nothing(path: Path) -> None:
    def write(writer: int) -> None:
        for number in range(20):
            append_rating(path, PreferencePair(ASKED, f"{writer} {number} " + "x" * 9000, "no"))

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    pairs, _, refused = read_ratings(path)
    assert not refused and len(path.read_bytes().splitlines()) == 80
    assert {pair.chosen.rsplit(" ", 1)[0] for pair in pairs} == {f"{w} {n}" for w in range(4) for n in range(20)}


def test_a_second_writer_waits_for_the_first(path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    append_rating(path, PAIR)
    other = threading.Thread(target=append_rating, args=(path, THUMB))
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        other.start()
        other.join(0.2)
        assert other.is_alive() and read_ratings(path).labelled == []
    other.join(60)
    assert not other.is_alive() and len(read_ratings(path).labelled) == 1


@pytest.mark.parametrize("length", range(1, len(LINE), 7))
def test_a_last_line_that_was_cut_is_passed_over_and_spoils_no_later_one(path: Path, length: int) -> None:
    append_rating(path, THUMB)
    with path.open("a", encoding="utf-8") as file:
        file.write(LINE[:length])
    assert read_ratings(path) == ([], [Labelled(ASKED, "A model.", True, "en", "line 1 of ratings.jsonl")], [])
    append_rating(path, PAIR)
    pairs, labelled, refused = read_ratings(path)
    assert len(pairs) == len(labelled) == 1
    assert refused == ["line 2 of ratings.jsonl is no JSON object: remove it"]


def test_a_whole_line_that_lacks_its_end_counts(path: Path) -> None:
    path.parent.mkdir()
    path.write_text(LINE, encoding="utf-8")
    assert len(read_ratings(path).pairs) == 1
    append_rating(path, THUMB)
    assert (len(read_ratings(path).pairs), len(read_ratings(path).labelled)) == (1, 1)


@pytest.mark.parametrize("written", [0, 10])
def test_a_disk_that_is_full_leaves_the_file_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    append_rating(path, PAIR)
    before, write = path.read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda handle, line: write(handle, line[:written]))
    with pytest.raises(OSError, match="in part only"):
        append_rating(path, THUMB)
    assert path.read_bytes() == before


def test_a_rating_is_flushed_to_disk_before_it_counts_as_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: sizes.append(os.fstat(handle).st_size))
    append_rating(path, PAIR)
    assert path.stat().st_size in sizes


HOSTILE = [
    ("[1, 2]", "is no JSON object"),
    ("null", "is no JSON object"),
    ("{", "is no JSON object"),
    ("[" * 100_000, "is no JSON object"),
    ("9" * 10_000, "is no JSON object"),
    ("{}", "has no messages"),
    ('{"messages": "Hi", "chosen": "a", "rejected": "b"}', "has no messages"),
    ('{"messages": [], "chosen": "a", "rejected": "b"}', "has no messages"),
    ('{"messages": ["Hi"], "chosen": "a", "rejected": "b"}', "no known role in message 1"),
    ('{"messages": [{"role": "root", "content": "x"}], "chosen": "a", "rejected": "b"}', "no known role"),
    ('{"messages": [{"role": ["user"], "content": "x"}], "chosen": "a", "rejected": "b"}', "no known role"),
    ('{"messages": [{"role": "user", "content": null}], "chosen": "a", "rejected": "b"}', "content of message 1"),
    ('{"messages": [{"role": "user", "content": "\\ud800"}], "chosen": "a", "rejected": "b"}', "content of message 1"),
    ('{"messages": [{"role": "system", "content": "x"}], "chosen": "a", "rejected": "b"}', "no user turn"),
    (json.dumps({"messages": ASKED, "chosen": "a"}), "no text as its rejected"),
    (json.dumps({"messages": ASKED, "chosen": ["a"], "rejected": "b"}), "no text as its chosen"),
    (json.dumps({"messages": ASKED, "chosen": "a", "rejected": "\ud800"}), "no valid Unicode"),
    (json.dumps({"messages": ASKED, "chosen": "a", "rejected": "a "}), "same answer"),
    (json.dumps({"messages": ASKED, "chosen": "a", "rejected": " "}), "empty rejected answer"),
    (json.dumps({"messages": ASKED, "chosen": "a", "rejected": "b", "kind": 7}), "no text as its kind"),
    (json.dumps({"messages": ASKED, "answer": "a"}), "neither"),
    (json.dumps({"messages": ASKED, "answer": "a", "liked": "yes"}), "neither"),
    (json.dumps({"messages": ASKED, "answer": "", "liked": True}), "empty answer"),
    (json.dumps({"messages": ASKED, "chosen": "a" * LONGEST_LINE, "rejected": "b"}), "is longer than"),
    (
        json.dumps({"messages": [*ASKED, {"role": "assistant", "content": "", "tool_calls": [1]}, *ASKED]}),
        "calls a tool in message 2",
    ),
]


def test_a_hostile_line_is_refused_by_name_and_spoils_no_other(path: Path) -> None:
    path.parent.mkdir()
    lines = [line for hostile, _ in HOSTILE for line in (hostile, "")]
    path.write_text("\n".join([*lines, LINE, ""]), encoding="utf-8")
    pairs, labelled, refused = read_ratings(path)
    assert len(pairs) == 1 and labelled == [] and len(refused) == len(HOSTILE)
    for number, (sentence, (_, reason)) in enumerate(zip(refused, HOSTILE, strict=True)):
        assert sentence.startswith(f"line {2 * number + 1} of ratings.jsonl ") and reason in sentence
    path.write_bytes(b"\xff\xfe\n\x00\n" + LINE.encode() + b"\n")
    assert (len(read_ratings(path).pairs), len(read_ratings(path).refused)) == (1, 2)


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no file"):
        read_ratings(tmp_path)


@pytest.mark.parametrize(
    ("rating", "reason"),
    [
        (PreferencePair(ASKED, "a", " a"), "same answer"),
        (PreferencePair([], "a", "b"), "no user turn"),
        (PreferencePair(ASKED, "a", "\ud800"), "no valid Unicode"),
        (PreferencePair(ASKED, "a", "b" * LONGEST_LINE), "bytes; rate"),
        (Labelled(ASKED, " ", True), "empty answer"),
    ],
)
def test_what_could_not_be_learnt_from_is_never_written(
    path: Path, rating: PreferencePair | Labelled, reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        append_rating(path, rating)
    assert not path.exists()
