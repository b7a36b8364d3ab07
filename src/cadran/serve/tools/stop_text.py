"""Stop strings in what a model says: not in its reasoning and not in its calls, which the engine cannot tell apart."""

from collections.abc import Sequence


class StopText:
    """Cuts a text at the first stop string that is complete; only what may be the beginning of one waits.

    Args:
        stops: strings that end the text and are not part of it, none of them empty.

    Attributes:
        found: the one that ended it.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self.found: str | None = None
        self._held = ""

    def push(self, text: str) -> str:
        """What of a further text is certain to be said."""
        if self.found is not None:
            return ""
        text, self._held = self._held + text, ""
        ends = [(place + len(stop), -len(stop), stop) for stop in self._stops if (place := text.find(stop)) >= 0]
        if ends:
            end, length, self.found = min(ends)
            return text[: end + length]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def end(self) -> str:
        """What was waiting, when no more text comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text that begins the stop string."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)
