"""Whether a model uses the end of a text to fill its middle: bits per byte of the same middles, with it and without.

Without it the middle is read where it stands, after the beginning alone: what every left-to-right model does. The gain
is what the training for it has brought.
"""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cadran.model.transformer import Transformer
from cadran.tokenizer.fill_in_the_middle import GAPS, ORDER, Order, cut, passages, rearranged
from cadran.tokenizer.tokenizer import Tokenizer
from cadran.train.loss import IGNORED, head_cross_entropy

PASSAGES = 8
"""Of one text: a long one must not outweigh the others, and a corpus may have few texts that are all long."""


@torch.no_grad()
def middle_bits_per_byte(
    model: Transformer, tokenizer: Tokenizer, texts: Sequence[str], context: int, seed: int, order: Order = ORDER
) -> dict[str, Any]:
    """Bits per UTF-8 byte of held-out middles; the kinds of gap take turns.

    Args:
        model: the language model.
        tokenizer: its own.
        texts: held out; of each at most ``PASSAGES`` passages. Those without a middle are left out.
        context: most tokens read at once.
        seed: of the passages and cuts.
        order: in which the model reads what stands around the gap.

    Returns:
        ``with_the_end`` and ``without``, lower is better, over so many ``middles``, and ``gaps``: the same of each kind
        of gap, see ``cut``.
    """
    sums = {gap: _Sums() for gap in GAPS}
    tried = 0
    for number, text in enumerate(texts):
        generator = np.random.default_rng((seed, number))
        ids = np.array(tokenizer.encode(text))
        there = [passage for _, _, passage in passages(tokenizer, text, ids, context, generator)]
        for passage in generator.permutation(len(there))[:PASSAGES]:
            gap, tried = GAPS[tried % len(GAPS)], tried + 1
            parts = cut(there[passage], generator, gap)
            filled = [tokenizer.end_of_text, *(int(id) for id in rearranged(tokenizer, parts, order))]
            middle = len(tokenizer.encode(parts[1]))
            if not middle or len(filled) > context:
                continue
            plain = [tokenizer.end_of_text, *tokenizer.encode(parts[0]), *tokenizer.encode(parts[1])]
            here = _Sums(_nats(model, filled, middle), _nats(model, plain, middle), len(parts[1].encode()), 1)
            sums[gap] = sums[gap].plus(here)
    whole = _Sums()
    for each in sums.values():
        whole = whole.plus(each)
    return whole.to_json() | {"gaps": {gap: each.to_json() for gap, each in sums.items()}}


@dataclass(frozen=True, slots=True)
class _Sums:
    with_the_end: float = 0.0
    without: float = 0.0
    bytes: int = 0
    middles: int = 0

    def plus(self, other: "_Sums") -> "_Sums":
        return _Sums(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def to_json(self) -> dict[str, Any]:
        """Nats become bits per byte."""
        size = math.log(2) * max(self.bytes, 1)
        return {
            "with_the_end": self.with_the_end / size,
            "without": self.without / size,
            "middles": self.middles,
        }


def _nats(model: Transformer, ids: Sequence[int], last: int) -> float:
    """Of the last ``last`` ids."""
    read = torch.tensor(ids)
    targets: Tensor = torch.full((len(ids) - 1,), IGNORED)
    targets[-last:] = read[-last:]
    bias = torch.zeros(len(ids) - 1, len(ids) - 1)
    bias.masked_fill_(~torch.ones_like(bias, dtype=torch.bool).tril(), -torch.inf)
    hidden = model.hidden_states(read[None, :-1], bias, None, torch.float32)
    flat = hidden.reshape(-1, hidden.shape[-1])
    return float(head_cross_entropy(flat, model.lm_head.weight, targets, 1, model.config.logit_cap))
