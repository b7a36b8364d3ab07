"""Adapters on disk, in PEFT's format: ``adapter_config.json`` beside ``adapter_model.safetensors``.

Keys are ``base_model.model.`` and the module path in ``transformers``, then ``lora_A.weight`` (rank, in),
``lora_B.weight`` (out, rank), for DoRA ``lora_magnitude_vector`` (out,); an embedding or a head that was trained whole
lies under its own name. The files come from strangers: what is not understood is refused, and nothing is unpickled.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from cadran.errors import UserError
from cadran.files import read_json, write_bytes, write_json
from cadran.model.families.fields import Fields
from cadran.model.lora import (
    Adapter,
    Factors,
    LoraConfig,
    active_adapter,
    adapter_of,
    attach,
    base_weights,
    check_name,
)
from cadran.model.lora_linear import Adapted, LoraLinear, LowRank
from cadran.model.lora_sites import EMBEDDING, HEAD, Site, linear_sites, meant, stacked_sites, whole_names
from cadran.model.safetensors_file import SafetensorsFile
from cadran.model.transformer import Transformer

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."

_READ = {
    "peft_type", "r", "lora_alpha", "lora_dropout", "bias", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern",
    "modules_to_save", "ensure_weight_tying", "base_model_name_or_path", "target_modules", "target_parameters",
    "init_lora_weights",
}  # fmt: skip
_IDLE = {
    "task_type", "auto_mapping", "revision", "inference_mode", "peft_version", "fan_in_fan_out", "exclude_modules",
    "layers_to_transform", "layers_pattern", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    "megatron_core", "qalora_group_size", "runtime_config", "modules_to_tie", "target_modules_to_tie",
}  # fmt: skip
"""Options without an effect on what a finished adapter computes; whatever is neither here nor above is refused."""
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Ways to draw the first A and B that leave the base as it was."""


@dataclass(slots=True)
class _Found:
    """The keys of a file, sorted by what they are: by stem and kind, and by our path."""

    factors: dict[str, dict[str, str]] = field(default_factory=dict)
    whole: dict[str, str] = field(default_factory=dict)
    copies: list[str] = field(default_factory=list)


def load_adapter(model: Transformer, folder: Path, name: str | None = None, *, trainable: bool = False) -> str:
    """Put an adapter from disk upon a model and make it the active one.

    Its factors are kept in float32, whatever they are stored in. A new embedding or head may have more or fewer rows
    than the model's: the vocabulary then follows the active adapter.

    Args:
        model: of the architecture and sizes that the adapter was trained on.
        folder: with the two files.
        name: to call it by; None takes the folder's.
        trainable: whether to go on training it.

    Returns:
        The name.

    Raises:
        UserError: the files are missing, damaged, or ask for what is not known here, or do not fit the model; or the
            name is taken. The model is then as it was.
    """
    name = re.sub(r"[^A-Za-z0-9_-]", "_", folder.resolve().name)[:64] if name is None else name
    check_name(model, name)
    fields = _read_config(folder)
    if not (folder / WEIGHTS).is_file() and (folder / PICKLE).is_file():
        raise UserError(
            f"{folder / PICKLE} is a pickle, which can run code and is never opened; "
            f"open it with peft where you trust it and write it again with save_pretrained, which makes {WEIGHTS}"
        )
    with SafetensorsFile(folder / WEIGHTS) as file:
        found = _sort_keys(model, file)
        sites = _sites(model, file, found)
        config = _config(fields, found, sites)
        _check_factors(file, found, sites, config)
        _check_targets(model, file, fields, sites, config)
        whole, tied = _whole(model, file, fields, found)
        _check_copies(model, file, found)
        read = [_factors(file, found.factors[site.name]) for site in sites]
    attach(model, name, Adapter(replace(config, tied=tied), sites), read, whole, trainable=trainable)
    return name


