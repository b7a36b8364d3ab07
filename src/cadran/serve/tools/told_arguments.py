"""The arguments of a call as a client tells them back: what a model wrote, which is not always a whole object."""

import json
import re
from typing import Any

_BEFORE = re.compile(r"\s*[{,]\s*(?=\")")
_BETWEEN = re.compile(r"\s*:\s*")


def told_arguments(text: str) -> dict[str, Any]:
    """The object, for a chat template to write out.

    An answer that reached its limit ends within a call, and programs that run tools send such a call back with the
    complaint about it, for the model to read. Of it the arguments that came whole are kept, and of anything else none.

    Args:
        text: JSON of an object, or the beginning of one.
    """
    try:
        content = json.loads(text or "{}", strict=False)
    except (ValueError, RecursionError):
        return _begun(text)
    return content if isinstance(content, dict) else {}


def _begun(text: str) -> dict[str, Any]:
    decoder, place = json.JSONDecoder(strict=False), 0
    found: dict[str, Any] = {}
    try:
        while before := _BEFORE.match(text, place):
            key, place = decoder.raw_decode(text, before.end())
            if (between := _BETWEEN.match(text, place)) is None:
                break
            value, place = decoder.raw_decode(text, between.end())
            if place == len(text) and not text.endswith(('"', "}", "]")):
                break  # a number or a word may have gone on
            found[key] = value
    except (ValueError, RecursionError):
        pass
    return found
