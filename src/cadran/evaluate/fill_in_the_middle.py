"""Whether a model uses the end of a text to fill its middle: bits per byte of the same middles, with it and without.

Without it the middle is read where it stands, after the beginning alone: what every left-to-right model does. The gain
is what the training for it has brought.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cadran.model.transformer import Transformer
from cadran.tokenizer.fill_in_the_middle import cut, rearranged
from cadran.tokenizer.tokenizer import Tokenizer
from cadran.train.loss import IGNORED, head_cross_entropy


@torch.no_grad()
def middle_bits_per_byte(
    model: Transformer, tokenizer: Tokenizer, texts: Sequence[str], context: int, seed: int
) -> dict[str, float]:
    """Bits per UTF-8 byte of held-out middles.

    Args:
        model: the language model.
        tokenizer: its own.
        texts: held out; those that do not fit into the context or have no middle are left out.
        context: most tokens read at once.
        seed: of the cuts.

    Returns:
        ``with_the_end`` and ``without``, lower is better, over ``documents`` of them.
    """
    nats, size, count = {"with_the_end": 0.0, "without": 0.0}, 0, 0
    for number, text in enumerate(texts):
        parts = cut(text, np.random.default_rng((seed, number)))
        filled = [tokenizer.end_of_text, *(int(id) for id in rearranged(tokenizer, parts))]
        middle = len(tokenizer.encode(parts[1]))
        plain = [tokenizer.end_of_text, *tokenizer.encode(parts[0]), *tokenizer.encode(parts[1])]
        if not middle or len(filled) > context:
            continue
        for name, ids in (("with_the_end", filled), ("without", plain)):
            nats[name] += _nats(model, ids, middle)
        size, count = size + len(parts[1].encode()), count + 1
    return {name: value / math.log(2) / max(size, 1) for name, value in nats.items()} | {"documents": count}


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
