"""File formats of a folder source: one function per format, all of the same shape.

Each takes a path and the counts for the data sheet, and yields (key suffix, text, meta) per document. The key suffix
is "" when the file is one document, else "#" and the number of the part or row.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cadran.corpus.sources.encoding import NotText, decode
from cadran.corpus.sources.rows import row_text
from cadran.errors import UserError

Part = tuple[str, str, dict[str, str]]

# One long file (a novel, a dump) becomes many documents, so that some can be held out, duplicates are found inside
# it, and no document is far longer than what a model reads at once.
_WHOLE_CHARACTERS = 16_000
_PART_CHARACTERS = 8_000

_CHARSET = re.compile(rb"charset\s*=\s*[\"']?\s*([A-Za-z0-9_.:-]+)", re.IGNORECASE)


class Unreadable(Exception):
    """A file that is skipped; the message says why, in words that fit the data sheet."""


def read_text(path: Path, counts: Counter[str]) -> Iterator[Part]:
    """Plain text and Markdown: as it is, long files cut at paragraphs."""
    yield from _parts(_decoded(path.read_bytes(), counts))


def read_code(path: Path, counts: Counter[str]) -> Iterator[Part]:
    """Source code: one document per file, never cut."""
    text = _decoded(path.read_bytes(), counts)
    if text.strip():
        yield "", text, {"format": path.suffix.lower().lstrip(".")}


def read_html(path: Path, counts: Counter[str]) -> Iterator[Part]:
    """A web page: its main text, without menus, headers and footers (trafilatura)."""
    try:
        import trafilatura
    except ImportError as error:  # it, or something that it needs
        raise UserError(f'Reading HTML needs trafilatura ({error.msg}): run `pip install "cadran[data]"`.') from None

    content = path.read_bytes()
    page = _declared(content) or _decoded(content, counts)
    if not page.strip():
        return
    text = trafilatura.extract(page, include_comments=False, favor_recall=True) or trafilatura.html2txt(page)
    if not text or not text.strip():
        raise Unreadable("no text in the page")
    yield from _parts(text)


def read_jsonl(path: Path, counts: Counter[str]) -> Iterator[Part]:
    """JSON lines: one document per row, see `cadran.corpus.sources.rows`; broken lines are counted."""
    read = broken = 0
    repaired = False
    with path.open("rb") as file:
        utf16 = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
        file.seek(0)
        # Lines of UTF-16 cannot be told apart before decoding, so such a file is held whole.
        lines: Iterator[bytes] = iter(_decoded(file.read(), counts).encode().splitlines()) if utf16 else iter(file)
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                text, guessed = decode(line)
                row = json.loads(text)
            except (NotText, ValueError, RecursionError):
                broken += 1
                continue
            repaired = repaired or guessed
            if found := row_text(row):
                read += 1
                yield f"#{number}", *found
            else:
                broken += 1
    if repaired:
        counts["repaired file: not UTF-8, read as Windows-1252"] += 1
    if broken and not read:
        raise Unreadable("no row with a text")
    if broken:
        counts["skipped row: broken or without a text"] += broken


def read_parquet(path: Path, counts: Counter[str]) -> Iterator[Part]:
    """Parquet: one document per row, a batch of rows in memory at a time."""
    try:
        import pyarrow.lib
        import pyarrow.parquet
    except ImportError:
        raise UserError('Reading Parquet needs pyarrow: run `pip install "cadran[data]"`.') from None

    read = number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            # When there is a text column the others are not even decoded.
            columns = ["text"] if "text" in table.schema_arrow.names else None
            for batch in table.iter_batches(batch_size=1024, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    if found := row_text(row):
                        read += 1
                        yield f"#{number}", *found
    except pyarrow.lib.ArrowException:
        raise Unreadable("not a Parquet file") from None
    if number and not read:
        raise Unreadable("no row with a text")
    if number > read:
        counts["skipped row: broken or without a text"] += number - read


FORMATS: dict[str, Callable[[Path, Counter[str]], Iterator[Part]]] = {
    ".txt": read_text,
    ".md": read_text,
    ".html": read_html,
    ".htm": read_html,
    ".jsonl": read_jsonl,
    ".parquet": read_parquet,
    ".py": read_code,
}


def _decoded(content: bytes, counts: Counter[str]) -> str:
    try:
        text, guessed = decode(content)
    except NotText:
        raise Unreadable("binary") from None
    if guessed:
        counts["repaired file: not UTF-8, read as Windows-1252"] += 1
    return text


def _declared(content: bytes) -> str | None:
    """The page in the encoding that it declares, if that is not UTF-8 and the page keeps its word."""
    declared: Any = _CHARSET.search(content[:2048])
    if not declared:
        return None
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        pass
    else:
        return None  # many pages declare what their server once was; valid UTF-8 is UTF-8
    try:
        return content.decode(declared[1].decode("ascii"))
    except (LookupError, UnicodeDecodeError):
        return None


def _parts(text: str) -> Iterator[Part]:
    """The text whole, or in parts of about 8,000 characters that end where a paragraph ends."""
    if not text.strip():
        return
    if len(text) <= _WHOLE_CHARACTERS:
        yield "", text, {}
        return
    text = text.replace("\r\n", "\n")
    start = part = 0
    while start < len(text):
        end = _cut(text, start)
        if text[start:end].strip():
            part += 1
            yield f"#{part}", text[start:end], {}
        start = end


def _cut(text: str, start: int) -> int:
    """Where the part that begins at ``start`` ends: after an empty line, a line, a word, or at the limit."""
    limit = start + _PART_CHARACTERS
    if limit >= len(text):
        return len(text)
    for boundary in ("\n\n", "\n", " "):
        found = text.rfind(boundary, start + _PART_CHARACTERS // 2, limit)
        if found >= 0:
            return found + len(boundary)
    return limit
