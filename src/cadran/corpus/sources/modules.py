"""Python modules of a wheel as documents: source code as people wrote it, without tests.

Nothing of it is imported or run. Tests are left out because they repeat one another, as in the standard library's.
"""

import ast
import io
import tokenize
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from cadran.corpus.sources.source import RawDocument

TESTS = frozenset({"test", "tests", "idle_test"})


def modules(wheel: Path, folder: str, language: str, counts: Counter[str]) -> Iterator[RawDocument]:
    """One document per module, in the order of their paths.

    Args:
        wheel: the archive.
        folder: path inside it; everything below it is read. A single module may be named too.
        language: of comments and docstrings, ISO 639-1.
        counts: receives what was skipped, by description.

    Yields:
        The source with meta path and format ("py"); modules that are empty or not valid Python are passed over.
    """
    wanted = PurePosixPath(folder)
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            path = PurePosixPath(name)
            if path.suffix != ".py" or not path.is_relative_to(wanted) or TESTS.intersection(path.parts):
                continue
            code = source_of(archive.read(name))
            if code is None:
                counts["skipped file: not valid Python"] += 1
            elif code.strip():
                yield RawDocument(name, code, language, {"path": name, "format": "py"})


def source_of(content: bytes) -> str | None:
    """Text of a module in the encoding that it declares, None where it is not valid Python."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        code = content.decode(encoding)
        with warnings.catch_warnings(action="ignore"):  # of escapes in the strings of others
            ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return code
