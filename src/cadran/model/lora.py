"""LoRA adapters upon a model: made, switched, merged, taken off. Several may lie on one base; one acts, or none.

An adapter speaks the names of the checkpoint's layout (``c_attn``, ``qkv_proj``), as PEFT does, so that what is
trained here opens there. ``lora_linear`` holds the arithmetic, ``lora_files`` the format on disk.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn

from cadran.errors import UserError
from cadran.model.lora_linear import Adapted, AdaptedEmbedding, LoraLinear, LowRank, float_weight, row_lengths
from cadran.model.lora_sites import EMBEDDING, HEAD, Site, check_patterns, linear_sites, meant, of_pattern
from cadran.model.transformer import Transformer

ALL_LINEAR = "all-linear"
"""As a target: every linear map except the head and the routers of experts."""


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """What an adapter is; the defaults are common ones for instruction tuning.

    Attributes:
        rank: inner width of the two factors.
        alpha: numerator of the scale, which is ``alpha / rank``.
        dropout: share of each adapted map's input that is dropped in training.
        targets: names of linear maps as in the family's checkpoints, whole paths or their ends, or ``all-linear``.
        rslora: the scale is ``alpha / sqrt(rank)`` (Kalajdzievski 2023).
        dora: rows have trained lengths (Liu et al. 2024).
        rank_pattern, alpha_pattern: exceptions, by regular expressions of which one must match the end of a path.
        whole: of ``embed_tokens`` and ``lm_head``, those that are trained and saved whole.
        tied: whether these stay one tensor in a model that ties them.
        base: name of the model that the adapter belongs to, for whoever opens it.

    Raises:
        UserError: a value that cannot be.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = (ALL_LINEAR,)
    rslora: bool = False
    dora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    whole: tuple[str, ...] = ()
    tied: bool = True
    base: str | None = None

    def __post_init__(self) -> None:
        if min((self.rank, *self.rank_pattern.values())) < 1:
            raise UserError("the rank of an adapter is at least 1; set rank=16")
        if not all(math.isfinite(alpha) for alpha in (self.alpha, *self.alpha_pattern.values())):
            raise UserError("alpha of an adapter is a finite number; set alpha=32")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout={self.dropout} is no share below 1; set dropout=0")
        if unknown := set(self.whole) - {"embed_tokens", "lm_head"}:
            raise UserError(f"{min(unknown)[:80]!r} cannot be trained whole; pick embed_tokens or lm_head")
        for patterns in (self.rank_pattern, self.alpha_pattern):
            check_patterns(patterns)

    def rank_of(self, site: Site) -> int:
        """Rank at one map."""
        return of_pattern(self.rank_pattern, site, self.rank)

    def scale_of(self, site: Site) -> float:
        """Factor on B A at one map."""
        rank, alpha = self.rank_of(site), of_pattern(self.alpha_pattern, site, self.alpha)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter upon a model: what it is and the maps it acts on, in the model's order."""

    config: LoraConfig
    sites: tuple[Site, ...]


@dataclass(frozen=True, slots=True)
class Factors:
    """The tensors of an adapter at one map: A, B and, for DoRA, the lengths of the rows (None: those of the base)."""

    a: Tensor
    b: Tensor
    magnitude: Tensor | None = None


def add_adapter(model: Transformer, config: LoraConfig, seed: int, name: str = "default") -> None:
    """Put a fresh adapter upon a model, freeze everything else, and make the adapter the active one.

    B is zero, so the model computes what it did. A is uniform in +-1 / sqrt(in), Kaiming's rule for a = sqrt(5).

    Args:
        model: may have adapters already.
        config: what to add.
        seed: of A; the draw depends on nothing else but the maps and their ranks.
        name: to call it by: letters, digits, ``-``, ``_``.

    Raises:
        UserError: a target that the model does not have, or a name that is taken or impossible.
    """
    check_name(model, name)
    sites = _targeted(linear_sites(model), config, model.config.family)
    generator = torch.Generator().manual_seed(seed)
    factors = []
    for site in sites:
        to_a, to_b = site.shapes(config.rank_of(site))
        bound = 1 / math.sqrt(site.inputs)
        factors.append(Factors(torch.empty(to_a).uniform_(-bound, bound, generator=generator), torch.zeros(to_b)))
    embedding, head = base_weights(model)
    both = {EMBEDDING: embedding, HEAD: head}
    chosen = {path: both[path].detach().clone() for path in both if path.rpartition(".")[2] in config.whole}
    tied = config.tied and model.config.tied and bool(chosen)
    attach(model, name, Adapter(replace(config, tied=tied), sites), factors, chosen, trainable=True)


