"""Where an adapter may act: the linear maps of a checkpoint's layout, and the maps of ours that lie in each.

Adapters are published against the modules of ``transformers``, some of which are several of ours: queries, keys and
values in one projection, gate and up in another, all experts of a layer in one tensor. There A is shared and the rows
of B are dealt out, which loses nothing in either direction.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, cast

from cadran.errors import UserError
from cadran.model.experts import MixtureOfExperts
from cadran.model.families import FAMILIES

if TYPE_CHECKING:
    from torch import Tensor, nn

    from cadran.model.transformer import Transformer

Value = TypeVar("Value")

EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
"""Our paths of the two modules that an adapter may replace whole."""


@dataclass(frozen=True, slots=True)
class Site:
    """One linear map of the checkpoint's layout.

    Attributes:
        name: its module path there, which begins the keys of its tensors.
        groups: paths of our maps in it; those of a group lie one under the other and share A, and each group (an
            expert) has factors of its own.
        rows: outputs of each map of a group.
        inputs: width of the input.
        transposed: whether its matrix lies there as (in, out).
        parameter: path of the tensor of stacked experts; empty for a module.
    """

    name: str
    groups: tuple[tuple[str, ...], ...]
    rows: tuple[int, ...]
    inputs: int
    transposed: bool = False
    parameter: str = ""

    def shapes(self, rank: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Shapes of A and of B in a file."""
        inner = rank * len(self.groups)
        return (inner, self.inputs), (sum(self.rows), inner)

    def split(self, a: "Tensor", b: "Tensor") -> Iterator[tuple[tuple[str, ...], "Tensor", tuple["Tensor", ...]]]:
        """Deal the factors of a file out.

        Args:
            a: shape (groups * rank, in).
            b: shape (out, rank * groups), the group varying fastest.

        Returns:
            For each group the paths of its maps, their A of shape (rank, in), and of each its B, (rows, rank).
        """
        count = len(self.groups)
        by_group = b.view(b.shape[0], -1, count).permute(2, 0, 1)  # (groups, out, rank)
        for paths, own_a, own_b in zip(self.groups, a.view(count, -1, a.shape[1]), by_group, strict=True):
            yield paths, own_a, own_b.split(self.rows)

    def join(self, factors: Sequence[tuple["Tensor", Sequence["Tensor"]]]) -> tuple["Tensor", "Tensor"]:
        """The inverse of ``split``: A and B of a file from those of each group."""
        import torch

        a = torch.cat([own_a for own_a, _ in factors])
        b = torch.stack([torch.cat(list(parts)) for _, parts in factors], dim=2)  # (out, rank, groups)
        return a, b.reshape(b.shape[0], -1)


def linear_sites(model: "Transformer") -> dict[str, Site]:
    """The linear maps of a model as its family's checkpoints lay them out, by name, in the model's order.

    The head is among them (also a tied one), the routers of experts are not.
    """
    maps = dict(_maps(model, ""))
    result = {}
    for entry in FAMILIES[model.config.family].stored(f"{path}.weight" for path in maps):
        paths = tuple(name.removesuffix(".weight") for name in entry.ours)
        rows = tuple(cast(int, maps[path].out_features) for path in paths)
        name = entry.name.removesuffix(".weight")
        result[name] = Site(name, (paths,), rows, cast(int, maps[paths[0]].in_features), entry.transposed)
    return result


def stacked_sites(model: "Transformer", stem: str, inputs: int, outputs: int) -> list[Site]:
    """The tensors of stacked experts to which factors may belong.

    ``transformers`` keeps the experts of a layer in two tensors; PEFT adapts either or both, tells them apart by
    nesting only, and so the widths must say which is meant.

    Args:
        model: with experts, or without, which has none of these.
        stem: of the keys, ``...mlp.experts`` or ``...mlp.experts.base_layer``.
        inputs: width of A.
        outputs: height of B.
    """
    path = stem.removesuffix(".base_layer")
    module = dict(model.named_modules()).get(path.removesuffix(".experts"))
    if not isinstance(module, MixtureOfExperts) or not path.endswith(".experts"):
        return []
    found = []
    for parameter, leaves in (("gate_up_proj", ("gate_proj", "up_proj")), ("down_proj", ("down_proj",))):
        maps = [getattr(module.experts[0], leaf) for leaf in leaves]
        groups = tuple(tuple(f"{path}.{expert}.{leaf}" for leaf in leaves) for expert in range(len(module.experts)))
        rows = tuple(cast(int, one.out_features) for one in maps)
        found.append(Site(stem, groups, rows, maps[0].in_features, parameter=f"{path}.{parameter}"))
    return [site for site in found if (site.inputs, sum(site.rows)) == (inputs, outputs)]


def whole_names(model: "Transformer") -> dict[str, str]:
    """Names in a checkpoint of what may be replaced whole, and our paths of the same."""
    stored = FAMILIES[model.config.family].stored(f"{path}.weight" for path in (EMBEDDING, HEAD))
    return {entry.name.removesuffix(".weight"): entry.ours[0].removesuffix(".weight") for entry in stored}


def meant(targets: Collection[str], name: str) -> str | None:
    """Which of a list of PEFT's means a module, by its whole path or the end of it; None if none does."""
    parts = name.split(".")
    return next((end for end in (".".join(parts[first:]) for first in range(len(parts))) if end in targets), None)


def of_pattern(patterns: Mapping[str, Value], site: Site, otherwise: Value) -> Value:
    """The value that ``rank_pattern`` or ``alpha_pattern`` gives a site; the first expression that matches counts.

    Raises:
        UserError: an expression that is none, or that could run for ever.
    """
    name = site.parameter or site.name
    for pattern, value in patterns.items():
        plain = re.fullmatch(r"[\w.]+", pattern)
        if name == pattern or name.endswith(f".{pattern}") if plain else _expression(pattern).match(name):
            return value
    return otherwise


def check_patterns(patterns: Mapping[str, object]) -> None:
    """Refuse patterns that would take long.

    Raises:
        UserError: an expression that is none or too involved, or too many of them.
    """
    involved = [pattern for pattern in patterns if not re.fullmatch(r"[\w.]+", pattern)]
    if len(patterns) > 10_000 or len(involved) > 200:
        raise UserError(f"there are {len(patterns)} patterns for ranks or alphas; name fewer, by the ends of paths")
    for pattern in involved:
        _expression(pattern)


def _expression(pattern: str) -> re.Pattern[str]:
    # Few repetitions and none of a group bound the backtracking by a small power of a module path's length.
    if len(pattern) > 400 or len(re.findall(r"[*+?{]", pattern)) > 3 or re.search(r"\)[*+?{]|\\[1-9]", pattern):
        raise UserError(f"the pattern {pattern[:80]!r} is too involved; name the modules by their paths instead")
    try:
        return re.compile(rf"(.*\.)?({pattern})$")
    except re.error as error:
        raise UserError(f"the pattern {pattern[:80]!r} is no regular expression ({error}); mend it") from error


def _maps(module: "nn.Module", path: str) -> Iterator[tuple[str, "nn.Module"]]:
    """The linear maps under a module, adapted or not, of whatever class (a quantised one has widths as well)."""
    for name, child in module.named_children():
        below = f"{path}.{name}" if path else name
        if isinstance(getattr(child, "in_features", None), int):
            yield below, child
        else:
            yield from _maps(child, below)
