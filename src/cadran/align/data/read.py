"""``read_rows``: a user's file or folder as rows to learn from, with a sentence for everything that is left out.

Nothing is trained on in silence that a person would not want: empty answers, equal preferences, repeated rows and
broken lines are refused by name.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cadran.align.data.records import READERS
from cadran.align.data.refused import Refused, quoted
from cadran.align.data.row import Conversation, Kind, Labelled, Row, Rows, content_of
from cadran.align.data.shapes import KIND_OF, convert, fields_of, shape_of, unrecognised
from cadran.align.preference import PreferencePair
from cadran.errors import UserError
from cadran.files import sha256_text

_USE = {
    "chat": "finetune (SFT)",
    "preference": "the reward and dpo stages",
    "labelled": "the kto stage",
    "verifiable": "the grpo and ppo stages",
}


def read_rows(path: Path, wanted: Kind | None = None) -> Rows:
    """The rows of a file, or of every data file in a folder and below it, in the order of their names.

    Args:
        path: ``.json``, ``.jsonl``, ``.csv``, ``.tsv`` or ``.parquet``, or a folder.
        wanted: what the rows are for; decides where a row could be two things, and refuses those that are something
            else. A row with an answer becomes a verifiable one (its answer is the reference) when those are wanted.

    Returns:
        Rows in order. Each that is left out has its sentence in ``refused``.

    Raises:
        UserError: the path holds no data file, or no row of it can be learnt from.
    """
    rows = Rows()
    counts: Counter[str] = Counter()
    seen: dict[str, str] = {}
    for name, file in _files(path, counts):
        _read_file(file, name, wanted, rows, counts, seen)
    found = {shape for shapes in rows.shapes.values() for shape in shapes}
    kept = len(rows.chats) + len(rows.pairs) + len(rows.labelled) + len(rows.verifiable)
    if not kept:
        why = rows.refused[0] if rows.refused else f"{path.name} is empty; write a row on each of its lines."
        more = f" {len(rows.refused) - 1:,} more are refused." if len(rows.refused) > 1 else ""
        raise UserError(f"{quoted(path.name)} has no row to learn from: {why}{more}")
    counts["rows"], counts["refused"] = kept, len(rows.refused)
    shape = found.pop() if len(found) == 1 else "mixed"
    return Rows(
        rows.chats, rows.pairs, rows.labelled, rows.verifiable, shape, rows.shapes, rows.refused,
        {name: counts[name] for name in sorted(counts) if counts[name]},
    )  # fmt: skip


def _files(path: Path, counts: Counter[str]) -> Iterator[tuple[str, Path]]:
    """Data files with the names that messages give them: relative to the folder."""
    readable = ", ".join(READERS)
    if path.is_file():
        if path.suffix.lower() not in READERS:
            raise UserError(f"{quoted(path.name)} is of no kind that is read here; give a file in one of {readable}.")
        yield quoted(path.name), path
        return
    if not path.is_dir():
        raise UserError(f"There is no file or folder {quoted(str(path), 300)}; name one that holds rows ({readable}).")
    found = 0
    for file in sorted(path.rglob("*")):
        inner = file.relative_to(path)
        if not file.is_file() or any(part.startswith(".") for part in inner.parts):
            continue
        if file.suffix.lower() in READERS:
            found += 1
            yield quoted(inner.as_posix(), 200), file
        else:
            counts["other files"] += 1
    if not found:
        raise UserError(f"The folder {quoted(path.name)} holds no data file; put one in it ({readable}).")


def _read_file(
    path: Path, name: str, wanted: Kind | None, rows: Rows, counts: Counter[str], seen: dict[str, str]
) -> None:
    refused: list[tuple[int, str]] = []
    unknown: list[tuple[int, dict[str, Any]]] = []
    shapes: dict[str, list[int]] = {}
    try:
        for number, record in READERS[path.suffix.lower()](path, counts):
            try:
                if isinstance(record, Refused):
                    raise record
                fields = fields_of(record)
                shape = shape_of(fields, wanted)
                if not shape:
                    unknown.append((number, fields))
                    continue
                if wanted is not None and (kind := KIND_OF[shape]) != wanted:
                    raise Refused(f"it is a {shape} row, for {_USE[kind]}; {wanted} rows are needed here")
                row = convert(fields, shape, f"row {number} of {name}")
                digest = _digest(row)
                if (first := seen.setdefault(digest, row.source)) != row.source:
                    counts["duplicates"] += 1
                    raise Refused(f"it is the same as {first}; it counts once")
            except Refused as reason:
                refused.append((number, str(reason)))
                continue
            except RecursionError:
                refused.append((number, "it is nested too deep; write a flat object"))
                continue
            shapes.setdefault(shape, []).append(number)
            counts[shape] += 1
            _list_for(row, rows).append(row)
    except Refused as reason:
        refused.append((0, str(reason)))
    except OSError as error:
        refused.append((0, f"it cannot be read ({quoted(error.strerror or str(error))}); look at its permissions"))
    if shapes:
        rows.shapes[name] = shapes
    usual = max(shapes, key=lambda shape: len(shapes[shape])) if shapes else ""
    refused += [(number, unrecognised(fields, usual)) for number, fields in unknown]
    for number, why in sorted(refused, key=lambda each: each[0]):
        rows.refused.append(f"{f'row {number} of {name}' if number else name}: {why}.")


def _list_for(row: Row, rows: Rows) -> list[Any]:
    if isinstance(row, Conversation):
        return rows.chats
    if isinstance(row, PreferencePair):
        return rows.pairs
    return rows.labelled if isinstance(row, Labelled) else rows.verifiable


def _digest(row: Row) -> str:
    """Equal for rows with equal content; refuses what cannot be written in UTF-8, as no tokenizer reads it."""
    try:
        return sha256_text(json.dumps([type(row).__name__, content_of(row)], ensure_ascii=False, default=str))
    except UnicodeEncodeError:
        raise Refused("it holds half of a surrogate pair (\\ud800 and the like); write whole characters") from None
    except (TypeError, ValueError):
        raise Refused("it holds data that is not JSON; write strings, numbers, lists and objects") from None
