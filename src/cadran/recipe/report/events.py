"""The events of a run in the order of training, although they were written in the order of the clock.

A training that was killed and resumed repeats the steps after its last checkpoint. The later line of a step replaces
the earlier one, so a run that was interrupted and one that was not give the same curves.
"""

from collections.abc import Iterable
from typing import Any

from cadran.recipe.report.order import ORDER

Event = dict[str, Any]
Curve = list[tuple[float, float]]

_REPEATED = ("step", "evaluation", "examination", "sample")
_LARGEST = 1e30  # what is larger has no place on an axis


class EventLog:
    """Metrics, samples and clock times of a run.

    Args:
        events: parsed lines of `events.jsonl` in file order; unknown kinds are left aside.

    Attributes:
        machines: descriptions of the machines that took part, the last one last.
        notices: (stage, sentence for the user), each once.
        resumed: (stage, step) of each resumption.
    """

    def __init__(self, events: Iterable[Event]) -> None:
        self.machines: list[Event] = []
        self.notices: list[tuple[str, str]] = []
        self.resumed: list[tuple[str, int]] = []
        self._timeline: dict[tuple[str, str], list[Event]] = {}
        self._stage_seconds: dict[str, float] = {}
        for event in events:
            self._take(event)

    def evaluations(self) -> list[Event]:
        """Evaluations of the base training, by step."""
        return self._timeline.get(("base", "evaluation"), [])

    def examinations(self, stage: str) -> list[tuple[int, dict[str, float]]]:
        """(step, held-out figures) of each examination of a stage, by step."""
        found = []
        for event in self._timeline.get((stage, "examination"), []):
            given = event.get("figures")
            named = given if isinstance(given, dict) else {}
            figures = {name: value for name in named if (value := _number(named, name)) is not None}
            if figures:
                found.append((event["step"], figures))
        return found

    def held_out(self, stage: str) -> dict[str, Curve]:
        """(step, value) of each held-out figure of a stage, by name, in the order of first appearance."""
        curves: dict[str, Curve] = {}
        for step, figures in self.examinations(stage):
            for name, value in figures.items():
                curves.setdefault(name, []).append((step, value))
        return curves

    def samples(self, stage: str) -> list[Event]:
        """Texts written during the training of a stage, by step, then in the order in which they were written."""
        return self._timeline.get((stage, "sample"), [])

    def curve(self, stage: str, metric: str) -> Curve:
        """(step, value) of one metric of the training steps of a stage; steps that lack it are left out."""
        steps = self._timeline.get((stage, "step"), [])
        return [(event["step"], value) for event in steps if (value := _number(event, metric)) is not None]

    def bits_per_byte(self, language: str) -> Curve:
        """(step, bits per byte) of the evaluations for one language code, or for "all"."""
        return [
            (event["step"], value)
            for event in self.evaluations()
            if isinstance(event.get("bits_per_byte"), dict)
            and (value := _number(event["bits_per_byte"], language)) is not None
        ]

    def languages(self) -> list[str]:
        """Language codes of the evaluations, "all" apart, in the order of their first appearance."""
        seen: dict[str, None] = {}
        for event in self.evaluations():
            if isinstance(event.get("bits_per_byte"), dict):
                seen.update(dict.fromkeys(event["bits_per_byte"]))
        return [language for language in seen if language != "all"]

    def last_step(self, stage: str) -> int | None:
        """Number of the last training step of a stage, None when it never began."""
        steps = self._timeline.get((stage, "step"))
        return steps[-1]["step"] if steps else None

    def training_seconds(self, stage: str) -> float | None:
        """Seconds of training alone (without data, evaluation or samples), None when the stage never began."""
        curve = self.curve(stage, "seconds")
        return curve[-1][1] if curve else None

    def stage_seconds(self) -> dict[str, float]:
        """Seconds of each finished stage, in the order of the pipeline."""
        known = {stage: self._stage_seconds[stage] for stage in ORDER if stage in self._stage_seconds}
        return known | self._stage_seconds

    def _take(self, event: Event) -> None:
        stage, kind, step = str(event.get("stage", "")), event.get("kind"), event.get("step")
        if kind in _REPEATED and isinstance(step, int):
            self._insert(event, stage, str(kind), step)
        elif kind == "resumed" and isinstance(step, int):
            self.resumed.append((stage, step))
            for each in _REPEATED:
                self._forget_after(stage, each, step)
        elif kind == "stage_done" and (seconds := _number(event, "seconds")) is not None:
            self._stage_seconds[stage] = seconds
        elif kind == "machine" and event not in self.machines:
            self.machines.append(event)
        elif kind == "notice" and isinstance(event.get("text"), str) and (stage, event["text"]) not in self.notices:
            self.notices.append((stage, event["text"]))

    def _insert(self, event: Event, stage: str, kind: str, step: int) -> None:
        timeline = self._timeline.setdefault((stage, kind), [])
        self._forget_after(stage, kind, step)
        start = len(timeline)
        while start and timeline[start - 1]["step"] == step:
            start -= 1
        mine = _identity(event)
        timeline[start:] = [other for other in timeline[start:] if _identity(other) != mine] + [event]

    def _forget_after(self, stage: str, kind: str, step: int) -> None:
        timeline = self._timeline.get((stage, kind), [])
        while timeline and timeline[-1]["step"] > step:
            timeline.pop()


def _identity(event: Event) -> tuple[Any, Any]:
    # Several samples share a step; they differ by language and prompt. Other events are alone at theirs.
    return event.get("language"), event.get("prompt")


def _number(event: Event, key: str) -> float | None:
    value = event.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if -_LARGEST < value < _LARGEST else None
