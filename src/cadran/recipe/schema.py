"""The recipe: the only place where a run's choices live. Unknown keys are refused by name.

``null`` means "decide for me"; ``resolve`` in ``budget.py`` replaces every one of them, and the resolved recipe is
written into the run, so that running *that* file again reproduces the run.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from cadran.corpus.sources.config import parse_source
from cadran.errors import UserError
from cadran.recipe.alignment_sections import (
    ArithmeticSection,
    DistilSection,
    DpoSection,
    GrpoSection,
    IntegerSection,
    KtoSection,
    PpoSection,
    RewardSection,
)
from cadran.recipe.sections import (
    BaseStageSection,
    CorpusSection,
    ModelSection,
    Positive,
    Section,
    SftSection,
    TokenizerSection,
)


class Recipe(Section):
    """One pipeline from text, or from a model that there is, to a model that talks."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    about: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1337
    threads: Positive = 2
    minutes: Annotated[float, Field(gt=0)] | None = None
    start: str | None = None
    corpus: CorpusSection | None = None
    tokenizer: TokenizerSection = TokenizerSection()
    model: ModelSection = ModelSection()
    base: BaseStageSection = BaseStageSection()
    arithmetic: ArithmeticSection | None = None
    sft: SftSection | None = None
    distil: DistilSection | None = None
    reward: RewardSection | None = None
    dpo: DpoSection | None = None
    kto: KtoSection | None = None
    ppo: PpoSection | None = None
    grpo: GrpoSection | None = None
    int8: IntegerSection | None = None

    @model_validator(mode="before")
    @classmethod
    def _articles_are_followed_by_sft(cls, content: Any) -> Any:
        """A recipe with a corpus and no word about SFT means the usual one."""
        if isinstance(content, dict) and content.get("corpus") is not None and "sft" not in content:
            return content | {"sft": {}}
        return content

    @model_validator(mode="before")
    @classmethod
    def _preferences_keep_the_adapter(cls, content: Any) -> Any:
        """What was taught by an adapter goes on by one of the same kind, unless the recipe says otherwise."""
        sft = content.get("sft") if isinstance(content, dict) else None
        if not (isinstance(sft, dict) and sft.get("adapter")):
            return content
        later = {name: content[name] for name in ("dpo", "kto") if isinstance(content.get(name), dict)}
        return content | {name: {"adapter": sft["adapter"]} | section for name, section in later.items()}


Part = TypeVar("Part", bound=Section)


def present(section: Part | None) -> Part:
    """A section that its stage knows to be there, because without it there would be no such stage."""
    if section is None:
        raise ValueError("the recipe lacks the section of this stage")
    return section


def recipe_folders() -> list[Path]:
    """Where recipes are looked up by name: the working directory's, then the ones that come with the package."""
    package = Path(__file__).resolve().parent.parent
    return [Path("recipes"), package / "recipes", package.parent.parent / "recipes"]


def load_recipe(name: str, overrides: list[str] | None = None, merged: dict[str, Any] | None = None) -> Recipe:
    """Read a recipe by name or path and apply ``key=value`` overrides.

    Args:
        name: ``quickstart``, or a path that ends in ``.yaml``.
        overrides: each ``dotted.key=value`` with the value in YAML.
        merged: content that is laid over the recipe's own before the overrides; sections are joined.

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
    for key, value in (merged or {}).items():
        joined = isinstance(value, dict) and isinstance(content.get(key), dict)
        content[key] = content[key] | value if joined else value
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
    if (recipe.corpus is None) == (recipe.start is None):
        raise UserError(
            "a recipe begins with text or with a model that there is; give it corpus.sources or start=MODEL, not both"
        )
    for name in Recipe.model_fields:
        adapter = getattr(getattr(recipe, name), "adapter", None)
        if adapter is not None and adapter.dora and adapter.base != "float":
            raise UserError(f"DoRA trains the lengths of rows of floats; set {name}.adapter.base=float, or leave dora")
    if recipe.corpus is not None:
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
            for kind in (annotation, *get_args(annotation)):  # a section may be optional
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    section = kind
        valid = sorted(section.model_fields)
        near = difflib.get_close_matches(str(first["loc"][-1]), valid, 1, cutoff=0.4)
        prefix = "".join(f"{part}." for part in first["loc"][:-1])
        hint = f"did you mean {prefix}{near[0]}?" if near else f"valid are {', '.join(valid)}"
        return f"a recipe has no key {place}; {hint}"
    if first["type"] == "value_error":  # settings that do not go together; the sentence says what to do
        return f"{place} in the recipe is wrong: {first['msg'].removeprefix('Value error, ')}"
    given = first.get("input")
    shown = "" if isinstance(given, dict) else f" and not {given!r}"
    said = first["msg"][:1].lower() + first["msg"][1:]
    return f"{place} in the recipe is wrong ({said}{shown}); set it with {place}=VALUE"
