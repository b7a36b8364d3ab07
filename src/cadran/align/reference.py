"""Log-probabilities of answers under the reference: what a preference is measured against.

They come from one of two places that give the same numbers. Of a model that is about to be trained whole, they are
computed once, before its first step, and kept in a file; of a model whose adapter is trained, the reference is the same
weights with the adapter switched off, at any time. Either way they are computed as training computes: with the same
kernels and the same type, which in this model depend on whether gradients are wanted, because at the first step
policy and reference must be equal and their difference is all that is learnt from.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from cadran.align.branches import Branches, Prompted, answer_states, pack_for, per_answer
from cadran.align.logprobs import token_logprobs
from cadran.align.pair_loader import fingerprint
from cadran.errors import UserError
from cadran.files import write_bytes
from cadran.model.lora import active_adapter, without_adapter
from cadran.model.safetensors_file import SafetensorsFile
from cadran.model.transformer import Transformer

Reference = Callable[[Branches], Tensor]
"""From a batch of A answers to their log-probabilities under the reference, shape (A,)."""

KEPT = "logprobs"


def answer_logprobs(model: Transformer, batch: Branches, dtype: torch.dtype | None = None) -> Tensor:
    """Log-probability of each answer: the sum over its supervised tokens.

    Args:
        model: with whatever adapter acts now; dropout is off.
        batch: A answers.
        dtype: of the matrix products; None takes the weights' own.

    Returns:
        Shape (A,), nats, without gradients, by the kernels of training. Takes the memory of a forward pass in training.
    """
    before = model.training
    model.eval()
    try:
        with _training_kernels(model):
            states = answer_states(model, batch, dtype).detach()  # and no gradient of the head, which is dear
        head = model.lm_head.weight.detach().to(states.dtype)
        logprobs, _ = token_logprobs(states, head, batch.targets, cap=model.config.logit_cap)
        return per_answer(logprobs, batch)
    finally:
        model.train(before)


def adapter_off(model: Transformer, dtype: torch.dtype | None = None) -> Reference:
    """The reference that a model's own base is: nothing is kept, nothing is read.

    Raises:
        UserError: no adapter acts upon the model, so it would be compared with itself.
    """
    if active_adapter(model) is None:
        raise UserError("the model wears no adapter to switch off; add one, or compute the reference beforehand")

    def reference(batch: Branches) -> Tensor:
        with without_adapter(model):
            return answer_logprobs(model, batch, dtype)

    return reference


def frozen(model: Transformer, dtype: torch.dtype | None = None) -> Reference:
    """The reference that another model is, which must not be the one that is trained."""
    return lambda batch: answer_logprobs(model, batch, dtype)


def item_logprobs(
    model: Transformer,
    items: Sequence[Prompted],
    *,
    micro: int,
    dtype: torch.dtype | None = None,
    pad: int = 0,
    cache: Path | None = None,
) -> Tensor:
    """Log-probabilities of all answers of all items in one pass, from the file of an earlier one where there is one.

    Args:
        model: the reference; the policy itself before its first step.
        items: shape (I,).
        micro: items in one forward pass.
        dtype: of the matrix products; None takes the weights' own.
        pad: id put in empty positions.
        cache: folder for the file; None keeps nothing. A file is used only for the same items, weights and type, and
            a damaged one is replaced.

    Returns:
        Float32 or wider, shape (A,): the answers of item 0, of item 1, and so on.
    """
    path, key = None, ""
    count = sum(len(item.answers) for item in items)
    if cache is not None:
        key = "|".join((fingerprint(items), weights_hash(model), str(dtype)))
        path = cache / f"reference-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
        if (kept := _kept(path, key, count)) is not None:
            return kept
    parts = [
        answer_logprobs(model, pack_for(model, items[start : start + micro], pad), dtype).cpu()
        for start in range(0, len(items), micro)
    ]
    result = torch.cat(parts) if parts else torch.zeros(0)
    if path is not None:
        write_bytes(path, safetensors_bytes({KEPT: result.contiguous()}, metadata={"key": key}))
    return result


def weights_hash(model: Transformer) -> str:
    """Hexadecimal SHA-256 of all that a model computes with: sizes, choices, tensors and which adapter acts."""
    digest = hashlib.sha256(f"{model.config}|{active_adapter(model)}".encode())
    tensors: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, tensor in tensors.items():
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _kept(path: Path, key: str, count: int) -> Tensor | None:
    """What an earlier pass has written, None where there is nothing of use."""
    if not path.is_file():
        return None
    try:
        with SafetensorsFile(path) as file:
            if file.metadata.get("key") != key:
                return None
            values = file.read(KEPT)
    except (UserError, KeyError, OSError):
        return None
    sound = values.shape == (count,) and values.is_floating_point() and bool(values.isfinite().all())
    return values if sound else None


@contextmanager
def _training_kernels(model: Transformer) -> Iterator[None]:
    """Let a forward pass choose the kernels of one that wants gradients, although nothing may be trainable."""

    def wanting(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output if output.requires_grad else output.requires_grad_()

    handle = model.model.embed_tokens.register_forward_hook(wanting)
    try:
        with torch.enable_grad():
            yield
    finally:
        handle.remove()
