"""How well a model predicts answers it never saw: the mean loss of their tokens."""

import torch

from cadran.corpus.shards import TokenShard
from cadran.model.attention import document_bias
from cadran.model.transformer import Transformer
from cadran.train.loader import TokenLoader
from cadran.train.loss import head_cross_entropy


@torch.no_grad()
def answer_loss(model: Transformer, shard: TokenShard, context: int, *, pad: int, dtype: torch.dtype) -> float:
    """Mean cross-entropy of the supervised tokens of a shard, each counted once.

    Args:
        model: with whatever adapter acts now; its dropout is off meanwhile.
        shard: rows that fit in the context whole.
        context: length of a packed row.
        pad: id put in empty places.
        dtype: of the matrix products.

    Returns:
        Nats a token.
    """
    loader = TokenLoader(shard, context, 1, seed=0, split=False, pad=pad)
    total = count = 0.0
    training = model.training
    model.eval()
    for row in range(loader.rows_in_epoch()):
        batch = loader.batch(row)
        hidden = model.hidden_states(batch.ids, document_bias(batch.segments, dtype), None, dtype)
        head = model.lm_head.weight.to(dtype)
        total += float(
            head_cross_entropy(
                hidden.reshape(-1, hidden.shape[-1]), head, batch.targets.reshape(-1), 1, model.config.logit_cap
            )
        )
        count += batch.valid
    model.train(training)
    return total / max(count, 1)