def save_adapter(model: Transformer, folder: Path, name: str | None = None) -> None:
    """Write an adapter that ``peft.PeftModel.from_pretrained`` opens; equal tensors are equal bytes.

    Where a model has routed experts and plain MLPs under the same names (DeepSeek), current versions of ``peft`` take
    ``gate_proj``, ``up_proj`` and ``down_proj`` for the experts' alone; adapt the attention there if it is to open it.

    Args:
        model: with the adapter.
        folder: created when absent.
        name: of the adapter; None takes the active one.

    Raises:
        UserError: there is no such adapter.
    """
    name = name or active_adapter(model)
    if name is None:
        raise UserError("no adapter acts upon the model; name the one that is to be saved")
    adapter = adapter_of(model, name)
    tensors: dict[str, Tensor] = {}
    for site in adapter.sites:
        parts = [[_part(model, path, name) for path in paths] for paths in site.groups]
        a, b = site.join([(group[0].lora_A.detach(), [part.lora_B.detach() for part in group]) for group in parts])
        tensors |= {f"{PREFIX}{site.name}.lora_A.weight": a, f"{PREFIX}{site.name}.lora_B.weight": b}
        magnitudes = [part.magnitude.detach() for part in parts[0] if part.magnitude is not None]
        if magnitudes:
            tensors[f"{PREFIX}{site.name}.lora_magnitude_vector"] = torch.cat(magnitudes)
    paths = {path: theirs for theirs, path in whole_names(model).items()}
    saved = []
    for path in (EMBEDDING, HEAD):
        module = model.get_submodule(path)
        part = module.adapters[name] if isinstance(module, Adapted) and name in module.records else None
        if isinstance(part, nn.Embedding | nn.Linear):
            tensors[f"{PREFIX}{paths[path]}.weight"] = part.weight.detach().clone()
            saved.append(paths[path].rpartition(".")[2])
    write_bytes(folder / WEIGHTS, save({key: t.contiguous().cpu() for key, t in tensors.items()}, {"format": "pt"}))
    write_json(folder / CONFIG, _written_config(model, adapter, saved))


def _read_config(folder: Path) -> Fields:
    try:
        content = read_json(folder / CONFIG)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder} holds no adapter ({error}); give a folder with {CONFIG} in it") from error
    if not isinstance(content, dict):
        raise UserError(f"{folder / CONFIG} is no object; fetch or save the adapter again")
    kind = content.get("peft_type")
    if kind != "LORA":
        raise UserError(
            f"{folder} holds an adapter of the kind {str(kind)[:40]!r}, which is not known; train a LORA one"
        )
    for option, value in content.items():
        if option not in _READ | _IDLE and value:
            raise UserError(f"{folder} asks for {option[:60]}, which is not known; train the adapter without it")
    start = content.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        raise UserError(
            f"{folder} began with init_lora_weights={str(start)[:40]!r}, which changes the base as well; "
            "let peft convert it (save_pretrained with path_initial_model_for_weight_conversion)"
        )
    if content.get("bias", "none") != "none":
        raise UserError(f"{folder} trained biases, which is not known; train the adapter with bias='none'")
    return Fields(content, CONFIG)


def _sort_keys(model: Transformer, file: SafetensorsFile) -> _Found:
    found, whole = _Found(), whole_names(model)
    for key, entry in file.entries.items():
        plain = key.removeprefix(PREFIX)
        factor = re.fullmatch(r"(.+)\.(lora_A|lora_B)\.weight|(.+)\.(lora_magnitude_vector)(?:\.weight)?", plain)
        module = _module(key)
        if entry.kind not in ("F64", "F32", "F16", "BF16"):
            raise _unfit(file, f"{key[:100]} holds no fractions")
        if not key.startswith(PREFIX):
            raise _unfit(file, f"{key[:100]!r} does not begin with {PREFIX}")
        if factor:
            stem, kind = (factor[1], factor[2]) if factor[1] else (factor[3], factor[4])
            if kind in found.factors.setdefault(stem, {}):
                raise _unfit(file, f"{key[:100]} stands in it twice")
            found.factors[stem][kind] = key
        elif module in whole and module != plain:
            found.whole[whole[module]] = key
        elif plain == f"{HEAD}.base_layer.weight":
            found.copies.append(key)
        elif "lora_embedding_" in plain:
            raise _unfit(file, f"{key[:100]} is of a low-rank embedding, which is not known: train it whole")
        else:
            raise _unfit(file, f"{key[:100]!r} is no part of a LoRA adapter that is known here")
    return found


