"""Files to raw rows: JSON, JSON lines, CSV, TSV and Parquet, each row with the number that a person finds it by.

That number is the line in JSON lines and the place in the list elsewhere. What is broken is a ``Refused`` in place of
the row, so that reading goes on after it.
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cadran.align.data.refused import Refused, keys_found, quoted
from cadran.align.data.shapes import fields_of, shape_of
from cadran.corpus.sources.encoding import NotText, decode
from cadran.errors import UserError

Record = tuple[int, Any]

LONGEST_LINE = 1 << 24
"""Bytes of one JSON line; no context holds a row that is longer."""

_LISTS = ("data", "train", "rows", "examples")
_NUMBERS = ("margin", "score_chosen", "score_rejected", "chosen_score", "rejected_score")
_LABELS = ("label", "kto_tag")


def read_json(path: Path, counts: Counter[str]) -> Iterator[Record]:
    """A list of rows, or an object that holds one; JSON lines under this name are read too.

    Raises:
        Refused: the file is not JSON, or holds no list of rows.
    """
    text = _decoded(path.read_bytes(), counts)
    try:
        content = json.loads(text)
    except RecursionError:
        raise Refused("it is nested too deep; write one flat object a row") from None
    except ValueError as error:
        first, *more = [line for line in text.splitlines() if line.strip()] or [""]
        if more and isinstance(_json_or_none(first), dict):
            yield from read_json_lines(path, counts)
            return
        where = f"line {error.lineno}, column {error.colno}: " if isinstance(error, json.JSONDecodeError) else ""
        reason = "it is empty" if not text.strip() else f"it is not JSON ({where}{quoted(str(error).split(':')[0])})"
        raise Refused(f"{reason}; write a list of objects") from None
    yield from enumerate(_rows_within(content), start=1)


def _rows_within(content: Any) -> list[Any]:
    if isinstance(content, list):
        if content and all(isinstance(each, dict) and {"role", "content"} <= each.keys() for each in content):
            return [{"messages": content}]  # the file is one conversation
        return content
    if not isinstance(content, dict):
        raise Refused("it holds a single value; write a list of objects")
    if shape_of(fields_of(content)):
        return [content]
    lists = [name for name, value in content.items() if isinstance(value, list)]
    for name in (*_LISTS, *(lists if len(lists) == 1 else ())):
        rows = content.get(name)
        if isinstance(rows, list) and all(isinstance(row, (dict, list)) for row in rows):
            return rows
    raise Refused(f'it holds no list of rows but {keys_found(content)}; write a list, or {{"data": [...]}}')


def read_json_lines(path: Path, counts: Counter[str]) -> Iterator[Record]:
    """A row on every line; empty lines are passed over. A JSON list under this name is read too.

    Raises:
        Refused: the file is not text.
    """
    for number, line in _lines(path, counts):
        if isinstance(line, Refused):
            yield number, line
            continue
        try:
            text, guessed = decode(line)
        except NotText:
            raise Refused("it is not text; write JSON lines in UTF-8") from None
        counts["guessed encoding"] += guessed
        if not text.strip():
            continue
        if number == 1 and text.lstrip()[:1] == "[":
            try:
                whole = _decoded(path.read_bytes(), Counter())
                yield from enumerate(_rows_within(json.loads(whole)), start=1)
                return
            except (ValueError, RecursionError):
                pass
        try:
            row = json.loads(text)
        except RecursionError:
            row = Refused("it is nested too deep; write a flat object")
        except ValueError as error:
            where = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            row = Refused(f"it is not JSON ({quoted(str(error).split(':')[0])}{where}); write one object on the line")
        yield number, row


def _lines(path: Path, counts: Counter[str]) -> Iterator[tuple[int, bytes | Refused]]:
    with path.open("rb") as file:
        wide = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
        file.seek(0)
        if wide:  # lines of UTF-16 cannot be told apart before decoding
            text = _decoded(file.read(), counts)
            yield from enumerate((line.encode() for line in text.split("\n")), start=1)
            return
        number = 0
        while line := file.readline(LONGEST_LINE):
            number += 1
            if len(line) < LONGEST_LINE or line.endswith(b"\n"):
                yield number, line
                continue
            size = len(line)
            while not line.endswith(b"\n") and (line := file.readline(LONGEST_LINE)):
                size += len(line)
            yield number, Refused(f"the line has {size / 1e6:,.0f} MB, far more than a model reads; shorten it")


def read_table(path: Path, counts: Counter[str]) -> Iterator[Record]:
    """CSV (commas or semicolons) or TSV with a header line.

    Raises:
        Refused: the file is not text.
    """
    text = _decoded(path.read_bytes(), counts)
    header, _, _ = text.lstrip("\r\n").partition("\n")
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    number = 0
    try:
        for cells in rows:
            if not any(cells):
                continue
            if names is None:
                names = [cell.strip() for cell in cells]
                continue
            number += 1
            if len(cells) != len(names):
                yield number, Refused(f"it has {len(cells)} cells and the header {len(names)}; quote cells with commas")
                continue
            yield number, {name: _cell(name, cell) for name, cell in zip(names, cells, strict=True) if cell}
    except csv.Error as error:
        # After a broken quote nothing is known to be a row, so nothing more is read.
        reason = f"it and what follows cannot be read ({quoted(str(error))}); mend the quotes or write JSON lines"
        yield number + 1, Refused(reason)


def _cell(name: str, cell: str) -> Any:
    """A cell: a string, except in the columns that hold a label or a number."""
    if name.lower() in _LABELS:
        return {"true": True, "1": True, "false": False, "0": False}.get(cell.strip().lower(), cell)
    read = _json_or_none(cell) if name.lower() in _NUMBERS else None
    return cell if read is None else read


def read_parquet(path: Path, counts: Counter[str]) -> Iterator[Record]:
    """Parquet, a batch of rows in memory at a time.

    Raises:
        Refused: the file is not Parquet.
        UserError: pyarrow is not installed.
    """
    try:
        import pyarrow.lib
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"Reading {path.name} needs pyarrow: run `pip install 'cadran[data]'`.") from None

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, _pruned(row)
    except (pyarrow.lib.ArrowException, OSError, ValueError):
        raise Refused("it is not a Parquet file, or a damaged one; write it anew") from None


def _pruned(value: Any) -> Any:
    """Without the nulls that a Parquet struct has where a row lacks a field of another row."""
    if isinstance(value, dict):
        return {key: _pruned(part) for key, part in value.items() if part is not None}
    return [_pruned(part) for part in value] if isinstance(value, list) else value


READERS: dict[str, Callable[[Path, Counter[str]], Iterator[Record]]] = {
    ".json": read_json,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".csv": read_table,
    ".tsv": read_table,
    ".parquet": read_parquet,
}
"""By the file's ending, in lower case."""


def _decoded(content: bytes, counts: Counter[str]) -> str:
    try:
        text, guessed = decode(content)
    except NotText:
        raise Refused("it is not text; write it in UTF-8") from None
    counts["guessed encoding"] += guessed
    return text


def _json_or_none(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
