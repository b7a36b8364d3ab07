"""A few rows as the model reads them, for the screen and the report: what is learnt of each is marked."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from cadran.align.data.shown import shown_examples
from cadran.corpus.shards import EncodedDocument, TokenShard
from cadran.tokenizer.tokenizer import Tokenizer

COUNT = 3


def examples(
    documents: Sequence[EncodedDocument], sources: Sequence[str], tokenizer: Tokenizer
) -> list[dict[str, Any]]:
    """Rows from the beginning, the middle and the end.

    Args:
        documents: as they are trained on.
        sources: their names, as many.
        tokenizer: of the model.

    Returns:
        For each its ``heading`` and its ``tokens`` in runs of ``text`` that are ``supervised`` or not.
    """
    written = []
    for example in shown_examples(documents, sources, tokenizer, COUNT):
        runs = groupby(example.pieces, key=lambda piece: piece.learnt)
        texts = [{"text": "".join(piece.text for piece in run), "supervised": learnt} for learnt, run in runs]
        written.append({"heading": example.heading, "tokens": texts})
    return written


def shard_examples(shard: TokenShard, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The same of rows that lie in a shard, named by their number."""
    numbers = sorted({round(number * (shard.documents - 1) / max(COUNT - 1, 1)) for number in range(COUNT)})
    documents = []
    for number in numbers:
        first, last = int(shard.offsets[number]), int(shard.offsets[number + 1])
        supervised = None if shard.supervised is None else shard.supervised[first:last] > 0
        language = shard.languages[int(shard.language_of[number])]
        documents.append(EncodedDocument(shard.ids(number), int(shard.text_bytes[number]), language, supervised))
    return examples(documents, [f"row {number + 1}" for number in numbers], tokenizer)