def attach(
    model: Transformer,
    name: str,
    adapter: Adapter,
    factors: Iterable[Factors],
    whole: Mapping[str, Tensor],
    *,
    trainable: bool,
) -> None:
    """Put an adapter with given tensors upon a model and make it the active one; shapes must fit.

    Args:
        model: changed in place; the base is frozen, and other adapters as well if ``trainable``.
        name: free.
        adapter: with the sites that the factors belong to; its ``config.tied`` makes embedding and head one tensor.
        factors: one for each site.
        whole: new embedding and head, by our paths, each (V, C).
        trainable: whether its tensors want gradients.
    """
    if adapter.config.dora:
        for path in (path for site in adapter.sites for group in site.groups for path in group):
            float_weight(_base(model, path))  # all or nothing
    if trainable or not adapter_names(model):
        model.requires_grad_(False)
    for site, tensors in zip(adapter.sites, factors, strict=True):
        _attach_site(model, name, adapter, site, tensors, trainable)
    like = base_weights(model)[0]
    parameters = {
        path: nn.Parameter(tensor.to(like.device, like.dtype), requires_grad=trainable)
        for path, tensor in whole.items()
    }
    if adapter.config.tied:
        parameters = dict.fromkeys((EMBEDDING, HEAD), next(iter(parameters.values())))
    for path, parameter in parameters.items():
        rows, width = parameter.shape
        with torch.device("meta"):
            module = nn.Embedding(rows, width) if path == EMBEDDING else nn.Linear(width, rows, bias=False)
        module.weight = parameter
        _put(model, path, name, adapter, module)
    activate(model, name)


def activate(model: Transformer, name: str | None) -> None:
    """Let one adapter act from now on, or none.

    Raises:
        UserError: the model has no such adapter.
    """
    if name is not None and name not in adapter_names(model):
        known = ", ".join(adapter_names(model)) or "none at all"
        raise UserError(f"the model has no adapter {name[:80]!r}, it has {known}; load it first")
    for module in _adapted(model).values():
        module.active = name
    _follow_vocabulary(model)


@contextmanager
def with_adapter(model: Transformer, name: str | None) -> Iterator[None]:
    """Let one adapter act for a while, or none; afterwards whatever acted before. Switching costs no arithmetic.

    Raises:
        UserError: the model has no such adapter.
    """
    before = active_adapter(model)
    activate(model, name)
    try:
        yield
    finally:
        activate(model, before)


def without_adapter(model: Transformer) -> AbstractContextManager[None]:
    """The base alone for a while, bit for bit what it was before any adapter (the reference of DPO, for one)."""
    return with_adapter(model, None)


def active_adapter(model: Transformer) -> str | None:
    """Name of the adapter that acts, or None."""
    return next((module.active for module in _adapted(model).values()), None)


def adapter_names(model: Transformer) -> list[str]:
    """Names of the adapters upon a model, oldest first within each map."""
    return list(dict.fromkeys(name for module in _adapted(model).values() for name in module.records))


def merge(model: Transformer, name: str | None = None) -> None:
    """Make an adapter part of the weights and take all adapters off: the model is a plain one again, and frozen.

    Each matrix becomes ``W + scale * (B @ A)`` in float32 or wider, rounded once to its own type (``LowRank.merged``).
    A tie between embedding and head is kept where both are still the same, and otherwise cut.

    Args:
        model: its weights must be in floating point; quantise after merging, not before.
        name: of the adapter; None takes the active one.

    Raises:
        UserError: there is no such adapter, or the base is quantised.
    """
    name = _existing(model, name)
    places = {path: module for path, module in _adapted(model).items() if name in module.records}
    for module in places.values():
        if isinstance(module.adapters[name], LowRank):
            float_weight(module.base)  # all or nothing
    activate(model, name)
    for path, module in places.items():
        _set(model, path, module.merge(name) if isinstance(module, LoraLinear) else module.adapters[name])
    for path, module in _adapted(model).items():
        _set(model, path, module.base)
    model.requires_grad_(False)
    if model.config.tied and model.lm_head.weight is not model.model.embed_tokens.weight:
        model.config = replace(model.config, tied=False)


def remove_adapter(model: Transformer, name: str) -> None:
    """Take an adapter off; where it was the last, the base's own modules come back (frozen as they are).

    Raises:
        UserError: the model has no such adapter.
    """
    _existing(model, name)
    if active_adapter(model) == name:
        activate(model, None)
    for path, module in _adapted(model).items():
        if module.records.pop(name, None) is not None:
            del module.adapters[name]
        if not module.records:
            _set(model, path, module.base)


