"""The recipe: the only place where a run's choices live. Unknown keys are refused by name.

``null`` means "decide for me"; ``resolve`` in ``budget.py`` replaces every one of them, and the resolved recipe is
written into the run, so that running *that* file again reproduces the run.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cadran.corpus.sources.config import parse_source
from cadran.errors import UserError


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]


class CorpusSection(Section):
    """Where text comes from and what is kept of it."""

    sources: list[dict[str, Any]] = Field(min_length=1)
    fallback: list[dict[str, Any]] = []
    validation: Share = 0.02
    near_duplicate_threshold: Annotated[float, Field(gt=0, le=1)] = 0.8
    minimum_characters: Annotated[int, Field(ge=0)] = 40


class TokenizerSection(Section):
    """The tokenizer's size."""

    vocabulary: Positive = 4096


class ModelSection(Section):
    """Sizes of the model; null follows from the budget in minutes."""

    layers: Positive | None = None
    width: Positive | None = None
    heads: Positive | None = None
    kv_heads: Positive | None = None
    hidden: Positive | None = None
    context: Positive | None = None
    tied: bool = True


class TrainingSection(Section):
    """What pre-training and SFT have in common."""

    tokens: Positive | None = None
    rows: Positive = 8
    micro_rows: Positive | None = None
    optimizer: Literal["muon", "adamw"] = "muon"
    matrix_rate: Annotated[float, Field(gt=0)] = 0.01
    embedding_rate: Annotated[float, Field(gt=0)] = 0.03
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["wsd", "cosine"] = "wsd"
    warmup: Share = 0.02
    decay: Annotated[float, Field(ge=0, le=1)] = 0.5
    final: Share = 0.0
    clip: Annotated[float, Field(ge=0)] = 1.0
    precision: Literal["fp32", "bf16"] | None = None
    compiled: bool | None = None
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 60.0


class BaseStageSection(TrainingSection):
    """Pre-training."""

    evaluations: Positive = 8
    evaluated_documents: Positive = 64
    prompts: dict[str, list[str]] = {}
    sample_tokens: Positive = 60


class SftSection(TrainingSection):
    """Supervised fine-tuning on rows made from the articles, and on chats."""

    matrix_rate: Annotated[float, Field(gt=0)] = 0.005
    embedding_rate: Annotated[float, Field(gt=0)] = 0.01
    warmup: Share = 0.02
    decay: Annotated[float, Field(ge=0, le=1)] = 0.9
    chats: Annotated[int, Field(ge=0)] = 1500
    small_talk: Annotated[int, Field(ge=0)] = 0
    article_characters: Positive = 360
    topics_evaluated: Positive = 300
    descriptions_evaluated: Positive = 60


class Recipe(Section):
    """One pipeline from text to a model that talks."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    about: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1337
    threads: Positive = 2
    minutes: Annotated[float, Field(gt=0)] | None = None
    corpus: CorpusSection
    tokenizer: TokenizerSection = TokenizerSection()
    model: ModelSection = ModelSection()
    base: BaseStageSection = BaseStageSection()
    sft: SftSection = SftSection()


def recipe_folders() -> list[Path]:
    """Where recipes are looked up by name: the working directory's, then the ones that come with the package."""
    package = Path(__file__).resolve().parent.parent
    return [Path("recipes"), package / "recipes", package.parent.parent / "recipes"]


def load_recipe(name: str, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe by name or path and apply ``key=value`` overrides.

    Args:
        name: ``quickstart``, or a path that ends in ``.yaml``.
        overrides: each ``dotted.key=value`` with the value in YAML.

    Raises:
        UserError: no such recipe, broken YAML, an unknown key (with the nearest valid one), a wrong value.
    """
    path = _find(name)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} cannot be read as YAML ({' '.join(str(error).split())}); mend that line") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no recipe; see recipes/quickstart.yaml for one")
    for override in overrides or []:
        _apply(content, override)
    return parse_recipe(content)


def parse_recipe(content: dict[str, Any]) -> Recipe:
    """Check a recipe that was read already.

    Raises:
        UserError: as ``load_recipe``.
    """
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise UserError(_sentence(error)) from error
    for source in [*recipe.corpus.sources, *recipe.corpus.fallback]:
        parse_source(source)
    return recipe


def _find(name: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        if Path(name).is_file():
            return Path(name)
        raise UserError(f"there is no file {name}; give a recipe's name such as quickstart, or a path to a YAML file")
    known: set[str] = set()
    for folder in recipe_folders():
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
        known.update(p.stem for p in folder.glob("*.yaml"))
    near = difflib.get_close_matches(name, sorted(known), 1)
    hint = f"did you mean cadran run {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
    raise UserError(f"there is no recipe {name}; {hint}")


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UserError(f"{override!r} is no override; write key=value, e.g. base.rows=8")
    *parents, last = key.split(".")
    section = content
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise UserError(f"{key} is no key of a recipe, because {parent} holds a value; see recipes/quickstart.yaml")
    try:
        section[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"the value in {override!r} is not YAML; quote it, e.g. '{key}=\"text\"'") from error


def _sentence(error: ValidationError) -> str:
    """The first problem as one sentence with what to type."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        section: type[BaseModel] = Recipe
        for part in first["loc"][:-1]:
            annotation = section.model_fields[str(part)].annotation
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                section = annotation
        valid = sorted(section.model_fields)
        near = difflib.get_close_matches(str(first["loc"][-1]), valid, 1, cutoff=0.4)
        prefix = "".join(f"{part}." for part in first["loc"][:-1])
        hint = f"did you mean {prefix}{near[0]}?" if near else f"valid are {', '.join(valid)}"
        return f"a recipe has no key {place}; {hint}"
    given = first.get("input")
    shown = "" if isinstance(given, dict) else f" and not {given!r}"
    return f"{place} in the recipe is wrong ({first['msg'].lower()}{shown}); set it with {place}=VALUE"
