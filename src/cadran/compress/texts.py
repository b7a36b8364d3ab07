"""The texts that a quantisation learns from and is judged by, as tokens; never the same text for both."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cadran.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from cadran.tokenizer.tokenizer import Tokenizer

_MOST_CHARACTERS = 16_000_000
"""Read of a source; what lies behind them changes nothing that can be measured."""
_STANDARD_CHARACTERS = 300_000
_CHARACTERS_A_TOKEN = 24  # far more than there are
_HELD_OUT = 5  # every text is one of so many parts of which the last is held out
Ids = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Texts:
    """Documents and where they are from, in words for the report."""

    documents: tuple[str, ...]
    source: str


def read_texts(path: Path) -> Texts:
    """The documents of a file or folder (txt, md, html, jsonl, parquet, py; anything else is read as plain text).

    Raises:
        UserError: there is no such file, or no text in it.
    """
    from collections import Counter

    from cadran.corpus.sources.folder import FolderSource
    from cadran.corpus.sources.formats import FORMATS, Unreadable, read_text

    try:
        if path.is_dir():
            found = (raw.text for raw in FolderSource(folder=str(path)).documents(path))
            documents = _bounded(found, _MOST_CHARACTERS)
        else:
            parts = FORMATS.get(path.suffix.lower(), read_text)(path, Counter())
            documents = _bounded((text for _, text, _ in parts), _MOST_CHARACTERS)
    except (Unreadable, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(
            f"no text can be read from {path} ({reason}); give a text file, a folder or JSON lines"
        ) from None
    if not documents:
        raise UserError(f"there is no text in {path}; give a text file, a folder or JSON lines")
    return Texts(documents, path.name)


def split_texts(texts: Texts) -> tuple[Texts, Texts]:
    """What to learn from and what to be judged by: the last fifth of the documents, or of the only one's lines.

    A document that stands in both parts is judged by only in the second.

    Raises:
        UserError: there is a single line.
    """
    documents, lines = texts.documents, False
    if len(documents) < _HELD_OUT:
        documents, lines = tuple(line for document in documents for line in document.splitlines(True)), True
    border = len(documents) - len(documents) // _HELD_OUT
    first, last = documents[:border], documents[border:]
    if not last:
        raise UserError(
            f"{texts.source} is too short to be learnt from and judged by; give a longer one, or another with --text"
        )
    if lines:
        first, last = ("".join(first),), ("".join(last),)
    else:
        held_out = frozenset(last)
        first = tuple(document for document in first if document not in held_out)
    return Texts(first, texts.source), Texts(last, f"held-out part of {texts.source}")


def own_texts(model: Path) -> Texts:
    """What to judge a model by when nobody says: its run's held-out documents, else Python's own documentation.

    Args:
        model: folder of a stage of a run, or any other.
    """
    from cadran.corpus.document import read_documents
    from cadran.corpus.sources.stdlib import StdlibSource

    corpus = model.parent / "corpus" / "documents.jsonl"
    if model.is_dir() and corpus.is_file():
        held_out = (document.text for document, split in read_documents(corpus) if split == "validation")
        if documents := _bounded(held_out, _MOST_CHARACTERS):
            return Texts(documents, "held-out documents of the run")
    raw = StdlibSource(stdlib=True).documents(model)
    prose = (document.text for document in raw if "extract" in document.meta)
    return Texts(_bounded(prose, _STANDARD_CHARACTERS), "documentation of Python's standard library")


def thinned(texts: Texts, tokens: int) -> Texts:
    """Documents taken evenly, with several times the text that so many tokens need: encoding all would take longer."""
    total = sum(map(len, texts.documents))
    share = min(1.0, tokens * _CHARACTERS_A_TOKEN / max(1, total))
    count = max(1, round(len(texts.documents) * share))
    places = (int(number / share) for number in range(count))
    return Texts(tuple(texts.documents[place] for place in places if place < len(texts.documents)), texts.source)


def open_tokenizer(path: Path) -> "Tokenizer":
    """The tokenizer of a model directory or GGUF file.

    Raises:
        UserError: there is none, or it is damaged.
    """
    from cadran.tokenizer.tokenizer import Tokenizer

    if not path.is_file():
        return Tokenizer.load(path)
    from cadran.model.gguf.reader import GgufFile
    from cadran.tokenizer.gguf_vocabulary import tokenizer_from_gguf

    with GgufFile.open(path) as file:
        serialised, configuration = tokenizer_from_gguf(file.metadata)
    return Tokenizer(serialised, config=configuration)


def tokens_of(tokenizer: "Tokenizer", texts: Texts) -> list[Ids]:
    """Ids of each document, as the model was taught to meet them.

    A document of a model of ours stands between two ends of text; of another one it begins with its BOS, if it has one.
    """
    end = [tokenizer.end_of_text] if tokenizer.is_ours else []
    start = [tokenizer.bos] if tokenizer.adds_bos and tokenizer.bos is not None else end
    return [np.array([*start, *ids.tolist(), *end], np.int64) for ids in tokenizer.encode_batch(list(texts.documents))]


def calibration_windows(documents: Sequence[Ids], source: str, count: int, length: int) -> "Tensor":
    """Windows taken evenly from documents laid end to end.

    Args:
        documents: see `tokens_of`.
        source: of the documents, for the error.
        count: of windows, at most.
        length: of each, tokens.

    Returns:
        int64, shape (windows, length).

    Raises:
        UserError: there are fewer than four windows of text.
    """
    import torch

    stream = np.concatenate([*documents, np.empty(0, np.int64)])
    there = len(stream) // length
    if there < 4:
        raise UserError(
            f"{source} has {len(stream)} tokens to calibrate with, and {4 * length} are the least; give a longer text"
        )
    rows = stream[: there * length].reshape(there, length)
    chosen = np.linspace(0, there - 1, min(count, there)).astype(np.int64)
    return torch.from_numpy(rows[chosen].astype(np.int64))


def _bounded(documents: Iterable[str], characters: int) -> tuple[str, ...]:
    """Documents until so many characters are read."""
    read = 0

    def room(document: str) -> bool:
        nonlocal read
        fits = read < characters
        read += len(document)
        return fits

    return tuple(document for document in takewhile(room, documents) if document.strip())
