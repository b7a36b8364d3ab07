"""Times as Ollama writes them."""

from datetime import UTC, datetime

NEVER = "9999-12-31T23:59:59Z"
"""When a model will be closed that stays open for ever."""


def now() -> str:
    """The time in UTC."""
    return stamp(datetime.now(UTC).timestamp())


def stamp(seconds: float) -> str:
    """A time, given in seconds since 1970; one that no calendar reaches is ``NEVER``."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return NEVER
