"""Where inputs of a layer's maps can be scaled without changing what the model computes.

If what writes a channel is divided by s and every map that reads it has its column multiplied by s, nothing changes
but what rounding does: a salient channel's weights become larger, so their rounding error counts less.
Source: Lin et al. 2024 (AWQ), section 3.2.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from cadran.model.mlp import MLP
from cadran.model.norm import LayerNorm, RMSNorm
from cadran.model.transformer import Attention, Block


@dataclass(frozen=True, slots=True)
class Fold:
    """Channels that can be scaled.

    Attributes:
        readers: names, within the layer, of the maps that read them; all have the same inputs.
        divide: divides what writes the channels by s, shape (channels,), in place.
        heads: (key heads, query heads of each, width) where several inputs of the readers are one channel.
    """

    readers: tuple[str, ...]
    divide: Callable[[Tensor], None]
    heads: tuple[int, int, int] | None = None

    def spread(self, scale: Tensor) -> Tensor:
        """From channels to the readers' inputs, shape (inputs,)."""
        if self.heads is None:
            return scale
        keys, each, width = self.heads
        return scale.view(keys, 1, width).expand(keys, each, width).reshape(-1)

    def gathered(self, magnitude: Tensor) -> Tensor:
        """From the readers' inputs to channels, by the mean."""
        if self.heads is None:
            return magnitude
        return magnitude.view(self.heads).mean(1).reshape(-1)

    def apply(self, block: nn.Module, scale: Tensor) -> None:
        """Scale the channels: the model computes what it did.

        Args:
            block: the layer.
            scale: shape (channels,), positive.
        """
        self.divide(scale)
        wide = self.spread(scale)
        for name in self.readers:
            linear = block.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            linear.weight.mul_(wide.to(linear.weight.dtype))


def folds(block: Block) -> Iterator[Fold]:
    """The folds of a layer, in the order of its computation; none where its kind has no exact one."""
    attention, mlp = block.self_attn, block.mlp
    if isinstance(attention, Attention):
        if block.before:
            yield Fold(tuple(f"self_attn.{name}_proj" for name in "qkv"), _norm(block.input_layernorm))
        config = attention.config
        heads = (config.kv_heads, config.heads // config.kv_heads, config.head_width)
        yield Fold(("self_attn.o_proj",), _rows(attention.v_proj), heads)
    if isinstance(mlp, MLP):  # experts share their input with the router, whose choices must not move
        if block.before:
            norm = block.pre_feedforward_layernorm if block.after else block.post_attention_layernorm
            yield Fold(("mlp.gate_proj", "mlp.up_proj") if mlp.gated else ("mlp.up_proj",), _norm(norm))
        if mlp.gated:  # else the activation stands between
            yield Fold(("mlp.down_proj",), _rows(mlp.up_proj))


def _norm(norm: nn.Module) -> Callable[[Tensor], None]:
    def divide(scale: Tensor) -> None:
        assert isinstance(norm, RMSNorm | LayerNorm)
        offset = norm.offset if isinstance(norm, RMSNorm) else 0.0
        norm.weight.add_(offset).div_(scale.to(norm.weight.dtype)).sub_(offset)
        if isinstance(norm, LayerNorm):
            norm.bias.div_(scale.to(norm.bias.dtype))

    return divide


def _rows(linear: nn.Linear) -> Callable[[Tensor], None]:
    def divide(scale: Tensor) -> None:
        linear.weight.div_(scale.to(linear.weight.dtype)[:, None])
        if linear.bias is not None:
            linear.bias.div_(scale.to(linear.bias.dtype))

    return divide
