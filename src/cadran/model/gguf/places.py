"""From the tables of names to the tensors of one model: every tensor it has, under both names, with its shapes.

No tensor is touched and none is imagined: a damaged file may claim any number of experts, so names are made on demand.
"""

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass

from cadran.model.config import ModelConfig
from cadran.model.gguf.layouts import Same, Shape

LAYER = "blk.{layer}."
"""How the names of a layer's tensors begin in a GGUF file."""
EXPERT = "{expert}"
"""Stands in a name of the checkpoint for the number of an expert."""


@dataclass(frozen=True)
class NameRule:
    """One tensor of the checkpoint (or one of each expert) and where the GGUF file has it.

    Attributes:
        gguf: names in the file, usually one; ``{layer}`` stands for the number of the layer.
        checkpoint: name in the checkpoint; with ``{expert}`` it stands for as many tensors as there are experts.
        shapes: of the tensors in the file, row-major, each dimension a word of `sizes`.
        layout: what lies differently.
        when: whether a layer of a model has it.
        older: what files of an earlier llama.cpp have instead.
    """

    gguf: tuple[str, ...]
    checkpoint: str
    shapes: tuple[tuple[str, ...], ...]
    layout: Callable[[ModelConfig], Same]
    when: Callable[[ModelConfig, int], bool]
    older: "NameRule | None" = None


@dataclass(frozen=True)
class Place:
    """A rule applied to one layer of one model.

    Attributes:
        gguf: names in the file.
        gguf_shapes: their shapes, row-major.
        checkpoint_shape: of each tensor of the checkpoint.
        layout: what lies differently.
        template: name in the checkpoint, with ``{expert}`` when it stands for several.
        count: how many tensors of the checkpoint that is.
    """

    gguf: tuple[str, ...]
    gguf_shapes: tuple[Shape, ...]
    checkpoint_shape: Shape
    layout: Same
    template: str
    count: int

    def checkpoint(self) -> Iterator[str]:
        """Names in the checkpoint, made one at a time: a damaged file may claim any number of experts."""
        return (self.template.replace(EXPERT, str(expert)) for expert in range(self.count))


def sizes(model: ModelConfig) -> dict[str, int]:
    """The words that shapes are made of."""
    queries, keys = model.heads * model.head_width, model.kv_heads * model.head_width
    words = {
        "vocabulary": model.vocabulary,
        "context": model.context,
        "width": model.width,
        "hidden": model.hidden,
        "gate_and_up": 2 * model.hidden,
        "head": model.head_width,
        "heads": model.heads,
        "queries": queries,
        "keys": keys,
        "queries_keys_values": queries + 2 * keys,
    }
    if experts := model.experts:
        words |= {"experts": experts.count, "expert": experts.hidden, "shared": experts.shared * experts.hidden}
    if latent := model.latent:
        words |= {
            "query_rank": latent.query_rank,
            "rank": latent.rank,
            "rank_and_rotary": latent.rank + latent.rotary,
            "plain": latent.plain,
            "value": latent.value,
            "latent_queries": model.heads * (latent.plain + latent.rotary),
            "latent_values": model.heads * latent.value,
            "expanded": model.heads * (latent.plain + latent.value),
        }
    return words


def places(rules: tuple[NameRule, ...], model: ModelConfig, present: Container[str] = ()) -> Iterator[Place]:
    """Every tensor that a model has, in the order of the file.

    Args:
        rules: of its architecture.
        model: its configuration.
        present: names in a file that is read; older layouts are taken where it has them.
    """
    words = sizes(model)
    outer = [rule for rule in rules if not rule.gguf[0].startswith(LAYER)]
    inner = [rule for rule in rules if rule.gguf[0].startswith(LAYER)]
    yield from (_place(rule, model, words, 0) for rule in outer if rule.when(model, 0))
    for layer in range(model.layers):
        for rule in inner:
            if rule.when(model, layer):
                place = _place(rule, model, words, layer)
                older = _place(rule.older, model, words, layer) if rule.older else place
                yield older if older.gguf[0] in present else place


def _place(rule: NameRule, model: ModelConfig, words: dict[str, int], layer: int) -> Place:
    shapes = tuple(tuple(words[word] for word in shape) for shape in rule.shapes)
    layout = rule.layout(model)
    return Place(
        gguf=tuple(name.replace("{layer}", str(layer)) for name in rule.gguf),
        gguf_shapes=shapes,
        checkpoint_shape=layout.checkpoint_shape(shapes),
        layout=layout,
        template=rule.checkpoint.replace("{layer}", str(layer)),
        count=shapes[0][0] if EXPERT in rule.checkpoint else 1,
    )
