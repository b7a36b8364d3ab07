"""From one entry of a recipe's ``sources:`` to the source it describes."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import Discriminator, Tag, TypeAdapter, ValidationError

from cadran.corpus.sources.folder import FolderSource
from cadran.corpus.sources.hub import HubSource
from cadran.corpus.sources.pypi import PypiSource
from cadran.corpus.sources.source import Source
from cadran.corpus.sources.stdlib import StdlibSource
from cadran.corpus.sources.synthetic import SyntheticSource
from cadran.errors import UserError

_KINDS: dict[str, type[Source]] = {
    kind.kind: kind for kind in (PypiSource, FolderSource, HubSource, StdlibSource, SyntheticSource)
}


def _kind_of(value: Any) -> str | None:
    """The kind's key that is present; it tells the kinds apart, in YAML and in Python."""
    if isinstance(value, Source):
        return value.kind
    if isinstance(value, Mapping):
        return next((kind for kind in _KINDS if kind in value), None)
    return None


SourceConfig = Annotated[
    Annotated[PypiSource, Tag("pypi")]
    | Annotated[FolderSource, Tag("folder")]
    | Annotated[HubSource, Tag("hf")]
    | Annotated[StdlibSource, Tag("stdlib")]
    | Annotated[SyntheticSource, Tag("synthetic")],
    Discriminator(_kind_of),
]
"""Any source, as a pydantic type: the key that is present (pypi, folder, hf, stdlib, synthetic) decides which."""


def parse_source(mapping: Mapping[str, Any]) -> SourceConfig:
    """The source that a mapping from a recipe describes.

    Args:
        mapping: one entry of ``sources:``, such as ``{"folder": "texts", "language": "fr"}``.

    Raises:
        UserError: no key says which kind of source it is, two do, a key is unknown (the nearest valid one is named),
            or a value is not of its type.
    """
    if not isinstance(mapping, Mapping):
        raise UserError(f"A source is a mapping such as `folder: texts`, not {mapping!r}: correct it in the recipe.")
    kinds = [kind for kind in _KINDS if kind in mapping]
    if len(kinds) > 1:
        raise UserError(f"A source has one of the keys {' and '.join(kinds)}, not both: make it two sources.")
    if not kinds:
        begins = f" that begins with '{next(iter(mapping))}'" if mapping else ""
        near = get_close_matches(str(next(iter(mapping), "")), _KINDS, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}:`?" if near else f"add one of {', '.join(_KINDS)}."
        raise UserError(f"A source{begins} does not say what kind it is: {hint}")
    valid = list(_KINDS[kinds[0]].model_fields)
    for key in mapping:
        if key not in valid:
            near = get_close_matches(str(key), valid, n=1, cutoff=0.0)
            raise UserError(f"A {kinds[0]} source has no key '{key}': did you mean `{near[0]}:`?")
    try:
        source: SourceConfig = TypeAdapter(SourceConfig).validate_python(mapping)
    except ValidationError as error:
        first = error.errors()[0]
        key = next((str(part) for part in reversed(first["loc"]) if part in valid), kinds[0])
        if first["type"] == "missing":
            raise UserError(f"The {kinds[0]} source needs `{key}:`: add it in the recipe.") from None
        reason = first["msg"].removeprefix("Value error, ")
        raise UserError(f"`{key}:` of the {kinds[0]} source is wrong ({reason}): correct it in the recipe.") from None
    return source
