"""The ids that frame a text: where it begins, where an answer ends, what fills a batch.

Checkpoints say it in up to four files, which do not always agree. The tokenizer's own configuration comes first, the
generation configuration adds ends, the model's is asked when both are silent, and whether they are added to a text is
read off the post-processor when nobody says it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cadran.errors import UserError
from cadran.tokenizer.detokenizer import flattened

Configuration = Mapping[str, Any]


@dataclass(frozen=True)
class SpecialIds:
    """What a checkpoint says of its special tokens.

    Attributes:
        bos: begins a text; None when there is no such token.
        eos: each of them ends an answer; the tokenizer's own first, possibly none.
        pad: fills a batch; None when there is no such token.
        adds_bos: whether a text is meant to begin with ``bos``.
        adds_eos: whether a text is meant to end with the first of ``eos``.
    """

    bos: int | None
    eos: tuple[int, ...]
    pad: int | None
    adds_bos: bool
    adds_eos: bool


def special_ids(
    id_of: Callable[[str], int | None],
    post_processor: Mapping[str, Any] | None,
    tokenizer: Configuration,
    generation: Configuration,
    model: Configuration,
) -> SpecialIds:
    """Gather the special ids of a checkpoint; what is absent or malformed counts as not said.

    Args:
        id_of: id of a token by its name, None when there is none.
        post_processor: that of tokenizer.json.
        tokenizer: content of tokenizer_config.json. Besides ``eos_token`` it may name an ``eot_token`` (end of turn)
            and an ``eom_token`` (end of message), as conversions from GGUF do.
        generation: content of generation_config.json.
        model: content of config.json.
    """

    def named(key: str) -> list[int]:
        token = tokenizer.get(key)
        name = token.get("content") if isinstance(token, Mapping) else token
        id = id_of(name) if isinstance(name, str) else None
        return [] if id is None else [id]

    first, last = _ends(post_processor)
    bos = [*named("bos_token"), *first, *_ids(generation, "bos_token_id"), *_ids(model, "bos_token_id")]
    eos = [*named("eos_token"), *named("eot_token"), *named("eom_token"), *_ids(generation, "eos_token_id")]
    eos = eos or last or _ids(model, "eos_token_id")
    pad = [*named("pad_token"), *_ids(generation, "pad_token_id"), *_ids(model, "pad_token_id")]
    adds_bos, adds_eos = tokenizer.get("add_bos_token"), tokenizer.get("add_eos_token")
    return SpecialIds(
        bos=bos[0] if bos else None,
        eos=tuple(dict.fromkeys(eos)),
        pad=pad[0] if pad else None,
        adds_bos=bool(bos) and (adds_bos if isinstance(adds_bos, bool) else bool(first)),
        adds_eos=bool(eos) and (adds_eos if isinstance(adds_eos, bool) else bool(last)),
    )


def read_configuration(path: Path) -> dict[str, Any]:
    """A JSON file of a checkpoint; empty when it is absent.

    Raises:
        UserError: it cannot be read or is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); make or fetch it anew.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} does not hold a JSON object; make or fetch it anew.")
    return content


def _ids(configuration: Configuration, key: str) -> list[int]:
    """One id or a list of them, as a list."""
    said = configuration.get(key)
    ids = said if isinstance(said, list) else [said]
    return [id for id in ids if type(id) is int and id >= 0]


def _ends(post_processor: Mapping[str, Any] | None) -> tuple[list[int], list[int]]:
    """The special token that the post-processor puts first, and the one it puts last, if any."""
    first: list[int] = []
    last: list[int] = []
    for step in flattened(dict(post_processor), "processors") if post_processor else []:
        if step["type"] == "TemplateProcessing":
            known, single = step["special_tokens"], step["single"]
            first = _template_ids(single[0], known) if len(single) > 1 else first
            last = _template_ids(single[-1], known) if len(single) > 1 else last
        elif step["type"] in ("RobertaProcessing", "BertProcessing"):
            first, last = [step["cls"][1]], [step["sep"][1]]
    return first, last


def _template_ids(part: Mapping[str, Any], known: Mapping[str, Any]) -> list[int]:
    name = part.get("SpecialToken", {}).get("id")
    ids: list[int] = known[name]["ids"][:1] if name in known else []
    return ids
