"""Plain data between the process that tests and the process that is tested: tagged JSON in frames with a length.

Only values whose type is exactly a built-in one cross as values; anything else stays where it is and crosses as a
handle (a number). So nothing that arrives can carry code, and an object that claims to equal everything arrives as a
handle, which equals no value. No pickle and no marshal: both trust their sender.
"""

import json
import math
import os
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

LARGEST_FRAME = 4 << 20
"""Bytes of one message; a longer one ends the trial as failed."""

_SAFE_INT = 2**63  # beyond it in hexadecimal: Python refuses to read decimal numbers of thousands of digits


def encode(value: Any, keep: Callable[[Any], int]) -> Any:
    """What JSON can carry of a value.

    Args:
        value: anything.
        keep: called with what is no plain data; gives the number of a handle, or raises TypeError.
    """
    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        return value if -_SAFE_INT < value < _SAFE_INT else {"int": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if kind is complex:
        return {"complex": [encode(value.real, keep), encode(value.imag, keep)]}
    if kind in (bytes, bytearray):
        return {kind.__name__: value.hex()}
    if kind in (list, deque):
        return [encode(item, keep) for item in value]
    if kind in (tuple, set, frozenset):
        return {kind.__name__: [encode(item, keep) for item in value]}
    if kind in (dict, Counter, OrderedDict, defaultdict):
        return {"dict": [[encode(key, keep), encode(item, keep)] for key, item in dict.items(value)]}
    return {"handle": keep(value)}


def decode(value: Any, handle: Callable[[int], Any]) -> Any:
    """The value that ``encode`` was given.

    Args:
        value: parsed JSON.
        handle: what stands here for the handle with this number.

    Raises:
        ValueError, TypeError, KeyError: the JSON is none of ours (a broken or hostile sender).
    """
    if isinstance(value, list):
        return [decode(item, handle) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    if tag == "int":
        return int(content, 16)
    if tag == "float":
        return float(content)
    if tag == "complex":
        return complex(*(decode(part, handle) for part in content))
    if tag in ("bytes", "bytearray"):
        return bytes.fromhex(content) if tag == "bytes" else bytearray.fromhex(content)
    if tag in ("tuple", "set", "frozenset"):
        items = (decode(item, handle) for item in content)
        return tuple(items) if tag == "tuple" else set(items) if tag == "set" else frozenset(items)
    if tag == "dict":
        return {decode(key, handle): decode(item, handle) for key, item in content}
    if tag == "handle":
        return handle(int(content))
    raise ValueError(f"unknown tag {tag!r}")


def send(descriptor: int, message: dict[str, Any]) -> None:
    """Write one message to a pipe.

    Raises:
        ValueError: it is longer than ``LARGEST_FRAME``.
        OSError: the other end is closed.
    """
    body = json.dumps(message).encode("ascii")
    if len(body) > LARGEST_FRAME:
        raise ValueError(f"a value of {len(body):,} bytes is too large to compare")
    frame = len(body).to_bytes(4, "big") + body
    while frame:
        frame = frame[os.write(descriptor, frame) :]


def receive(descriptor: int) -> dict[str, Any]:
    """Read one message from a pipe.

    Raises:
        EOFError: the other end is closed.
        ValueError: what arrives is no message of ours.
    """
    length = int.from_bytes(_exactly(descriptor, 4), "big")
    if length > LARGEST_FRAME:
        raise ValueError(f"a message of {length:,} bytes is too large")
    message = json.loads(_exactly(descriptor, length))
    if not isinstance(message, dict):
        raise ValueError("a message is a mapping")
    return message


def _exactly(descriptor: int, length: int) -> bytes:
    pieces = bytearray()
    while len(pieces) < length:
        piece = os.read(descriptor, length - len(pieces))
        if not piece:
            raise EOFError
        pieces += piece
    return bytes(pieces)
