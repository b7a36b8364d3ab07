"""The running Python's standard library as a corpus: prose (docstrings, manual topics) and source code.

About 12 MB of code and 2 MB of English that every machine with Python has, network or not. Tests are left out, and
so are tables that only look like code.
"""

import ast
import hashlib
import platform
import sysconfig
import tokenize
from collections import Counter
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path
from typing import ClassVar, Literal

from cadran.corpus.sources.folder import files_digest, list_files
from cadran.corpus.sources.source import RawDocument, Source, SourceRecord
from cadran.errors import UserError

_LICENCE = "PSF-2.0"
_LANGUAGE = "en"
# Folders: tests, what others installed, character tables, and the manual's own text packed as one string per topic
# (it is read as prose). Files that describe the machine rather than the library.
_NOT_FOLDERS = frozenset(
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "encodings", "pydoc_data"}
)
_NOT_FILES = ("_sysconfigdata", "sitecustomize", "usercustomize")


class StdlibSource(Source):
    """The standard library of the Python that runs.

    Attributes:
        stdlib: true for prose and code, "code" for the source files alone; it names the kind.
    """

    kind: ClassVar[str] = "stdlib"

    stdlib: Literal[True, "code"]
    language: str = _LANGUAGE
    licence: str = _LICENCE

    def documents(self, cache: Path, counts: Counter[str] | None = None) -> Iterator[RawDocument]:
        """Manual topics, then per module its docstrings and its source, or the latter alone; see `Source.documents`.

        Prose has the meta keys of an article: title (the qualified name), description (first sentence), topic (what
        it documents: module, class, function, method or manual page), extract (the docstring).
        """
        if self.stdlib is True:
            yield from self._topics()
        for path, relative in self._files():
            try:
                with tokenize.open(path) as file:
                    code = file.read()
                tree = ast.parse(code)
            except (OSError, SyntaxError, ValueError):
                continue
            module = relative.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            if self.stdlib is True:
                yield from self._docstrings(tree, module)
            yield RawDocument(f"source/{relative}", code, self.language, {"path": relative, "format": "py"})

    def fingerprint(self, cache: Path) -> SourceRecord:
        """Record of the source files and the manual topics; see `Source.fingerprint`."""
        sha256, size = files_digest(self._files())
        digest = hashlib.sha256(sha256.encode())
        for topic in self._topics() if self.stdlib is True else ():
            digest.update(f"{topic.key}\0{topic.text}\n".encode())
            size += len(topic.text.encode())
        locator = f"standard library of Python {platform.python_version()}"
        return SourceRecord(self.name, self.kind, locator, self.licence, digest.hexdigest(), size)

    def _topics(self) -> Iterator[RawDocument]:
        try:
            from pydoc_data.topics import topics
        except ImportError:  # some distributions leave it out
            return
        for name in sorted(topics):
            text = topics[name].strip()
            yield self._prose(f"topic/{name}", name.replace("-", " "), "manual page", text)

    def _docstrings(self, tree: ast.Module, module: str) -> Iterator[RawDocument]:
        met: Counter[str] = Counter()
        for name, topic, docstring in _documented(tree, module, "module"):
            met[name] += 1  # a property and its setter, or two branches of an `if`, share a name
            key = f"doc/{name}" if met[name] == 1 else f"doc/{name}#{met[name]}"
            yield self._prose(key, name, topic, docstring)

    def _prose(self, key: str, title: str, topic: str, text: str) -> RawDocument:
        description = " ".join(text.partition("\n\n")[0].split()).partition(". ")[0].rstrip(".")
        meta = {"title": title, "description": description, "topic": topic, "extract": text}
        return RawDocument(key, f"{title}\n\n{text}", self.language, meta)

    def _files(self) -> list[tuple[Path, str]]:
        root = Path(sysconfig.get_paths()["stdlib"])
        files = [
            (path, relative)
            for path, relative in list_files(root, frozenset({".py"}))
            if not _NOT_FOLDERS.intersection(relative.split("/")) and not path.name.startswith(_NOT_FILES)
        ]
        if not files:
            raise UserError(
                "This Python carries its standard library without source files: use another Python, or name a source "
                "other than `stdlib:`."
            )
        return files


def _documented(node: ast.AST, name: str, topic: str) -> Iterator[tuple[str, str, str]]:
    """Qualified name, kind and docstring of everything documented in a module, in source order, depth first."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        docstring = ast.get_docstring(node, clean=False)
        if docstring and docstring.strip():
            yield name, topic, cleandoc(docstring)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from _documented(child, f"{name}.{child.name}", "class")
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            kind = "method" if isinstance(node, ast.ClassDef) else "function"
            yield from _documented(child, f"{name}.{child.name}", kind)
        elif isinstance(child, ast.If | ast.Try):
            yield from _documented(child, name, topic)