def _sites(model: Transformer, file: SafetensorsFile, found: _Found) -> tuple[Site, ...]:
    """Where the factors of a file belong, in the model's order."""
    known, stacked = linear_sites(model), []
    for stem, keys in found.factors.items():
        if missing := {"lora_A", "lora_B"} - keys.keys():
            raise _unfit(file, f"{stem[:100]} lacks {min(missing)}")
        if stem in known:
            continue
        a, b = (file.entries[keys[kind]].shape for kind in ("lora_A", "lora_B"))
        fitting = stacked_sites(model, stem, a[-1], b[0]) if len(a) == len(b) == 2 else []
        if not fitting:
            raise _unfit(file, f"the model has no linear map {stem[:100]!r}")
        stacked.append(fitting[0])
    sites = (*(site for name, site in known.items() if name in found.factors), *stacked)
    paths = [path for site in sites for group in site.groups for path in group]
    if len(set(paths)) < len(paths):
        raise _unfit(file, "it adapts the same experts twice, one by one and stacked")
    return sites


def _config(fields: Fields, found: _Found, sites: tuple[Site, ...]) -> LoraConfig:
    patterns: dict[str, Any] = {}
    for option, typed in (("rank_pattern", Fields.integer), ("alpha_pattern", Fields.number)):
        inner = fields.inner(option)
        patterns[option] = {key: typed(inner, key) for key in inner.content} if inner else {}
    base = fields.content.get("base_model_name_or_path")
    return LoraConfig(
        rank=fields.integer("r", 8),
        alpha=fields.number("lora_alpha", 8),
        dropout=fields.number("lora_dropout", 0),
        targets=tuple(site.name for site in sites),
        rslora=fields.flag("use_rslora"),
        dora=fields.flag("use_dora"),
        whole=tuple(path.rpartition(".")[2] for path in found.whole),
        base=base if isinstance(base, str) and not _absolute(base) else None,
        **patterns,
    )


def _check_factors(file: SafetensorsFile, found: _Found, sites: tuple[Site, ...], config: LoraConfig) -> None:
    for site in sites:
        keys, rank = found.factors[site.name], config.rank_of(site)
        wanted: dict[str, tuple[int, ...]] = dict(zip(("lora_A", "lora_B"), site.shapes(rank), strict=True))
        if config.dora:
            wanted["lora_magnitude_vector"] = (sum(site.rows),)
        if keys.keys() != wanted.keys():
            odd = min(keys.keys() ^ wanted.keys())
            raise _unfit(file, f"{site.name} {'lacks' if odd in wanted else 'has'} {odd}, use_dora is {config.dora}")
        if config.dora and site.parameter:
            raise _unfit(file, f"{site.name} is of stacked experts, which DoRA does not know")
        for kind, shape in wanted.items():
            if (given := file.entries[keys[kind]].shape) != shape:
                raise _unfit(file, f"{keys[kind]} has shape {given}, and rank {rank} upon this model makes {shape}")


def _check_targets(
    model: Transformer, file: SafetensorsFile, fields: Fields, sites: tuple[Site, ...], config: LoraConfig
) -> None:
    """Refuse a file that lacks what a plain list of targets promises; an expression or a selection promises nothing."""
    targets = fields.content.get("target_modules")
    if not isinstance(targets, list) or fields.content.get("exclude_modules"):
        return
    if fields.content.get("layers_to_transform") is not None:
        return
    present, promised = {site.name for site in sites}, {str(target) for target in targets}
    for name in linear_sites(model):
        # Routed experts lie stacked in `transformers`, where a name such as gate_proj does not reach them.
        if name in present or ".experts." in name or (name == HEAD and "lm_head" in config.whole):
            continue
        if meant(promised, name):
            raise _unfit(file, f"{name} is among the targets in {CONFIG} and its lora_A is missing")


