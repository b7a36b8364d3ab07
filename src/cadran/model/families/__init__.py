"""Published architectures, one file each: a mapping of configuration and weight names over the one Transformer.

Public face: ``FAMILIES``, ``family_of``, ``read_content`` and ``read_config``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cadran.errors import UserError
from cadran.files import read_json
from cadran.model.config import ModelConfig
from cadran.model.families import (
    deepseek_v2,
    deepseek_v3,
    gemma2,
    gemma3,
    gpt2,
    llama,
    mistral,
    mixtral,
    olmo2,
    phi3,
    qwen2,
    qwen3,
    qwen3_moe,
)
from cadran.model.families.family import Family
from cadran.model.families.fields import Fields

_FILES = (gpt2, llama, mistral, mixtral, qwen2, qwen3, qwen3_moe, gemma2, gemma3, phi3, olmo2, deepseek_v2, deepseek_v3)
FAMILIES: Mapping[str, Family] = {file.FAMILY.name: file.FAMILY for file in _FILES}
"""By ``model_type``, in the order of the README's table."""


def read_content(folder: Path) -> dict[str, Any]:
    """The content of a model directory's ``config.json``.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    try:
        content = read_json(folder / "config.json")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{folder} is not a model directory ({str(error)[:80]}); give a run, a pulled name or a folder"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{folder / 'config.json'} is no object; fetch or export the model again")
    return content


def family_of(content: Mapping[str, Any]) -> Family:
    """The family that a ``config.json`` belongs to.

    Raises:
        UserError: none that is known.
    """
    kind = content.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise UserError(f"the architecture {str(kind)[:60]!r} is not known; pick one of {', '.join(FAMILIES)}")
    return FAMILIES[kind]


def read_config(content: Mapping[str, Any]) -> ModelConfig:
    """Sizes and choices of a model from the content of its ``config.json``.

    Raises:
        UserError: an unknown architecture, or a field that is missing or impossible.
    """
    return family_of(content).read(Fields(content))
