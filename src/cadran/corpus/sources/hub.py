"""A data set of the Hugging Face hub, or a local folder of the same shape, read through `datasets`.

A remote data set is streamed once into the cache as JSON lines: the rows can then be fingerprinted, and every later
build reads exactly the same ones without a network.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from cadran.corpus.jsonl import JsonLines
from cadran.corpus.sources.folder import files_digest, list_files
from cadran.corpus.sources.rows import row_text
from cadran.corpus.sources.source import RawDocument, Source, SourceRecord
from cadran.corpus.sources.unreachable import SourceUnreachable
from cadran.errors import UserError
from cadran.files import sha256_file

_DATA_FILES = frozenset({".jsonl", ".json", ".parquet", ".csv", ".txt", ".arrow"})


class HubSource(Source):
    """One split of a data set.

    Attributes:
        hf: "organisation/name", or the path of a local folder with data files of the same shape.
        split: train, validation, ...
        field: the column that holds the text; a column of chat turns works too.
        config: name of the configuration, where the data set has several.
        revision: commit, tag or branch; a commit makes the corpus reproducible on other machines.
        limit: read only the first rows, that many.
    """

    kind: ClassVar[str] = "hf"

    hf: Annotated[str, Field(min_length=1)]
    split: str = "train"
    field: str = "text"
    config: str | None = None
    revision: str | None = None
    limit: Annotated[int, Field(ge=1)] | None = None

    @classmethod
    def default_name(cls, values: Mapping[str, Any]) -> str:
        """The data set's name without its organisation."""
        return str(values.get("hf")).rstrip("/").rpartition("/")[2] or cls.kind

    def documents(self, cache: Path, counts: Counter[str] | None = None) -> Iterator[RawDocument]:
        """One document per row that has a text, in the data set's order; see `Source.documents`."""
        counts = Counter() if counts is None else counts
        rows = self._rows() if self._local else _cached_rows(self._fetched(cache))
        number = 0
        for index, row in enumerate(rows, start=1):
            if found := row_text(row, self.field):
                number += 1
                yield RawDocument(str(index), found[0], self.language, found[1])
            else:
                counts["skipped row: broken or without a text"] += 1
        if not number:
            raise UserError(f"The split {self.split} of {self.hf} holds no text: choose another `split:` or `field:`.")

    def fingerprint(self, cache: Path) -> SourceRecord:
        """Record of the rows, fetched if need be, or of the local files; see `Source.fingerprint`."""
        if self._local:
            root = Path(self.hf).expanduser()
            sha256, size = files_digest(list_files(root, _DATA_FILES))
            locator = root.name if root.is_absolute() else self.hf
        else:
            rows = self._fetched(cache)
            sha256, size, locator = sha256_file(rows), rows.stat().st_size, self.hf
        details = [self.config, self.split, self.revision, None if self.limit is None else f"first {self.limit} rows"]
        locator = " ".join([locator, *filter(None, details)])
        return SourceRecord(self.name, self.kind, locator, self.licence, sha256, size)

    @property
    def _local(self) -> bool:
        return Path(self.hf).expanduser().is_dir()

    def _fetched(self, cache: Path) -> Path:
        """JSON-lines file in the cache with the rows of a remote data set."""
        request = json.dumps([self.hf, self.config, self.split, self.field, self.revision, self.limit])
        target = (
            cache / "hf" / f"{self.name.replace('/', '-')}-{hashlib.sha256(request.encode()).hexdigest()[:12]}.jsonl"
        )
        if not target.is_file():
            with JsonLines(target) as file:
                for row in self._rows():
                    file.write(_plain(row, self.field))
        return target

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        try:
            import datasets
        except ImportError:
            raise UserError('Reading a data set needs `datasets`: run `pip install "cadran[data]"`.') from None

        source = str(Path(self.hf).expanduser()) if self._local else self.hf
        try:
            rows = datasets.load_dataset(
                source, name=self.config, split=self.split, revision=self.revision, streaming=True
            )
            for number, row in enumerate(islice(rows, self.limit)):
                if number == 0 and self.field not in row:
                    raise UserError(
                        f"{self.hf} has no column '{self.field}' (it has {', '.join(row)}): "
                        f"correct `field:` of the source {self.name}."
                    )
                yield row
        except datasets.exceptions.DatasetNotFoundError:
            raise UserError(
                f"There is no data set {self.hf} on the hub, or it is private: correct `hf:` or run `hf auth login`."
            ) from None
        except Exception as error:
            if _is_transport_failure(error):
                raise SourceUnreachable(
                    f"The data set {self.hf} could not be fetched from the hub: check the network, then run the same "
                    "command again."
                ) from None
            if not isinstance(error, ValueError | OSError | datasets.exceptions.DatasetsError):
                raise  # a UserError from above, or a defect
            first_line = str(error).strip().partition("\n")[0]
            raise UserError(
                f"The data set {self.hf} cannot be read ({first_line}): correct `split:`, `config:` or the files."
            ) from None


def _is_transport_failure(error: Exception) -> bool:
    """Whether the network failed. The hub's client has changed its HTTP library before, so its class goes by name."""
    named = any(kind.__name__ == "TransportError" for kind in type(error).__mro__)
    return named or isinstance(error, ConnectionError | TimeoutError)


def _cached_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _plain(row: Mapping[str, Any], field: str) -> dict[str, Any]:
    """The row as JSON can hold it; when it has a text, nothing else of it is needed."""
    if isinstance(row.get(field), str):
        return {field: row[field]}
    plain: dict[str, Any] = json.loads(json.dumps(row, default=str), parse_constant=lambda _: None)
    return plain