def _whole(model: Transformer, file: SafetensorsFile, fields: Fields, found: _Found) -> tuple[dict[str, Tensor], bool]:
    """The embedding and the head of a file, by our path, and whether they are to be one tensor here.

    What PEFT saved because it was resized takes the place of the base's, with its tie. What was trained on request
    leaves the other end as it was, unless both were tied, and then both lie in the file and are equal.
    """
    shapes = dict(zip((EMBEDDING, HEAD), (tuple(weight.shape) for weight in base_weights(model)), strict=True))
    for path, key in found.whole.items():
        shape = file.entries[key].shape
        if len(shape) != 2 or shape[1] != model.config.width or not shape[0]:
            raise _unfit(file, f"{key} has shape {shape}, and the model is {model.config.width} wide")
        if path == HEAD and HEAD in found.factors:
            raise _unfit(file, f"{key} is there whole and with lora_A")
        shapes[path] = shape
    tensors = {path: file.read(key) for path, key in found.whole.items()}
    if model.config.tied and tensors:
        listed = {str(name) for name in fields.sequence("modules_to_save")}
        asked = any(meant(listed, _module(key)) for key in found.whole.values())
        equal = len(tensors) == 2 and torch.equal(*tensors.values())
        if len(tensors) == 2 and not equal and (not asked or fields.flag("ensure_weight_tying")):
            raise _unfit(file, "its embedding and head differ, and should be tied")
        if equal or not asked:
            return dict([next(iter(tensors.items()))]), True
    if shapes[EMBEDDING] != shapes[HEAD]:
        raise _unfit(file, f"the embedding would be {shapes[EMBEDDING]} and the head {shapes[HEAD]}")
    return tensors, False


def _module(key: str) -> str:
    return key.removeprefix(PREFIX).removesuffix(".weight")


def _check_copies(model: Transformer, file: SafetensorsFile, found: _Found) -> None:
    """PEFT writes the base's own head beside low-rank factors of it, which tells whether this is that base."""
    head = base_weights(model)[1]
    for key in found.copies:
        if file.entries[key].shape != tuple(head.shape) or not torch.equal(file.read(key).to(head), head):
            raise _unfit(file, f"{key} is not the head of this model: the adapter belongs to another")


def _factors(file: SafetensorsFile, keys: Mapping[str, str]) -> Factors:
    magnitude = keys.get("lora_magnitude_vector")
    return Factors(file.read(keys["lora_A"]), file.read(keys["lora_B"]), file.read(magnitude) if magnitude else None)


def _unfit(file: SafetensorsFile, why: str) -> UserError:
    return UserError(f"{file.path} does not fit: {why}; give the adapter's own base, or fetch the adapter again")


def _part(model: Transformer, path: str, name: str) -> LowRank:
    module = model.get_submodule(path)
    assert isinstance(module, LoraLinear)
    part = module.adapters[name]
    assert isinstance(part, LowRank)
    return part


def _written_config(model: Transformer, adapter: Adapter, saved: list[str]) -> dict[str, Any]:
    config = adapter.config
    content: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": config.base,
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": _plain(config.alpha),
        "lora_dropout": config.dropout,
        "bias": "none",
        "fan_in_fan_out": any(site.transposed for site in adapter.sites),
        "init_lora_weights": True,
        "target_modules": _target_modules(model, [site.name for site in adapter.sites if not site.parameter]),
        "use_rslora": config.rslora,
        "use_dora": config.dora,
        "rank_pattern": dict(config.rank_pattern),
        "alpha_pattern": {pattern: _plain(alpha) for pattern, alpha in config.alpha_pattern.items()},
        "modules_to_save": saved or None,
    }
    if parameters := sorted(site.parameter for site in adapter.sites if site.parameter):
        content["target_parameters"] = parameters
    if config.tied and saved:
        content["ensure_weight_tying"] = True
    return content


def _absolute(path: str) -> bool:
    """Whether a name is a place on somebody's machine, which is not handed on."""
    return PurePosixPath(path).is_absolute() or PureWindowsPath(path).is_absolute()


def _plain(number: float) -> float | int:
    """A whole number as PEFT writes it."""
    return int(number) if float(number).is_integer() else number


def _target_modules(model: Transformer, names: list[str]) -> list[str]:
    """The shortest list that means these modules and no others: their last names if that will do, else whole paths."""
    leaves = sorted({name.rpartition(".")[2] for name in names})
    return leaves if {name for name in linear_sites(model) if meant(leaves, name)} == set(names) else sorted(names)
