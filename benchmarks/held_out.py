"""Bits per byte on held-out documents for any model that turns ids into logits.

The definition is that of ``cadran.evaluate.bits_per_byte``, whose windows it uses; that one needs Cadran's own
Transformer. The tests hold the two equal.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cadran.corpus.shards import TokenShard
from cadran.evaluate.bits_per_byte import windows
from cadran.train.loss import IGNORED

ROWS = 16
"""Windows read at a time."""


@torch.no_grad()
def bits_per_byte(
    logits: Callable[[Tensor], Tensor], shard: TokenShard, context: int, limit: int | None = None
) -> float:
    """Nats over all targets / ln 2 / UTF-8 bytes of the text, over all languages together.

    Args:
        logits: from ids (B, T) to logits (B, T, V) of a causal model; T is at most ``context``.
        shard: held-out documents.
        context: most tokens read at once; longer documents are read in windows that overlap by half.
        limit: documents of each language to read, the first ones; None for all.

    Returns:
        Bits per byte; lower is better.
    """
    codes = range(len(shard.languages))
    chosen = np.sort(np.concatenate([np.flatnonzero(shard.language_of == code)[:limit] for code in codes]))
    documents = [np.asarray(shard.ids(int(document)), dtype=np.int64) for document in chosen]
    spans = [(d, *window) for d, ids in enumerate(documents) for window in windows(len(ids) - 1, context)]
    spans.sort(key=lambda span: span[3] - span[1])  # rows of like length waste no padding
    nats = 0.0
    for start in range(0, len(spans), ROWS):
        rows = spans[start : start + ROWS]
        length = max(end - begin for _, begin, _, end in rows)
        ids = torch.zeros(len(rows), length, dtype=torch.int64)
        targets = torch.full((len(rows), length), IGNORED, dtype=torch.int64)
        for row, (document, begin, counted, end) in enumerate(rows):
            tokens = torch.from_numpy(documents[document][begin : end + 1])
            ids[row, : end - begin] = tokens[:-1]
            targets[row, counted - begin : end - begin] = tokens[counted - begin + 1 :]
        flat = logits(ids).flatten(0, 1).float()
        nats += float(F.cross_entropy(flat, targets.flatten(), ignore_index=IGNORED, reduction="sum"))
    return nats / math.log(2) / int(shard.text_bytes[chosen].sum())
