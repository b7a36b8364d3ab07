"""The model that a stage goes on from: that of an earlier stage, or the one that the recipe starts with."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cadran.engine.loading import Renderer, open_tokenizer
from cadran.errors import UserError
from cadran.files import sha256_file, write_json, write_text
from cadran.library.export import write_small_files
from cadran.library.header import ModelHeader, read_header
from cadran.library.shards import write_shards
from cadran.model.checkpoint import load_model, stored_weights
from cadran.model.families import FAMILIES
from cadran.model.lora import LoraConfig, add_adapter, merge
from cadran.model.lora_files import load_adapter, save_adapter
from cadran.model.transformer import Transformer
from cadran.model.weight_files import weight_files
from cadran.recipe.run import MARKER, find_model
from cadran.recipe.schema import Recipe
from cadran.recipe.sections import AdapterSection
from cadran.recipe.stage import StageContext
from cadran.recipe.stages.training import write_lineage
from cadran.tokenizer.tokenizer import Tokenizer

ADAPTER = "adapter"
"""Folder of the adapter within that of a stage; beside it lies the model it was merged into."""


_READ = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
"""Files beside the weights on which training depends."""

_OF_THE_PARENT = (MARKER, "results.json")
"""Files beside a model of a run that say something of its own stage."""


@dataclass(frozen=True, slots=True)
class Parent:
    """A model that talks, to be trained further.

    Attributes:
        name: as a person would type it.
        path: a folder or a ``.gguf`` file.
        tokenizer: its own.
        renderer: of its conversations.
    """

    name: str
    path: Path
    tokenizer: Tokenizer
    renderer: Renderer

    def model(self) -> Transformer:
        """The model in float32, read anew."""
        return load_model(self.path, torch.float32)

    @property
    def pad(self) -> int:
        """Id put in empty places, which nothing learns from."""
        return self.tokenizer.pad if self.tokenizer.is_ours else 0

    @property
    def end_of_text(self) -> int:
        """Id that ends a document; where the tokenizer knows none, one that ends an answer."""
        return [*self.tokenizer.eos_ids, *self.renderer.stop_ids][0]


def parent_of(context: StageContext, stage: str | None) -> Parent:
    """The parent of a stage.

    Args:
        context: of the stage.
        stage: the one before it; None means what the recipe starts with.

    Raises:
        UserError: there is no such model, or it knows no turns.
    """
    name = f"{context.recipe.name}/{stage}" if stage is not None else str(context.recipe.start)
    path = context.run.stage(stage) if stage is not None else find_model(name)
    tokenizer, renderer = open_tokenizer(path)
    if renderer is None:
        raise UserError(f"{name} has no chat template, so it cannot learn to answer; start with a model that has one")
    return Parent(name, path, tokenizer, renderer)


def start_settings(recipe: Recipe) -> dict[str, Any]:
    """What a stage's result depends on when it goes on from the recipe's ``start``: the content of that model."""
    return {"start": model_content(find_model(str(recipe.start)))}


def model_content(path: Path) -> dict[str, str]:
    """SHA-256 of the files of a model on which what it says depends, by name."""
    files = [path] if path.is_file() else [*(path / name for name in _READ), *weight_files(path)]
    return {file.name: sha256_file(file) for file in files if file.is_file()}


def content_of(path: Path) -> dict[str, str]:
    """SHA-256 of a file of the user's, or of each in a folder and below it, by name; nothing where there is none."""
    if not path.is_dir():
        return {path.name: sha256_file(path)} if path.is_file() else {}
    named = {file.relative_to(path): file for file in sorted(path.rglob("*")) if file.is_file()}
    shown = {name: file for name, file in named.items() if not any(part.startswith(".") for part in name.parts)}
    return {name.as_posix(): sha256_file(file) for name, file in shown.items()}


def put_adapter(model: Transformer, section: AdapterSection, seed: int, base: str) -> None:
    """Put a fresh adapter upon a model, whose own maps are kept in integers from now on if that is wanted.

    Args:
        model: changed in place.
        section: what kind of adapter.
        seed: of its first factor.
        base: name of the model, for whoever opens the adapter.
    """
    if section.base != "float":
        from cadran.train.frozen import freeze_base

        freeze_base(model, 8 if section.base == "int8" else 4)
    config = LoraConfig(
        rank=section.rank,
        alpha=section.alpha,
        dropout=section.dropout,
        targets=tuple(section.targets),
        rslora=section.rslora,
        dora=section.dora,
        base=base,
    )
    add_adapter(model, config, seed, ADAPTER)


def write_finetuned(
    context: StageContext, parent: Parent, model: Transformer, results: dict[str, Any], *, adapter: bool
) -> Transformer:
    """Write what became of a parent: the model, and if only an adapter was trained, that too, in PEFT's format.

    Args:
        context: of the stage.
        parent: whose tokenizer, template and generation settings it keeps.
        model: trained; with the adapter upon it if there is one.
        results: for its lineage.
        adapter: whether an adapter was trained.

    Returns:
        The model as it was written: with the adapter merged into weights in floating point, whatever it was trained on.
    """
    if adapter:
        model = merged(parent, model, context.folder / ADAPTER)
    header = keep_small_files(parent, context.folder)
    weights = dict(stored_weights(model, FAMILIES[model.config.family]))
    write_shards(context.folder, list(weights), weights.items())
    write_json(context.folder / "config.json", header.config | {"torch_dtype": "float32"})
    write_lineage(context, results)
    write_text(context.folder / "README.md", _card(context, parent, model, results))
    return model.eval()


def merged(parent: Parent, model: Transformer, folder: Path) -> Transformer:
    """A parent with the adapter of a model merged into it, in floating point whatever that was trained on.

    Args:
        parent: of the model.
        model: with an adapter upon it.
        folder: where the adapter is written, in PEFT's format.
    """
    save_adapter(model, folder, ADAPTER)
    whole = parent.model()
    load_adapter(whole, folder, ADAPTER)
    merge(whole, ADAPTER)
    return whole


def keep_small_files(parent: Parent, folder: Path) -> ModelHeader:
    """Write what a model keeps of its parent: tokenizer, template, generation settings, licence."""
    header = read_header(parent.path)
    with ExitStack() as stack:
        write_small_files(parent.path, folder, header, stack)
    for name in _OF_THE_PARENT:
        (folder / name).unlink(missing_ok=True)
    return header


def _card(context: StageContext, parent: Parent, model: Transformer, results: dict[str, Any]) -> str:
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "---",
        f"# {context.recipe.name}/{context.name}",
        "",
        f"{parent.name} ({model.config.parameters:,} parameters), trained further by the stage {context.name} with "
        f"Cadran on {results['tokens']:,} tokens. Recipe, hashes and figures: `cadran.json` here. Its licence is that "
        f"of {parent.name}.",
        "",
    ]
    return "\n".join(lines)
