"""``events.jsonl``: every metric of a run, one JSON object a line, appended as it happens."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cadran.files import write_text

Event = dict[str, Any]


def read_events(path: Path) -> list[Event]:
    """All whole lines of an event file; a last line cut short by a kill is passed over."""
    if not path.is_file():
        return []
    events = []
    # Not splitlines(): a sample may hold U+2028, which it takes for the end of a line.
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


class EventLog:
    """Appends events to a file and shows them to a listener.

    Args:
        path: ``events.jsonl``.
        listener: called with every event, for a progress bar.
    """

    def __init__(self, path: Path, listener: Callable[[Event], None] = lambda event: None) -> None:
        self.path, self.listener = path, listener
        if path.is_file() and not path.read_bytes().endswith(b"\n"):
            # A kill cut the last line short; a new event must not be glued to it.
            self.forget(lambda event: False, always=True)

    def append(self, event: Event) -> None:
        """Add one event and flush it, so that a kill loses at most the line being written."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event, ensure_ascii=False) + "\n")
        self.listener(event)

    def forget(self, dropped: Callable[[Event], bool], *, always: bool = False) -> None:
        """Remove the events that ``dropped`` says, whole-file and atomic; for a stage that is done again.

        Args:
            dropped: says of an event whether it goes.
            always: write the file anew even when all stay.
        """
        events = read_events(self.path)
        kept = [event for event in events if not dropped(event)]
        if always or len(kept) != len(events):
            write_text(self.path, "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in kept))
