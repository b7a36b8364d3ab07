"""A frozen base in few bits for training adapters: linear maps that keep no float weights and take no gradient.

``FrozenLinear8`` multiplies in integers both ways: bytes of weights with one scale a row of outputs, bytes of
activations with one scale a token, exact sums in 32 bits. Both are turned first by small Hadamard matrices, which
spread the few channels that are far larger than the rest (QuaRot, Ashkboos et al. 2024): of SmolLM2's predictions the
divergence from float32 falls from 0.039 to 0.005 nats. The gradient of the input uses the same bytes, with the
rows' scales multiplied into the incoming gradient first, so it is the gradient of the matrix that the forward pass
used, and one copy of the weights does for both. ``FrozenLinear4`` keeps blocks of 32 weights in 4 bits (Q4_0) and
unfolds one matrix at a time: it saves memory, not time (QLoRA, Dettmers et al. 2023).

A token's result depends on that token alone, to the bit in ``FrozenLinear8``.
"""

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cadran.errors import UserError
from cadran.model.gguf.legacy_quants import pack_q4_0
from cadran.model.lora_linear import Adapted, LowRank
from cadran.model.transformer import Transformer

MOST = 127
"""Largest magnitude of a byte: the range is symmetric."""

SMALLEST = 1e-30
"""A row whose numbers are all below this counts as zeros; its inverse is still finite in float32."""

TURNED = 64
"""Channels that are turned together, at most."""

BLOCK = 32
"""Weights that share a scale in 4 bits."""

