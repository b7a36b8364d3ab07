"""How much a model lost: perplexity of both, how far their predictions are apart, and how often the first choice is."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cadran.errors import UserError
from cadran.model.attention import causal_bias
from cadran.model.transformer import Transformer

LEAST_TOKENS = 64
_ROWS = 8  # windows read at a time
_POSITIONS = 256  # whose logits exist at a time
Ids = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Two models on one text.

    Attributes:
        tokens: predicted.
        window: most tokens read at once; a target has at least half of it before it wherever its document has.
        before, after: perplexity of the original and of the quantised model.
        divergence: mean Kullback-Leibler divergence of the quantised model's predictions from the original's, nats a
            token.
        divergence_99: 99th percentile of the same.
        agreement: share of tokens before which both hold the same token for the likeliest.
    """

    tokens: int
    window: int
    before: float
    after: float
    divergence: float
    divergence_99: float
    agreement: float

    @property
    def change(self) -> float:
        """Of the perplexity, 0.01 for a percent more."""
        return self.after / self.before - 1


@torch.no_grad()
def compare(
    original: Transformer,
    quantised: Transformer,
    documents: Sequence[Ids],
    window: int,
    vocabulary: int,
    most: int = 16_384,
    progress: Callable[[str, int, int], None] = lambda doing, done, total: None,
) -> Fidelity:
    """Read documents with both models.

    Args:
        original: float32.
        quantised: its weights as they are in the file, float32.
        documents: token ids, each beginning with what stands before a text; every other id is a target.
        window: most tokens read at once.
        vocabulary: how many tokens there are; further rows of the head mean nothing.
        most: targets, about; windows are taken evenly from the text.
        progress: told how many windows are read.

    Raises:
        UserError: there is too little to predict.
    """
    spans = _spans(documents, window)
    total = sum(end - counted for _, _, counted, end in spans)
    if total < LEAST_TOKENS:
        raise UserError(
            f"the text to measure with has {total} tokens to predict and needs {LEAST_TOKENS}; give more with --text"
        )
    stride = max(1.0, total / most)
    spans = [spans[int(i * stride)] for i in range(math.ceil(len(spans) / stride))]
    spans.sort(key=lambda span: span[3] - span[1])
    nats = np.zeros(2)
    divergences: list[Tensor] = []
    same = 0
    for first in range(0, len(spans), _ROWS):
        progress("comparing", first, len(spans))
        ids, targets = _rows(documents, spans[first : first + _ROWS])
        bias = causal_bias(ids.shape[1], 0, torch.float32, ids.device)
        counted = targets.reshape(-1) >= 0
        wanted = targets.reshape(-1)[counted]
        states = [model.hidden_states(ids, bias).flatten(0, 1)[counted] for model in (original, quantised)]
        for piece in range(0, len(wanted), _POSITIONS):
            rows = slice(piece, piece + _POSITIONS)
            left = torch.log_softmax(original.logits(states[0][rows])[:, :vocabulary], -1)
            right = torch.log_softmax(quantised.logits(states[1][rows])[:, :vocabulary], -1)
            for side, scores in enumerate((left, right)):
                nats[side] -= float(scores.gather(1, wanted[rows, None]).sum(dtype=torch.float64))
            divergences.append((left.exp() * (left - right)).sum(-1, dtype=torch.float64))
            same += int((left.argmax(-1) == right.argmax(-1)).sum())
    progress("comparing", len(spans), len(spans))
    apart = torch.cat(divergences)
    before, after = (math.exp(min(700.0, value / len(apart))) for value in nats)
    return Fidelity(
        tokens=len(apart),
        window=window,
        before=before,
        after=after,
        divergence=max(0.0, float(apart.mean())),
        divergence_99=max(0.0, float(torch.quantile(apart, 0.99))),
        agreement=same / len(apart),
    )


def _spans(documents: Sequence[Ids], window: int) -> list[tuple[int, int, int, int]]:
    """Document, first token read, first and last target of each window; the targets tile the documents."""
    spans = []
    for number, ids in enumerate(documents):
        begin = counted = 0
        while counted < len(ids) - 1:
            end = min(len(ids) - 1, begin + window)
            spans.append((number, begin, counted, end))
            counted, begin = end, begin + max(1, window // 2)
    return spans


def _rows(documents: Sequence[Ids], spans: list[tuple[int, int, int, int]]) -> tuple[Tensor, Tensor]:
    """Ids and targets (-1 where none counts), filled up at the right, where causal attention never looks."""
    length = max(end - begin for _, begin, _, end in spans)
    ids = torch.zeros(len(spans), length, dtype=torch.int64)
    targets = torch.full((len(spans), length), -1, dtype=torch.int64)
    for row, (document, begin, counted, end) in enumerate(spans):
        tokens = torch.from_numpy(documents[document][begin : end + 1].astype(np.int64))
        ids[row, : end - begin] = tokens[:-1]
        targets[row, counted - begin : end - begin] = tokens[counted - begin + 1 :]
    return ids, targets
