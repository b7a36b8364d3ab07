"""Token shards: documents as integers in one memory-mapped file, with a fingerprint.

A shard is a folder: ``tokens.bin`` (little-endian uint16 or uint32), ``offsets.npy`` (where each document begins),
``bytes.npy`` (UTF-8 length of each document's text, for bits per byte), ``languages.npy`` (index into the list in
``shard.json``), optionally ``supervised.bin`` (one byte a token: 1 where it is to be learnt as a target) and
``shard.json``. The fingerprint is the SHA-256 of all of them in that order: data order is a function of it.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from cadran.errors import UserError
from cadran.files import read_json, sync_folder, write_json

IntArray = npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class EncodedDocument:
    """One document ready for training.

    Attributes:
        ids: token ids, the leading end-of-text or turn marker included; shape (n,).
        text_bytes: UTF-8 bytes of the text that the targets spell.
        language: ISO 639-1 code.
        supervised: which tokens are targets, shape (n,); None means all but the first.
    """

    ids: IntArray
    text_bytes: int
    language: str
    supervised: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class TokenShard:
    """A shard opened for reading; arrays are memory-mapped."""

    tokens: IntArray
    offsets: npt.NDArray[np.int64]
    text_bytes: npt.NDArray[np.int64]
    language_of: npt.NDArray[np.uint8]
    languages: list[str]
    supervised: npt.NDArray[np.uint8] | None
    fingerprint: str
    vocabulary: int

    @property
    def documents(self) -> int:
        """Number of documents."""
        return len(self.offsets) - 1

    def ids(self, document: int) -> IntArray:
        """Token ids of one document, shape (n,)."""
        return self.tokens[self.offsets[document] : self.offsets[document + 1]]

    @classmethod
    def open(cls, folder: Path) -> "TokenShard":
        """Map a shard.

        Raises:
            UserError: a file is missing or has another length than ``shard.json`` says.
        """
        try:
            about = read_json(folder / "shard.json")
            tokens = np.memmap(folder / "tokens.bin", dtype=np.dtype(about["dtype"]), mode="r")
            offsets = np.load(folder / "offsets.npy", mmap_mode="r", allow_pickle=False)
            text_bytes = np.load(folder / "bytes.npy", mmap_mode="r", allow_pickle=False)
            language_of = np.load(folder / "languages.npy", mmap_mode="r", allow_pickle=False)
            supervised = None
            if about["supervised"]:
                supervised = np.memmap(folder / "supervised.bin", dtype=np.uint8, mode="r")
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"the token shard {folder.name} cannot be read ({error}); run the same command with --from tokenizer"
            ) from error
        if len(tokens) != about["tokens"] or len(offsets) != about["documents"] + 1 or offsets[-1] != len(tokens):
            raise UserError(f"the token shard {folder.name} is cut short; run the same command with --from tokenizer")
        return cls(
            tokens, offsets, text_bytes, language_of, about["languages"], supervised,
            about["fingerprint"], about["vocabulary"],
        )  # fmt: skip


def write_shard(folder: Path, documents: Iterable[EncodedDocument], vocabulary: int) -> TokenShard:
    """Write a shard; ``shard.json`` comes last, so a folder that has it is whole.

    Args:
        folder: where to; created.
        documents: in the order in which they are numbered.
        vocabulary: size; ids are stored in two bytes when they fit.

    Raises:
        UserError: there is no document.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "shard.json").unlink(missing_ok=True)
    dtype = np.dtype("<u2") if vocabulary <= 2**16 else np.dtype("<u4")
    offsets, text_bytes, language_of, languages = [0], [], [], dict[str, int]()
    supervised_file: BinaryIO | None = None
    with (folder / "tokens.bin").open("wb") as token_file:
        for document in documents:
            if len(document.ids) < 2:
                continue
            token_file.write(document.ids.astype(dtype).tobytes())
            offsets.append(offsets[-1] + len(document.ids))
            text_bytes.append(document.text_bytes)
            language_of.append(languages.setdefault(document.language, len(languages)))
            if document.supervised is not None:
                supervised_file = supervised_file or (folder / "supervised.bin").open("wb")
                supervised_file.write(document.supervised.astype(np.uint8).tobytes())
    if supervised_file is not None:
        supervised_file.close()
    if len(offsets) == 1:
        raise UserError(f"no document reached the token shard {folder.name}; add text to the recipe's sources")
    np.save(folder / "offsets.npy", np.array(offsets, dtype=np.int64))
    np.save(folder / "bytes.npy", np.array(text_bytes, dtype=np.int64))
    np.save(folder / "languages.npy", np.array(language_of, dtype=np.uint8))
    names = ["tokens.bin", "offsets.npy", "bytes.npy", "languages.npy"]
    digest = hashlib.sha256()
    for name in names + (["supervised.bin"] if supervised_file is not None else []):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    about = {
        "dtype": dtype.str,
        "tokens": offsets[-1],
        "documents": len(offsets) - 1,
        "vocabulary": vocabulary,
        "languages": list(languages),
        "supervised": supervised_file is not None,
        "fingerprint": digest.hexdigest(),
    }
    write_json(folder / "shard.json", about)
    sync_folder(folder)
    return TokenShard.open(folder)