def adapter_of(model: Transformer, name: str) -> Adapter:
    """What an adapter is.

    Raises:
        UserError: the model has no such adapter.
    """
    _existing(model, name)
    return next(module.records[name] for module in _adapted(model).values() if name in module.records)


def base_weights(model: Transformer) -> tuple[Tensor, Tensor]:
    """Embedding and head of the base, each (V, C)."""
    return cast(Tensor, _base(model, EMBEDDING).weight), cast(Tensor, _base(model, HEAD).weight)


def check_name(model: Transformer, name: str) -> None:
    """Refuse a name that is taken or that no module can have.

    Raises:
        UserError: it is.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) or hasattr(nn.ModuleDict, name):
        raise UserError(f"an adapter cannot be called {name[:80]!r}; give it another name of letters and digits")
    if name in adapter_names(model):
        raise UserError(f"the model has an adapter {name!r} already; remove it, or give the new one another name")


def _targeted(sites: Mapping[str, Site], config: LoraConfig, family: str) -> tuple[Site, ...]:
    found, hit = [], set()
    for site in sites.values():
        target = meant(config.targets, site.name)
        if target is None and ALL_LINEAR in config.targets and site.name != HEAD:
            target = ALL_LINEAR
        hit |= {target}
        if target is not None and not (site.name == HEAD and "lm_head" in config.whole):
            found.append(site)
    known = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in sites))
    if missing := [target for target in config.targets if target not in hit]:
        raise UserError(
            f"{family} has no linear map called {missing[0][:80]!r}; pick targets from {known}, or {ALL_LINEAR}"
        )
    if not found:
        raise UserError(f"the adapter names no targets; pick some of {known}, or {ALL_LINEAR}")
    return tuple(found)


def _attach_site(
    model: Transformer, name: str, adapter: Adapter, site: Site, tensors: Factors, trainable: bool
) -> None:
    scale, dropout = adapter.config.scale_of(site), adapter.config.dropout
    magnitudes = None if tensors.magnitude is None else torch.split(tensors.magnitude, list(site.rows))
    for paths, a, parts in site.split(tensors.a, tensors.b):
        shared: nn.Parameter | None = None
        for number, (path, b) in enumerate(zip(paths, parts, strict=True)):
            base = _base(model, path)
            weight = getattr(base, "weight", a)
            shared = _factor(a, weight, trainable) if shared is None else shared
            lengths = None
            if adapter.config.dora:
                given = row_lengths(float_weight(base)) if magnitudes is None else magnitudes[number]
                lengths = _factor(given, weight, trainable)
            _put(model, path, name, adapter, LowRank(shared, _factor(b, weight, trainable), scale, dropout, lengths))


def _base(model: Transformer, path: str) -> nn.Module:
    module = model.get_submodule(path)
    return module.base if isinstance(module, Adapted) else module


def _put(model: Transformer, path: str, name: str, adapter: Adapter, part: nn.Module) -> None:
    """Enter an adapter's part where it acts."""
    module = model.get_submodule(path)
    if not isinstance(module, Adapted):
        module = AdaptedEmbedding(module) if path == EMBEDDING else LoraLinear(module)
        _set(model, path, module)
    module.adapters[name] = part.train(module.training)
    module.records[name] = adapter


def _set(model: Transformer, path: str, module: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def _factor(tensor: Tensor, like: Tensor, trainable: bool) -> nn.Parameter:
    """A parameter of an adapter: in float32 at least, whatever the base is kept in, and where the base is."""
    kind = torch.promote_types(like.dtype if like.is_floating_point() else torch.float32, torch.float32)
    return nn.Parameter(tensor.detach().to(like.device, kind, copy=True).contiguous(), requires_grad=trainable)


def _adapted(module: nn.Module, path: str = "") -> dict[str, Adapted]:
    found: dict[str, Adapted] = {}
    for name, child in module.named_children():
        below = f"{path}.{name}" if path else name
        found |= {below: child} if isinstance(child, Adapted) else _adapted(child, below)
    return found


def _existing(model: Transformer, name: str | None) -> str:
    names, wanted = adapter_names(model), name or active_adapter(model)
    if wanted is None:
        raise UserError("no adapter acts upon the model; name the one that is meant, or load one first")
    if wanted not in names:
        raise UserError(f"the model has no adapter {wanted[:80]!r}; load it first")
    return wanted


def _follow_vocabulary(model: Transformer) -> None:
    rows = model.model.embed_tokens.weight.shape[0]
    if rows != model.config.vocabulary:
        model.config = replace(model.config, vocabulary=rows)
