"""The training loop: one step is a pure function of (state, step number), so a run can die anywhere and go on.

The loop knows nothing of corpora, losses or reports: it takes gradients from an objective, hands plain dictionaries to
``record`` and calls ``observe`` where evaluation and samples belong.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from cadran.errors import UserError
from cadran.train.checkpoint import load_state, save_state
from cadran.train.machine import DTYPES, Precision
from cadran.train.objective import Learnt, Objective
from cadran.train.optimizers import OptimizerConfig, make_optimizers, set_rate
from cadran.train.schedule import Schedule

Record = Callable[[dict[str, Any]], None]

_TOKENS = "trainer:tokens"
"""How many were read so far, in a checkpoint."""


class Interrupted(UserError):
    """Training was asked to stop (Ctrl-C); its state is saved and the same command goes on."""

    exit_status = 130


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How to train, all of it decided.

    Attributes:
        steps: optimizer steps.
        micro_rows: rows of one forward and backward pass; a batch of more rows is accumulated.
        precision: of the matrix products; weights and optimizer stay in float32.
        optimizer: rates.
        schedule: learning-rate factor over the steps.
        clip: greatest gradient norm; 0 for none.
        observe_every: steps between two calls of ``observe``; it is also called before the first and after the last.
        checkpoint_seconds: time between two checkpoints.
        compiled: use ``torch.compile``.
    """

    steps: int
    micro_rows: int
    precision: Precision
    optimizer: OptimizerConfig
    schedule: Schedule
    clip: float = 1.0
    observe_every: int = 100
    checkpoint_seconds: float = 60.0
    compiled: bool = False


class Trainer:
    """Trains a model in place: those of its parameters that want a gradient.

    Args:
        model: float32 weights.
        objective: what to minimise.
        plan: how.
        checkpoints: folder for the state; removed by nobody here.
        identity: what a checkpoint must have been made for to be resumed; JSON.
        record: receives events.
        observe: called with the number of steps done.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        plan: TrainingPlan,
        checkpoints: Path,
        identity: dict[str, Any],
        record: Record,
        observe: Callable[[int], None] = lambda step: None,
    ) -> None:
        self.model, self.objective, self.plan = model, objective, plan
        self.checkpoints, self.identity, self.record, self.observe = checkpoints, identity, record, observe
        self.optimizers = make_optimizers(model, plan.optimizer, DTYPES[plan.precision])
        self.tokens = 0

    def step(self, number: int) -> Learnt:
        """Do optimizer step ``number``.

        Raises:
            UserError: the loss or the gradient is not finite; names the rows.
        """
        set_rate(self.optimizers, self.plan.schedule.factor(number))
        learnt = self.objective.gradients(number)
        norm = float(torch.nn.utils.clip_grad_norm_(self._trained(), self.plan.clip or math.inf))
        if not (math.isfinite(learnt.loss) and math.isfinite(norm)):
            raise UserError(
                f"the loss is {learnt.loss} with gradient norm {norm} at step {number} on {learnt.named}; "
                f"halve the learning rates of this stage (for pre-training base.matrix_rate and base.embedding_rate) "
                f"and run the same command again"
            )
        for optimizer in self.optimizers:
            optimizer.step()
        for parameter in self._trained():
            parameter.grad = None
        self.tokens += learnt.tokens
        return learnt

    def run(self) -> None:
        """Train from wherever the checkpoints stand to the last step.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; the state was saved first.
            UserError: a loss that is not finite, or only damaged checkpoints.
        """
        state = load_state(self.checkpoints, self.model, self.optimizers, self.identity)
        for sentence in state.damaged:
            self.record({"kind": "notice", "text": f"{sentence}; the one before it was used"})
        first = state.step
        if first:
            self.tokens = int(state.extra.pop(_TOKENS))
            self.objective.restore(state.extra)
        self.record({"kind": "resumed" if first else "started", "step": first})
        if first == 0:
            self.observe(0)
        saved = time.monotonic()
        with _postponed_signals() as stopping:
            for number in range(first, self.plan.steps):
                start = time.perf_counter()
                learnt = self.step(number)
                took = time.perf_counter() - start
                done = number + 1
                self.record(
                    {
                        "kind": "step",
                        "step": done,
                        "loss": learnt.loss,
                        "lr_factor": self.plan.schedule.factor(number),
                        "tokens": self.tokens,
                        "tokens_per_second": learnt.tokens / took,
                        "took": took,
                        **learnt.figures,
                    }
                )
                if done % self.plan.observe_every == 0 or done == self.plan.steps:
                    self.observe(done)
                if done % self.objective.period:
                    continue
                stop = stopping()
                if stop or time.monotonic() - saved > self.plan.checkpoint_seconds:
                    self._save(done)
                    saved = time.monotonic()
                if stop:
                    raise Interrupted(
                        f"stopped after step {done} of {self.plan.steps}, nothing is lost; type the same command again"
                    )
        # The last state is kept too: a kill between here and the written model costs no training.
        self._save(self.plan.steps)

    def _save(self, done: int) -> None:
        extra = self.objective.state() | {_TOKENS: torch.tensor(self.tokens)}
        save_state(self.checkpoints, done, self.model, self.optimizers, self.identity, extra)

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]


@contextmanager
def _postponed_signals() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and SIGTERM into a question asked between steps; a second Ctrl-C stops at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {name: signal.signal(name, ask) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
