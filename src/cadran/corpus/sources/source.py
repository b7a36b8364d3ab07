"""What every kind of source has in common: a typed description, raw documents, and a record for the data sheet."""

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, field_validator, model_validator


@dataclass(frozen=True, slots=True)
class RawDocument:
    """A text as its source holds it, before normalisation.

    Attributes:
        key: unique within the source and the same at every reading; the document's id is derived from it.
        text: the text itself.
        language: ISO 639-1 code the source claims, or "".
        meta: see `cadran.corpus.document.Document`.
    """

    key: str
    text: str
    language: str = ""
    meta: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """What was read, for the data sheet; equal content has an equal record on every machine.

    Attributes:
        name: the source's name, which documents carry.
        kind: pypi, folder, hf, stdlib or synthetic.
        locator: where it is from, in words that mean something elsewhere (never an absolute path).
        licence: SPDX identifier, or "" where nobody said.
        sha256: of the wheel, of the list of files with their hashes, of the rows, or of the generated documents.
        bytes: size of what ``sha256`` covers.
        counts: what had to be repaired or skipped while reading, by description.
    """

    name: str
    kind: str
    locator: str
    licence: str
    sha256: str
    bytes: int
    counts: dict[str, int] = field(default_factory=dict)


class Source(BaseModel, ABC):
    """One entry of a recipe's ``sources:``; the kinds are its subclasses.

    Attributes:
        name: how documents and the data sheet call it; each kind has a default.
        language: ISO 639-1 code of its texts, a hint for language identification; "" means unknown.
        licence: SPDX identifier of its texts; "" means unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: ClassVar[str]

    name: str = ""
    language: str = ""
    licence: str = ""

    @field_validator("language")
    @classmethod
    def _two_letters(cls, language: str) -> str:
        if language and not re.fullmatch("[a-z]{2}", language):
            raise ValueError("give an ISO 639-1 code of two small letters, such as fr")
        return language

    @model_validator(mode="before")
    @classmethod
    def _fill_name(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and not values.get("name"):
            return {**values, "name": cls.default_name(values)}
        return values

    @classmethod
    def default_name(cls, values: Mapping[str, Any]) -> str:
        """Name of a source that was given none; ``values`` are not validated yet."""
        return cls.kind

    @abstractmethod
    def documents(self, cache: Path, counts: Counter[str] | None = None) -> Iterator[RawDocument]:
        """Raw documents, always in the same order.

        Args:
            cache: folder that keeps what was fetched between runs; created when needed.
            counts: receives what was repaired or skipped on the way, by description.

        Raises:
            UserError: the source is empty, unreadable or not what it claims to be.
            SourceUnreachable: it lies behind a network that does not answer.
        """

    @abstractmethod
    def fingerprint(self, cache: Path) -> SourceRecord:
        """Record of exactly what `documents` reads; fetches it when it is not in the cache yet.

        Raises:
            UserError: as `documents`.
        """
