"""The pipeline: a recipe's stages run into ``runs/NAME``."""

import contextlib
import platform
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import platformdirs
import torch
import yaml

from cadran.errors import UserError
from cadran.files import read_json, write_json, write_text
from cadran.recipe.budget import Measurement, measure, resolve
from cadran.recipe.events import Event, EventLog
from cadran.recipe.graph import run_stages, selected
from cadran.recipe.run import Run, runs_folder
from cadran.recipe.schema import Recipe
from cadran.recipe.stage import Progress, Stage
from cadran.recipe.stages.base import BaseStage
from cadran.recipe.stages.corpus import CorpusStage
from cadran.recipe.stages.distil import DistilStage
from cadran.recipe.stages.dpo import DpoStage
from cadran.recipe.stages.finetune import FinetuneStage
from cadran.recipe.stages.grpo import GrpoStage
from cadran.recipe.stages.integers import IntegerStage
from cadran.recipe.stages.kto import KtoStage
from cadran.recipe.stages.ppo import PpoStage
from cadran.recipe.stages.report import ReportStage
from cadran.recipe.stages.reward import RewardStage
from cadran.recipe.stages.sft import SftStage
from cadran.recipe.stages.tokenizer import TokenizerStage
from cadran.train.machine import matmul_speed, memory_available


def stages_of(recipe: Recipe) -> tuple[Stage, ...]:
    """The stages of a recipe, each after what it stands on: those whose sections it has."""
    stages: list[Stage] = []
    parent: str | None = None
    if recipe.corpus is not None:
        stages += [CorpusStage(), TokenizerStage(), BaseStage()]
    if recipe.sft is not None:
        stages.append(SftStage() if recipe.corpus is not None else FinetuneStage())
        parent = "sft"

    def needs(*more: str) -> tuple[str, ...]:
        """The parent, and from a corpus what the figures of every stage are taken from."""
        earlier = ("corpus", "tokenizer", "base") if recipe.corpus is not None else ()
        return (*earlier, *((parent,) if parent is not None else ()), *more)

    if recipe.distil is not None:
        stages.append(DistilStage(parent, needs()))
        parent = "distil"
    if recipe.reward is not None:
        stages.append(RewardStage(parent, needs()))
    if recipe.dpo is not None:
        stages.append(DpoStage(parent, needs()))
        parent = "dpo"
    if recipe.kto is not None:
        stages.append(KtoStage(parent, needs()))
        parent = "kto"
    judged = ("reward",) if recipe.reward is not None else ()
    if recipe.grpo is not None:
        stages.append(GrpoStage(parent, needs(*judged)))
        parent = "grpo"
    if recipe.ppo is not None:
        stages.append(PpoStage(parent, needs(*judged)))
        parent = "ppo"
    if recipe.int8 is not None:
        if parent is None and recipe.corpus is None:
            raise UserError("the recipe makes no model for its stage int8; add a stage before it, or cadran quantize")
        stages.append(IntegerStage(parent or "base", needs()))
    return (*stages, ReportStage(tuple(stage.name for stage in stages)))


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
    stages = stages_of(recipe)
    selected(stages, start, only)  # an unknown name is said before anything is measured
    run = Run(runs_folder() / recipe.name)
    with run.lock():
        torch.set_num_threads(recipe.threads)
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Filling fresh memory would cost a pass over every activation; nothing here reads what it did not write.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        resolved = _resolved_once(recipe, run)
        log = EventLog(run.events, listener)
        log.append({"kind": "machine", **_machine(recipe.threads)})
        run_stages(stages, resolved, run, log, progress, cache_folder(), start=start, only=only)
    return run


def _resolved_once(recipe: Recipe, run: Run) -> Recipe:
    """The recipe without nulls; what an earlier command measured for this run is not measured again."""
    record, known = run.folder / ".measured.json", None
    if record.is_file():
        with contextlib.suppress(ValueError, TypeError):
            known = Measurement(**read_json(record))
    measured = measure(recipe, known)
    resolved = resolve(recipe, measured)
    content: dict[str, Any] = resolved.model_dump(mode="json")
    write_text(run.folder / "recipe.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100))
    if measured.tokens_per_second is not None:  # a recipe that leaves nothing open has nothing to remember
        write_json(record, asdict(measured))
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
