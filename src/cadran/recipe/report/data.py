"""What a run directory holds, read with patience: whatever a stage has not written yet is simply absent.

Nothing here computes a figure; it reads, and turns what a page or a JSON file could not hold (NaN, half a surrogate
pair) into what they can.
"""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cadran.errors import UserError
from cadran.recipe.report.events import EventLog
from cadran.recipe.report.order import RESULTS, expected

Record = dict[str, Any]

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")  # XML refuses them

_LARGEST = 1e30  # no figure of a run is larger, and a drawing of one would have no scale


@dataclass(frozen=True, slots=True)
class RunData:
    """Everything the report is made from.

    Attributes:
        name: last component of the run directory.
        recipe: text of `recipe.yaml`, None when there is none.
        settings: the same parsed; empty when it cannot be. It is looked up and never walked: a hostile recipe may be
            endless.
        results: what each finished stage wrote (see ``RESULTS``); a stage that did not finish is absent.
        artefacts: path within the run -> sha256, without the report's own files.
        measurements: the same for files that differ from run to run.
        events: metrics, samples and clock times in the order of training.
    """

    name: str
    recipe: str | None
    settings: Record
    results: dict[str, Record]
    artefacts: dict[str, str]
    measurements: dict[str, str]
    events: EventLog

    @property
    def missing(self) -> list[str]:
        """Stages that belong to this run and have no results yet, in the order of the pipeline."""
        begun = {stage for stage in RESULTS if stage in self.results or self.events.last_step(stage) is not None}
        return [stage for stage in expected(self.settings, begun) if stage not in self.results]

    @property
    def start(self) -> str | None:
        """Name of the model from which this run started; None when it made its own."""
        start = self.settings.get("start")
        return clean(start) if isinstance(start, str) and start else None

    def setting(self, stage: str, *names: str) -> Any:
        """The first of these that the results of a stage hold, else its section of the recipe; None without any."""
        for record in (self.results.get(stage), self.settings.get(stage)):
            for name in names:
                value = dig(record, name)
                if isinstance(value, str | int | float) and not isinstance(value, bool):
                    return clean(value)
        return None


def gather(run: Path) -> RunData:
    """Read a run directory.

    Args:
        run: directory with any of `recipe.yaml`, `manifest.json`, `events.jsonl`.

    Raises:
        UserError: it is no run, or one of its JSON files is damaged (the file is named).
    """
    marks = ("recipe.yaml", "manifest.json", "events.jsonl")
    if not any((run / mark).is_file() for mark in marks):
        raise UserError(f"{run} is not a run (it has none of {', '.join(marks)}): make one with `cadran run RECIPE`.")
    results = {stage: record for stage, path in RESULTS.items() if (record := _read_record(run, path))}
    manifest = _read_record(run, "manifest.json")
    recipe = _read(run / "recipe.yaml")
    lines = (_read(run / "events.jsonl") or b"").split(b"\n")
    return RunData(
        name=clean(run.resolve().name),
        recipe=None if recipe is None else clean(recipe.decode("utf-8", "replace")),
        settings=_parse_recipe(recipe or b""),
        results=results,
        artefacts=_hashes(manifest, "artefacts"),
        measurements=_hashes(manifest, "measurements"),
        events=EventLog(_parse_lines(lines)),
    )


def dig(record: Any, *keys: str) -> Any:
    """The value under a path of keys, None when any of them is missing."""
    for key in keys:
        if not isinstance(record, dict):
            return None
        record = record.get(key)
    return record


def number(record: Any, *keys: str) -> float | int | None:
    """The number under a path of keys; None when it is missing, no number, or none that a figure could be."""
    value = dig(record, *keys)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return value if -_LARGEST < value < _LARGEST else None


def branch(record: Any, *keys: str) -> Record:
    """The object under a path of keys; empty when it is missing or no object."""
    value = dig(record, *keys)
    return value if isinstance(value, dict) else {}


def rows(record: Any, *keys: str) -> list[Record]:
    """The objects of the list under a path of keys; empty when it is missing or no list."""
    value = dig(record, *keys)
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def clean(value: Any) -> Any:
    """A parsed JSON value in which every text can stand in a page and every number is finite, or None in its place."""
    if isinstance(value, str):
        return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value.encode("utf-8", "replace").decode("utf-8"))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return value if abs(value) < 2**63 else None  # no float could hold it
    if isinstance(value, list):
        return [clean(item) for item in value]
    if isinstance(value, dict):
        return {clean(key): clean(item) for key, item in value.items()}
    return value


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): mend that and type the same command again."
        ) from None


def _read_record(run: Path, path: str) -> Record:
    content = _read(run / path)
    if content is None:
        return {}
    try:
        record = clean(json.loads(content))
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise UserError(
            f"{run / path} is damaged (it is no JSON object): delete it and run the same `cadran run` again."
        )
    return record


def _parse_recipe(content: bytes) -> Record:
    import yaml

    try:
        recipe = yaml.safe_load(content.decode("utf-8", "replace"))
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return recipe if isinstance(recipe, dict) else {}


def _parse_lines(lines: list[bytes]) -> Iterator[Record]:
    # The process may have been killed while it wrote a line; what cannot be parsed never was an event.
    for line in lines:
        try:
            event = clean(json.loads(line))
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict):
            yield event


def _hashes(manifest: Record, key: str) -> dict[str, str]:
    # The manifest of an earlier report describes files that this one is about to replace.
    return {path: str(digest) for path, digest in branch(manifest, key).items() if not path.startswith("report/")}
