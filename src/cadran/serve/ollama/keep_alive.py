"""How long a model stays open, as Ollama's clients say it. Source: api-contracts 7."""

import math
import re

from cadran.serve.api_error import ApiError
from cadran.serve.served_model import ServedModel
from cadran.serve.service import Service

KeepAlive = float | str
"""Seconds, or a duration as Go writes it (``5m``, ``1h30m``); below 0 is for ever, 0 is not at all."""

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d{1,12}(?:\.\d{0,9})?)(ns|us|µs|ms|s|m|h)", re.ASCII)


def seconds_of(keep_alive: KeepAlive) -> float | None:
    """A duration in seconds, None for ever.

    Raises:
        ApiError: it is no duration.
    """
    seconds = _parsed(keep_alive.strip()) if isinstance(keep_alive, str) else float(keep_alive)
    if seconds is None or math.isnan(seconds):
        shown = str(keep_alive)[:40]
        raise ApiError(
            "invalid", f"keep_alive is {shown!r}; give seconds, or a duration such as 5m", param="keep_alive"
        )
    return None if seconds < 0 or math.isinf(seconds) else seconds


def _parsed(text: str) -> float | None:
    number = text.lstrip("+-")
    parts = _PART.findall(number)
    if parts and "".join(amount + unit for amount, unit in parts) == number:
        seconds = sum(float(amount) * _UNITS[unit] for amount, unit in parts)
    elif re.fullmatch(r"\d{1,12}(\.\d{0,9})?", number, re.ASCII):
        seconds = float(number)
    else:
        return None
    # Also -0s is a wish to close it.
    return -seconds if text.startswith("-") and seconds else seconds


async def keep(service: Service, served: ServedModel, keep_alive: KeepAlive | None) -> None:
    """Let a model stay open for so long after its last request; one that nobody uses is closed at once by 0.

    Raises:
        ApiError: it is no duration.
    """
    if keep_alive is None:
        return
    seconds = seconds_of(keep_alive)
    service.shelf.keep(served, seconds)
    if seconds == 0 and not served.users:
        await service.shelf.close(served)
