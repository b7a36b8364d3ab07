"""Running stages in order: skip what is unchanged, resume what was interrupted, account for everything."""

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from cadran.errors import UserError
from cadran.files import sha256_text
from cadran.recipe.events import EventLog
from cadran.recipe.run import CHECKPOINTS, Run
from cadran.recipe.schema import Recipe
from cadran.recipe.stage import Progress, Stage, StageContext


def stage_key(stage: Stage, recipe: Recipe, run: Run) -> str:
    """Hash of what a stage's result depends on: its settings, its version, the artefacts it stands on."""
    inputs = {need: (run.marker(need) or {}).get("artefacts", {}) for need in stage.needs}
    content = {"stage": stage.name, "version": stage.version, "settings": stage.settings(recipe), "inputs": inputs}
    return sha256_text(json.dumps(content, sort_keys=True, ensure_ascii=False))


def selected(stages: Sequence[Stage], start: str | None, only: str | None) -> list[Stage]:
    """Stages to do: all, from one on, or a single one.

    Raises:
        UserError: an unknown name.
    """
    names = [stage.name for stage in stages]
    for name in (start, only):
        if name is not None and name not in names:
            raise UserError(f"there is no stage {name}; the stages are {', '.join(names)}")
    if only is not None:
        return [stages[names.index(only)]]
    return list(stages[names.index(start) :]) if start is not None else list(stages)


def run_stages(
    stages: Sequence[Stage],
    recipe: Recipe,
    run: Run,
    log: EventLog,
    progress: Progress,
    cache: Path,
    *,
    start: str | None = None,
    only: str | None = None,
) -> None:
    """Run a pipeline.

    Args:
        stages: in an order in which each comes after what it needs.
        recipe: resolved.
        run: where to; the caller holds its lock.
        log: events.
        progress: for the progress bar.
        cache: for what is fetched.
        start: do this stage and the ones after it again, even when unchanged.
        only: do this one alone, even when unchanged.

    Raises:
        UserError: an unknown stage, a stage that is needed and not finished, or what a stage raises.
    """
    forced = {stage.name for stage in selected(stages, start, only)} if start or only else set()
    for stage in stages:
        if forced and stage.name not in forced:
            continue
        for need in stage.needs:
            if run.marker(need) is None:
                raise UserError(f"the stage {stage.name} needs {need}, which is not done; run without --only or --from")
        key = stage_key(stage, recipe, run)
        marker = run.marker(stage.name)
        if marker is not None and marker["key"] == key and stage.name not in forced and run.intact(stage.name):
            log.listener({"stage": stage.name, "kind": "unchanged"})
            continue
        _clear(run, stage.name, keep_checkpoints=stage.name not in forced or marker is None)
        log.listener({"stage": stage.name, "kind": "begin"})
        _forget_unstepped(log, stage.name)
        begun = time.monotonic()
        stage.run(StageContext(recipe, run, run.stage(stage.name), stage.name, stage.needs, key, log, progress, cache))
        run.finish(stage.name, key)
        # The report reads this, so the time it took itself is not in it.
        log.append({"stage": stage.name, "kind": "stage_done", "seconds": time.monotonic() - begun})
    run.write_manifest([stage.name for stage in stages])


def _forget_unstepped(log: EventLog, stage: str) -> None:
    """Drop what an earlier attempt logged outside its training steps; those a resumed training keeps."""
    log.forget(lambda event: event.get("stage") == stage and "step" not in event)


def _clear(run: Run, stage: str, *, keep_checkpoints: bool) -> None:
    """Empty a stage's folder; its checkpoints stay, because they say themselves what they belong to."""
    folder = run.stage(stage)
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir(), key=lambda p: p.name != "stage.json"):  # the marker goes first
        if path.name == CHECKPOINTS and keep_checkpoints:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