Entered = tuple[Tensor, Tensor, torch.dtype]
"""Rows as bytes (N, in), their scales (N, 1), and the type that the result shall have."""


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row to bytes, its largest magnitude to 127.

    Args:
        x: floating, shape (N, K). A row with a NaN or an infinity has such a scale too, and its product shows it.

    Returns:
        int8 (N, K), and float32 scales (N, 1): x is about bytes * scale, at most scale / 2 off.
    """
    x = x.float()
    # Not vector_norm(inf): six times slower here (1024 x 576: 995 us against 160).
    scale = (x.abs().amax(1, keepdim=True) / MOST).clamp_min_(SMALLEST)
    return torch.mul(x, scale.reciprocal()).round_().to(torch.int8), scale


def turned(x: Tensor) -> Tensor:
    """Turn the last axis by a block-diagonal Hadamard matrix; to do it twice is to do nothing.

    Args:
        x: float32, shape (..., K). A block is the largest power of two in K, and no more than ``TURNED``; an odd K
            stays as it is.
    """
    width = min(x.shape[-1] & -x.shape[-1], TURNED)
    if width == 1:
        return x
    matrix = torch.ones(1, 1, device=x.device)
    while len(matrix) < width:  # symmetric at each step
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    return (x.reshape(-1, width) @ (matrix / math.sqrt(width))).view(x.shape)


def byte_product(left: Tensor, right: Tensor) -> Tensor:
    """The matrix product of bytes.

    Args:
        left: int8 within +-127, shape (N, K).
        right: int8 within +-127, shape (K, M), in any layout.

    Returns:
        float32, shape (N, M): the exact sums rounded once where the processor has instructions for it (VNNI), and
        the float32 product elsewhere.
    """
    # A single column is multiplied wrongly (torch 2.13: _int_mm takes the wrong layout for it).
    if left.shape[1] > 1 and exact_bytes():
        return torch._int_mm(left, right).float()
    return left.float() @ right.float()


@functools.cache
def exact_bytes() -> bool:
    """Whether torch's product of bytes is exact here.

    Without VNNI its library adds pairs of products in 16 bits, which overflow; and the function is not a public one.
    """
    left = torch.arange(5 * 70).view(5, 70).mul(37).remainder(255).sub(127).to(torch.int8)
    right = torch.arange(19 * 70).view(19, 70).mul(53).remainder(255).sub(127).to(torch.int8)
    left[0], right[0] = MOST, MOST
    expected = (left.double() @ right.double().t()).int()
    try:
        return all(torch.equal(torch._int_mm(left, one), expected) for one in (right.t(), right.t().contiguous()))
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


class _Frozen(torch.autograd.Function):
    """A frozen map by itself; nothing is kept between the passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: "FrozenLinear") -> Tensor:
        ctx.layer, ctx.shape = layer, x.shape
        product = layer.product(layer.enter(x.reshape(-1, x.shape[-1])))
        return product.view(*x.shape[:-1], layer.out_features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        flat = gradients[0].reshape(-1, gradients[0].shape[-1])
        return ctx.layer.transposed(flat).view(ctx.shape), None


class FrozenLinear(nn.Module):
    """What both kinds share.

    Args:
        in_features: width of the input.
        out_features: width of the output.
        bias: shape (out,), or None.
    """

    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: Tensor | None) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.register_buffer("bias", None if bias is None else bias.detach().float().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (..., in) to (..., out), in the type of ``x``."""
        return cast(Tensor, _Frozen.apply(x, self))  # type: ignore[no-untyped-call]

    def enter(self, x: Tensor) -> Any:
        """What the product needs of rows of inputs, shape (N, in); maps of one class share it."""
        raise NotImplementedError

    def product(self, entered: Any) -> Tensor:
        """Outputs, shape (N, out)."""
        raise NotImplementedError

    def transposed(self, gradient: Tensor) -> Tensor:
        """Gradient of the inputs, shape (N, in), from that of the outputs, shape (N, out)."""
        raise NotImplementedError

    def unfolded(self) -> Tensor:
        """The matrix that this map stands for, float32, shape (out, in)."""
        raise NotImplementedError


class FrozenLinear8(FrozenLinear):
    """A frozen linear map in 8 bits; weights and activations are integers in both passes.

    Args:
        weight: finite, shape (out, in); not kept.
        bias: shape (out,), or None.

    Attributes:
        levels: int8, shape (out, in).
        scales: float32, shape (out,); the turned weight is about levels * scale.
    """

    levels: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias)
        levels, scales = quantise_rows(turned(weight.detach().float()))
        self.register_buffer("levels", levels)
        self.register_buffer("scales", scales[:, 0])

    def enter(self, x: Tensor) -> Entered:
        """Rows of inputs as bytes and scales."""
        return *quantise_rows(turned(x.float())), x.dtype

    def product(self, entered: Entered) -> Tensor:
        """Exact integer sums times the scales of row and token."""
        levels, scale, dtype = entered
        sums = byte_product(levels, self.levels.t())
        sums.mul_(self.scales).mul_(scale)
        return (sums if self.bias is None else sums.add_(self.bias)).to(dtype)

    def transposed(self, gradient: Tensor) -> Tensor:
        """The same with the matrix transposed; the gradient is rounded to bytes token by token."""
        levels, scale = quantise_rows(gradient.float() * self.scales)
        return turned(byte_product(levels, self.levels).mul_(scale)).to(gradient.dtype)

    def unfolded(self) -> Tensor:
        """levels * scales, turned back."""
        return turned(self.levels.float() * self.scales[:, None])


class FrozenLinear4(FrozenLinear):
    """A frozen linear map in blocks of 32 weights of 4 bits with one half-precision scale, unfolded at each use.

    Args:
        weight: finite, shape (out, in); not kept.
        bias: shape (out,), or None.

    Attributes:
        pairs: uint8, shape (out, blocks, 16); byte i has weight i in its low half and weight i + 16 in its high one.
        scales: float16, shape (out, blocks, 1); weight = scale * (level - 8).
    """

    pairs: Tensor
    scales: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias)
        filled = F.pad(weight.detach().float(), (0, -weight.shape[1] % BLOCK))
        blocks = pack_q4_0(filled.reshape(-1, BLOCK).cpu().numpy()).reshape(len(weight), -1)
        self.register_buffer("pairs", torch.from_numpy(np.ascontiguousarray(blocks["pairs"])).to(weight.device))
        scales = torch.from_numpy(np.ascontiguousarray(blocks["scale"]))
        self.register_buffer("scales", scales[..., None].to(weight.device))

    def enter(self, x: Tensor) -> Tensor:
        """The rows themselves."""
        return x

    def product(self, entered: Tensor) -> Tensor:
        """One product in the type of the rows."""
        bias = None if self.bias is None else self.bias.to(entered.dtype)
        return F.linear(entered, self.unfolded().to(entered.dtype), bias)

    def transposed(self, gradient: Tensor) -> Tensor:
        """One product; the matrix is unfolded once more."""
        return gradient @ self.unfolded().to(gradient.dtype)

    def unfolded(self) -> Tensor:
        """scale * (level - 8), made anew."""
        result = torch.empty(*self.pairs.shape[:2], BLOCK, device=self.pairs.device)
        result[..., : BLOCK // 2] = self.pairs & 15
        result[..., BLOCK // 2 :] = self.pairs >> 4
        result.sub_(8.0).mul_(self.scales)
        return result.flatten(1)[:, : self.in_features]


def freeze_base(model: Transformer, bits: Literal[8, 4]) -> None:
    """Replace the linear maps of the blocks by frozen ones in few bits, in place; before or after adapters are added.

    Embedding, head, norms and routers of experts stay as they are, and all of them are frozen. Adapters stay
    trainable. The float weights are gone: to merge what was trained, save the adapter and load it upon the model
    opened again, or give the weights back with `thaw_base`.

    Args:
        model: in floating point.
        bits: 8 for speed and memory, 4 for memory.

    Raises:
        UserError: an adapter with magnitudes (DoRA) acts upon the model, or weights that are not finite.
    """
    if any(isinstance(module, LowRank) and module.magnitude is not None for module in model.modules()):
        raise UserError("DoRA needs weights in floating point; take LoRA (dora=False), or leave the base unquantised")
    kind = {8: FrozenLinear8, 4: FrozenLinear4}[bits]
    for path, layer in list(_plain_maps(model)):
        if not bool(torch.isfinite(layer.weight).all()):
            raise UserError(f"{path} has weights that are not finite; pull the model again")
        _replace(model, path, kind(layer.weight, layer.bias).train(layer.training))
    adapters = {
        id(p) for module in model.modules() if isinstance(module, Adapted) for p in module.adapters.parameters()
    }
    for parameter in model.parameters():
        if id(parameter) not in adapters:
            parameter.requires_grad_(False)


def thaw_base(model: Transformer, weights: Mapping[str, Tensor]) -> None:
    """Give a model its float weights back, after which adapters can be merged.

    Args:
        model: what ``freeze_base`` made of it.
        weights: the original's state dict: ``load_model(path).state_dict()``.

    Raises:
        UserError: the weights are another model's.
    """
    frozen = [(path, module) for path, module in model.named_modules() if isinstance(module, FrozenLinear)]
    for path, module in frozen:
        weight = weights.get(f"{_name(path)}.weight")
        if weight is None or weight.shape != (module.out_features, module.in_features):
            raise UserError(f"the weights given have no {_name(path)} that fits; give those the base was made of")
    for path, module in frozen:
        with torch.device("meta"):
            layer = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
        layer.weight = nn.Parameter(weights[f"{_name(path)}.weight"].detach().clone(), requires_grad=False)
        if module.bias is not None:
            layer.bias = nn.Parameter(module.bias.to(layer.weight.dtype), requires_grad=False)
        _replace(model, path, layer.train(module.training))


def _plain_maps(model: Transformer) -> Iterator[tuple[str, nn.Linear]]:
    """The linear maps of the blocks, those under adapters too, but nothing that belongs to an adapter."""
    for path, module in model.model.layers.named_modules(prefix="model.layers"):
        if type(module) is nn.Linear and ".adapters." not in path:
            yield path, module


def _name(path: str) -> str:
    """Of a map without adapters."""
    return path.removesuffix(".base")


def _replace(model: Transformer, path: str, module: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
