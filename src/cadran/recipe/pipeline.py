"""The pipeline: a recipe's stages run into ``runs/NAME``."""

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs
import torch
import yaml

from cadran.errors import UserError
from cadran.files import read_json, sha256_text, write_json, write_text
from cadran.recipe.budget import resolve
from cadran.recipe.events import Event, EventLog
from cadran.recipe.graph import run_stages, selected
from cadran.recipe.run import Run, runs_folder
from cadran.recipe.schema import Recipe, parse_recipe
from cadran.recipe.stage import Progress, Stage
from cadran.recipe.stages.base import BaseStage
from cadran.recipe.stages.corpus import CorpusStage
from cadran.recipe.stages.report import ReportStage
from cadran.recipe.stages.sft import SftStage
from cadran.recipe.stages.tokenizer import TokenizerStage
from cadran.train.machine import matmul_speed, memory_available

STAGES: tuple[Stage, ...] = (CorpusStage(), TokenizerStage(), BaseStage(), SftStage(), ReportStage())


def cache_folder() -> Path:
    """Where fetched packages are kept between runs, in the user's own cache directory."""
    return Path(platformdirs.user_cache_dir("cadran"))


def run_pipeline(
    recipe: Recipe,
    listener: Callable[[Event], None],
    progress: Progress,
    *,
    start: str | None = None,
    only: str | None = None,
) -> Run:
    """Run a recipe into its directory, from wherever the last attempt stopped.

    Args:
        recipe: as read; nulls are decided once and kept in ``runs/NAME/recipe.yaml``.
        listener: gets every event.
        progress: for the progress bar.
        start: do this stage and later ones again.
        only: do this stage alone.

    Raises:
        UserError: anything the user can mend, with what to type.
    """
    selected(STAGES, start, only)  # an unknown name is said before anything is measured
    run = Run(runs_folder() / recipe.name)
    with run.lock():
        torch.set_num_threads(recipe.threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Filling fresh memory would cost a pass over every activation; nothing here reads what it did not write.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        resolved = _resolved_once(recipe, run)
        log = EventLog(run.events, listener)
        log.append({"kind": "machine", **_machine(recipe.threads)})
        run_stages(STAGES, resolved, run, log, progress, cache_folder(), start=start, only=only)
    return run


def _resolved_once(recipe: Recipe, run: Run) -> Recipe:
    """The resolved recipe: the one this run has when it was made from the same recipe, else a new one."""
    asked = sha256_text(recipe.model_dump_json())
    known, path = run.folder / ".resolved.json", run.folder / "recipe.yaml"
    if known.is_file() and path.is_file() and read_json(known).get("asked") == asked:
        try:
            return parse_recipe(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (yaml.YAMLError, UserError):
            pass  # edited by hand into something else: it is only a record, and is written again
    resolved = resolve(recipe)
    content: dict[str, Any] = resolved.model_dump(mode="json")
    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100))
    write_json(known, {"asked": asked})
    return resolved


def _machine(threads: int) -> dict[str, Any]:
    return {
        "cpu": _processor(),
        "threads": threads,
        "matmul_flops": {"fp32": matmul_speed("fp32"), "bf16": matmul_speed("bf16")},
        "memory_bytes": memory_available(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    """Name of the processor as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
