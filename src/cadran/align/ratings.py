"""``ratings.jsonl``: what people thought of answers; lies in the folder of a run, beside its stages.

UTF-8, one JSON object a line, each line ended by a line feed, only ever appended to. Two kinds of line:

A choice between two answers::

    {"messages": [{"role": "user", "content": "Who are you?"}], "chosen": "A model.", "rejected": "Yes.",
     "kind": "rating", "language": "en", "models": {"chosen": "quickstart", "rejected": "smollm2"}, "by": "anna"}

A thumb, up or down, for one answer::

    {"messages": [{"role": "user", "content": "Who are you?"}], "answer": "A model.", "liked": true}

``messages`` is the conversation before the answer, with ``role`` (system, user, assistant or tool) and ``content`` (a
string); it holds a user turn and does not end with an answer. ``kind`` ("rating" when absent), ``language`` ("und" when
absent), ``models`` (names, never paths) and ``by`` are optional. Fields that are not named here are passed over. No
field tells the time. Who rates the same answers again changes his mind: the later line counts.

A writer holds an exclusive lock on the file (``flock``) while it looks whether the last line is whole (after one that
a crash cut short it begins a new line), appends with one write, and flushes to disk. Readers need no lock.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cadran.align.data.row import Labelled
from cadran.align.preference import PreferencePair, why_no_prompt, why_unfit
from cadran.align.rows import Message
from cadran.corpus.jsonl import encode_line
from cadran.errors import UserError
from cadran.files import sync_folder
from cadran.tokenizer.template import ROLES

RATINGS = "ratings.jsonl"
LONGEST_LINE = 1 << 20
"""Bytes; a longer line is refused without being kept in memory."""


class Ratings(NamedTuple):
    """What a file of ratings holds.

    Attributes:
        pairs: choices, in the order of their last word.
        labelled: thumbs, likewise.
        refused: a sentence for each line that was left out.
    """

    pairs: list[PreferencePair]
    labelled: list[Labelled]
    refused: list[str]


def append_rating(
    path: Path,
    rating: PreferencePair | Labelled,
    *,
    models: Mapping[str, str] | None = None,
    by: str | None = None,
) -> None:
    """Add one rating; when this returns it is on the disk, whoever else is writing.

    Args:
        path: the file; made when it is not there.
        rating: its ``margin`` and ``source`` are not kept.
        models: names of the models that gave the answers, by ``chosen`` and ``rejected``, or ``answer``.
        by: who rated.

    Raises:
        UserError: nothing can be learnt from it, or it is longer than a line may be.
        OSError: the disk is full, or the file cannot be written; nothing of it is then in the file.
    """
    if (reason := _why_unfit(rating)) is not None:
        raise UserError(f"this rating {reason}")
    record: dict[str, Any] = {"messages": [dict(message) for message in rating.messages]}
    if isinstance(rating, PreferencePair):
        record |= {"chosen": rating.chosen, "rejected": rating.rejected, "kind": rating.kind}
    else:
        record |= {"answer": rating.completion, "liked": rating.label}
    record |= {"language": rating.language}
    record |= {"models": dict(models)} if models else {}
    record |= {"by": by} if by else {}
    try:
        line = encode_line(record)
    except UnicodeEncodeError as error:
        raise UserError("this rating is no valid Unicode text; leave out the damaged character") from error
    if len(line) > LONGEST_LINE:
        raise UserError(f"this rating has {len(line):,} bytes; rate a conversation of less than {LONGEST_LINE:,}")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644)
    try:
        with _locked(handle):
            _append(handle, line)
    finally:
        os.close(handle)
    sync_folder(path.parent)


def _append(handle: int, line: bytes) -> None:
    size = os.fstat(handle).st_size
    if size:
        os.lseek(handle, size - 1, os.SEEK_SET)
        if os.read(handle, 1) != b"\n":
            line = b"\n" + line
    try:
        if os.write(handle, line) != len(line):
            raise OSError("the rating could be written in part only; free some space")
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, size)
        raise


@contextmanager
def _locked(handle: int) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows: an append is one write there too, and two writers are the user's own care
        yield
        return
    fcntl.flock(handle, fcntl.LOCK_EX)
    yield  # released when the file is closed


def read_ratings(path: Path) -> Ratings:
    """Everything that can be learnt from, and a sentence about everything else.

    A last line without an end that is no JSON is one that is being written, or was cut short: it is passed over.

    Args:
        path: the file; no ratings when it is not there.

    Raises:
        UserError: it is no regular file, or cannot be read.
    """
    if not path.exists():
        return Ratings([], [], [])
    if not path.is_file():
        raise UserError(f"{path} is no file; ratings are lines of JSON in a file")
    # By what was rated, so that the last word about the same answers counts.
    kept: dict[str, PreferencePair | Labelled] = {}
    refused: list[str] = []
    try:
        for number, line in _lines(path):
            name = f"line {number} of {path.name}"
            if len(line) > LONGEST_LINE:
                refused.append(f"{name} is longer than {LONGEST_LINE:,} bytes: remove it")
                continue
            try:
                record = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError):
                if line.endswith(b"\n"):
                    refused.append(f"{name} is no JSON object: remove it")
                continue
            row = parse_rating(record, name)
            if isinstance(row, str):
                refused.append(row)
                continue
            key = _rated(row)
            kept.pop(key, None)
            kept[key] = row
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); see that you may read it") from error
    rows = list(kept.values())
    pairs = [row for row in rows if isinstance(row, PreferencePair)]
    return Ratings(pairs, [row for row in rows if isinstance(row, Labelled)], refused)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number and content of each line that is not blank; of one that is too long, only its beginning."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            piece = line
            while len(piece) > LONGEST_LINE and not piece.endswith(b"\n"):
                piece = file.readline(LONGEST_LINE + 1)
            if line.strip():
                yield number, line


def _rated(row: PreferencePair | Labelled) -> str:
    answers = sorted((row.chosen, row.rejected)) if isinstance(row, PreferencePair) else row.completion
    return json.dumps([[[message["role"], message["content"]] for message in row.messages], answers])


def parse_rating(record: Any, name: str) -> PreferencePair | Labelled | str:
    """One line's JSON as a rating, or a sentence that says why it is none.

    Args:
        record: anything that JSON can hold.
        name: of the line; it begins the sentence.
    """
    if not isinstance(record, dict):
        return f"{name} is no JSON object: remove it"
    messages = parse_messages(record.get("messages"))
    if isinstance(messages, str):
        return f"{name} {messages}"
    texts = {key: record.get(key, default) for key, default in (("kind", "rating"), ("language", "und"))}
    is_pair = "chosen" in record or "rejected" in record
    texts |= {key: record.get(key) for key in (("chosen", "rejected") if is_pair else ("answer",))}
    for key, text in texts.items():
        if not isinstance(text, str):
            return f"{name} has no text as its {key}: mend it, or remove the line"
        if not _is_unicode(text):
            return f"{name} has a {key} that is no valid Unicode: mend it, or remove the line"
    kind, language = texts.pop("kind"), texts.pop("language")
    row: PreferencePair | Labelled
    if is_pair:
        row = PreferencePair(messages, texts["chosen"], texts["rejected"], kind, language, source=name)
    else:
        if not isinstance(record.get("liked"), bool):
            return f"{name} says neither which answer was chosen nor whether one was liked: mend it, or remove the line"
        row = Labelled(messages, texts["answer"], record["liked"], language, name)
    reason = _why_unfit(row)
    return row if reason is None else f"{name} {reason}"


def _why_unfit(row: PreferencePair | Labelled) -> str | None:
    if isinstance(row, PreferencePair):
        return why_unfit(row)
    if (reason := why_no_prompt(row.messages)) is not None:
        return reason
    return None if row.completion.strip() else "has an empty answer: remove it"


def parse_messages(value: Any) -> list[Message] | str:
    """A conversation out of JSON, or why it is none, as the end of a sentence."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return "has no messages: give a list of objects with role and content"
    messages: list[Message] = []
    for number, message in enumerate(value, start=1):
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            return f"has no known role in message {number}: use one of {', '.join(ROLES)}"
        content = message.get("content")
        if not isinstance(content, str) or not _is_unicode(content):
            return f"has no text as the content of message {number}: write a string"
        if message.get("tool_calls"):
            return f"calls a tool in message {number}, which ratings do not keep: remove the line"
        messages.append({"role": message["role"], "content": content})
    return messages


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
