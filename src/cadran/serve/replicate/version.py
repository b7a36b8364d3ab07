"""Versions of models: the digest of the weights, and what may be asked. Source: api-contracts 6.5 and 11."""

from functools import cache
from typing import Any

from cadran import __version__
from cadran.errors import UserError
from cadran.serve.api_error import ApiError
from cadran.serve.digest import digest_of
from cadran.serve.known_model import KnownModel
from cadran.serve.replicate.input import SYNONYMS, PredictionInput
from cadran.serve.replicate.prediction import timestamp
from cadran.serve.replicate.problem import InvalidField, InvalidInput
from cadran.serve.shelf import Shelf

COG_VERSION = "0.16.0"
"""Of the schema's dialect, by which clients read it."""


def version_body(known: KnownModel, digest: str) -> dict[str, Any]:
    """A version, also as ``latest_version`` of a model.

    Args:
        known: the model.
        digest: of its weights.
    """
    return {
        "id": digest,
        "created_at": timestamp(known.created),
        "cog_version": COG_VERSION,
        "openapi_schema": openapi_schema(),
    }


@cache
def openapi_schema() -> dict[str, Any]:
    """What a prediction takes and gives; not to be changed. From here clients learn to iterate and join the output."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Cadran", "version": __version__},
        "paths": {},
        "components": {
            "schemas": {
                "Input": _input_schema(),
                "Output": {
                    "title": "Output",
                    "type": "array",
                    "items": {"type": "string"},
                    "x-cog-array-type": "iterator",
                    "x-cog-array-display": "concatenate",
                },
            }
        },
    }


def _input_schema() -> dict[str, Any]:
    schema = PredictionInput.model_json_schema(ref_template="#/components/schemas/{model}")
    turn = schema.pop("$defs")["Turn"]
    properties = schema["properties"]
    del properties["prompt"]["default"]
    for place, (name, entry) in enumerate(properties.items()):
        if "anyOf" in entry:  # what may be absent is never null
            kinds = [kind for kind in entry.pop("anyOf") if kind.get("type") != "null"]
            entry |= kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
            if entry.get("default", 0) is None:
                del entry["default"]
        if name == "messages":
            entry["items"] = turn
        entry["x-order"] = place
    for synonym, name in SYNONYMS.items():
        properties[synonym] = {
            **properties[name],
            "title": synonym.replace("_", " ").capitalize(),
            "description": f"The same as {name}.",
            "x-order": len(properties),
        }
    return {"title": "Input", "type": "object", "required": ["prompt"], "properties": properties}


def find_model(shelf: Shelf, name: str) -> KnownModel:
    """The model that a client calls ``owner/name``: a name, an alias, or an owner that models without one are given.

    Raises:
        ApiError: there is none.
    """
    models = shelf.known
    for known in models:
        if name in (known.name, *known.aliases):
            return known
    for known in models:
        if name == f"{known.owner}/{known.short_name}":
            return known
    return shelf.resolve(name)


async def find_version(shelf: Shelf, wanted: str) -> tuple[KnownModel, str]:
    """The model of a version, and its digest.

    Args:
        shelf: of the models.
        wanted: the digest, with ``owner/name:`` before it or without; or ``owner/name``.

    Raises:
        InvalidInput: there is none.
        ApiError: there is no model of that name.
    """
    name, _, digest = wanted.rpartition(":")
    if "/" in digest:  # owner/name, whose latest version is meant
        known = find_model(shelf, digest)
        return known, await version_of(known)
    models = [find_model(shelf, name)] if name else shelf.known
    # Those whose digest is known already come first: nothing is read for them.
    for known in sorted(models, key=lambda model: "digest" not in vars(model)):
        try:
            if await digest_of(known) == digest:
                return known, digest
        except UserError:  # damaged: it is not there for a client
            continue
    description = "there is no such version here; GET /v1/models lists those there are"
    raise InvalidInput([InvalidField("invalid", "version", description)])


async def version_of(known: KnownModel) -> str:
    """The only version of a model.

    Raises:
        ApiError: its files cannot be read.
    """
    try:
        return await digest_of(known)
    except UserError as error:
        raise ApiError("unsupported", f"the model {known.name} cannot be read: {error}") from error
