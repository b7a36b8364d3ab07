"""The objective of pre-training and SFT: the next token of packed documents."""

from collections.abc import Callable

import torch
from torch import Tensor

from cadran.model.attention import document_bias
from cadran.model.transformer import Transformer
from cadran.train.loader import Batch, TokenLoader
from cadran.train.loss import head_cross_entropy
from cadran.train.machine import why_not_compile
from cadran.train.objective import Learnt

NAMED = 8


class NextToken:
    """Cross-entropy of the targets that count.

    Args:
        model: float32 weights.
        loader: batches by step number.
        micro_rows: rows of one forward and backward pass; a batch of more rows is accumulated.
        dtype: of the matrix products.
        states: what computes the hidden states; the model itself by default.
    """

    period = 1

    def __init__(
        self,
        model: Transformer,
        loader: TokenLoader,
        micro_rows: int,
        dtype: torch.dtype = torch.float32,
        states: Callable[..., Tensor] | None = None,
    ) -> None:
        self.model, self.loader, self.micro_rows, self.dtype = model, loader, micro_rows, dtype
        self._states = states or model.hidden_states

    def gradients(self, step: int) -> Learnt:
        """Add the gradients of the loader's batch number ``step``."""
        batch = self.loader.batch(step)
        documents = sorted({piece.document for row in batch.rows for piece in row})
        named = ", ".join(map(str, documents[:NAMED])) + (", ..." if len(documents) > NAMED else "")
        return Learnt(self.loss_and_gradients(batch), {}, f"documents {named} of the shard", batch.ids.numel())

    def loss_and_gradients(self, batch: Batch) -> float:
        """Accumulate the gradients of one batch.

        The loss is the sum over the batch's valid targets divided by their number over *all* its rows, whatever
        the size of the pieces it is computed in.

        Returns:
            The loss, nats per target.
        """
        total = 0.0
        for start in range(0, batch.ids.shape[0], self.micro_rows):
            head = self.model.lm_head.weight  # read here: with an adapter upon it, it belongs to this backward pass
            piece, device = slice(start, start + self.micro_rows), head.device
            bias = document_bias(batch.segments[piece].to(device), self.dtype)
            hidden = self._states(batch.ids[piece].to(device), bias, None, self.dtype)
            loss = head_cross_entropy(
                hidden.reshape(-1, hidden.shape[-1]),
                head.to(self.dtype),
                batch.targets[piece].to(device).reshape(-1),
                batch.valid,
                self.model.config.logit_cap,
            )
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def state(self) -> dict[str, Tensor]:
        """Nothing: the loader's order is a function of the step."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Nothing."""


def compiled_states(model: Transformer, notice: Callable[[str], None]) -> Callable[..., Tensor]:
    """The model's hidden states by ``torch.compile``, or as they are where that cannot work, which ``notice`` hears."""
    reason = why_not_compile()
    if reason is not None:
        notice(f"training without torch.compile: {reason}")
        return model.hidden_states
    return torch.compile(model.hidden_states, dynamic=False)
