"""Bits per byte: how many bits the model needs for one byte of held-out text. Vocabulary sizes cancel out of it.

Every token of a document is predicted, the end-of-text that closes it included, and divided by the bytes of the
text itself. A document longer than the context is read in windows that overlap by half, so that a target is
predicted with at least half a context before it wherever the document has one.
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from cadran.corpus.shards import TokenShard
from cadran.model.transformer import Transformer
from cadran.train.loss import IGNORED, head_cross_entropy

ROWS = 16
"""Windows read at a time."""


def windows(length: int, context: int) -> Iterator[tuple[int, int, int]]:
    """Windows over the pairs of one document.

    Args:
        length: pairs of the document.
        context: most pairs in a window.

    Yields:
        (begin, first pair that counts, end); the counting parts tile range(length).
    """
    begin = counted = 0
    while counted < length:
        end = min(length, begin + context)
        yield begin, counted, end
        counted = end
        begin += max(1, context // 2)


@torch.no_grad()
def negative_log_likelihood(
    model: Transformer, documents: Sequence[np.ndarray], context: int, dtype: torch.dtype = torch.float32
) -> float:
    """Total nats over all targets of the documents.

    Args:
        model: the language model.
        documents: token ids, each beginning with the id that stands before a text; every other id is a target.
        context: most tokens read at once.
        dtype: of the matrix products.
    """
    spans = [(d, *w) for d, ids in enumerate(documents) for w in windows(len(ids) - 1, context)]
    spans.sort(key=lambda span: span[3] - span[1])  # rows of like length waste no padding
    total = 0.0
    for start in range(0, len(spans), ROWS):
        chosen = spans[start : start + ROWS]
        length = max(end - begin for _, begin, _, end in chosen)
        ids = torch.zeros(len(chosen), length, dtype=torch.int64)
        targets = torch.full((len(chosen), length), IGNORED, dtype=torch.int64)
        for row, (document, begin, counted, end) in enumerate(chosen):
            tokens = torch.from_numpy(documents[document][begin : end + 1].astype(np.int64))
            ids[row, : end - begin] = tokens[:-1]
            targets[row, counted - begin : end - begin] = tokens[counted - begin + 1 :]
        total += _nats(model, ids, targets, dtype)
    return total


def _nats(model: Transformer, ids: Tensor, targets: Tensor, dtype: torch.dtype) -> float:
    bias = torch.zeros(ids.shape[1], ids.shape[1], dtype=dtype)
    bias.masked_fill_(~torch.ones_like(bias, dtype=torch.bool).tril(), -torch.inf)
    hidden = model.hidden_states(ids, bias, None, dtype)
    flat = hidden.reshape(-1, hidden.shape[-1])
    head, cap = model.lm_head.weight.to(dtype), model.config.logit_cap
    return float(head_cross_entropy(flat, head, targets.reshape(-1), 1, cap))


def bits_per_byte(
    model: Transformer,
    shard: TokenShard,
    context: int,
    *,
    limit: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, float]:
    """Bits per byte of each language of a shard, and of ``all`` together.

    Args:
        model: the language model.
        shard: held-out documents.
        context: most tokens read at once.
        limit: documents of each language to read, the first ones; None for all.
        dtype: of the matrix products.

    Returns:
        Bits per UTF-8 byte by ISO 639-1 code, with the key ``all``; lower is better.
    """
    result: dict[str, float] = {}
    all_nats, all_bytes = 0.0, 0
    for code, language in enumerate(shard.languages):
        members = np.flatnonzero(shard.language_of == code)[:limit]
        nats = negative_log_likelihood(model, [shard.ids(int(d)) for d in members], context, dtype)
        size = int(shard.text_bytes[members].sum())
        result[language] = nats / math.log(2) / max(size, 1)
        all_nats, all_bytes = all_nats + nats, all_bytes + size
    result["all"] = all_nats / math.log(2) / max(all_bytes, 1)
    return result
