"""How long a client wants to wait, and how long a prediction may live. Source: api-contracts 6.1; RFC 7240."""

import re

from cadran.serve.api_error import ApiError

LONGEST_HOLD = 55.0
"""Seconds; clients give up waiting after 60.5."""

_LIFETIME = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s?)?", re.ASCII)


def hold_seconds(prefer: str | None) -> float:
    """How long the answer to a creation is held back for the prediction's end.

    A client gives up half a second after what it asks for, and asks again when it is told in time.

    Args:
        prefer: the header ``Prefer``: ``wait``, ``wait=N``, among others; what is not understood is passed over.
    """
    for preference in re.split("[,;]", prefer or ""):
        name, _, value = (part.strip() for part in preference.partition("="))
        if name.lower() != "wait":
            continue
        if not value:
            return LONGEST_HOLD
        seconds = value.strip('"')
        if re.fullmatch(r"\d{1,9}", seconds, re.ASCII):
            wanted = int(seconds)
            return min(max(wanted - 1.0, wanted / 2), LONGEST_HOLD)
    return 0.0


def lifetime_seconds(cancel_after: str | None) -> float | None:
    """Seconds after which a prediction is canceled, at least 5; None for no such limit.

    Args:
        cancel_after: the header ``Cancel-After``: ``30s``, ``1m30s``, ``2h``; a bare number is seconds.

    Raises:
        ApiError: it is nothing of that kind.
    """
    if cancel_after is None:
        return None
    found = _LIFETIME.fullmatch(cancel_after.strip())
    if found is None or not any(found.groups()):
        raise ApiError("invalid", f"Cancel-After is {cancel_after[:40]!r}; write it as 30s, 1m30s or 2h")
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return max(hours * 3600.0 + minutes * 60.0 + seconds, 5.0)
