"""Ids of the special tokens: in a GGUF file they belong to the vocabulary, in ``config.json`` to the model."""

from collections.abc import Mapping
from typing import Any

from cadran.model.gguf.header import Value

_NAMES = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
_MORE_ENDS = ("eot", "eom")  # end of a turn, end of a message: generation stops there, too


def read_token_ids(metadata: Mapping[str, Value], vocabulary: int) -> dict[str, Any]:
    """``bos_token_id``, ``eos_token_id`` (a list when there are several), ``pad_token_id``; null when there is none."""

    def known(name: str) -> list[int]:
        value = metadata.get(f"tokenizer.ggml.{name}_token_id")
        return [value] if type(value) is int and 0 <= value < vocabulary else []

    content: dict[str, Any] = {field: next(iter(known(name)), None) for field, name in _NAMES.items()}
    ends = list(dict.fromkeys(known("eos") + [end for name in _MORE_ENDS for end in known(name)]))
    if len(ends) > 1:
        content["eos_token_id"] = ends
    return content


def write_token_ids(config: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> dict[str, int]:
    """Keys of the special tokens that ``config.json`` names and the tokenizer's metadata do not."""
    keys: dict[str, int] = {}
    for field, name in _NAMES.items():
        value = config.get(field)
        ids = [x for x in (value if isinstance(value, list) else [value]) if type(x) is int and x >= 0]
        names = [name, *_MORE_ENDS] if name == "eos" else [name]
        taken = {tokenizer.get(f"tokenizer.ggml.{other}_token_id") for other in names}
        free = [f"tokenizer.ggml.{other}_token_id" for other in names]
        keys |= dict(
            zip([key for key in free if key not in tokenizer], [x for x in ids if x not in taken], strict=False)
        )
    return keys
