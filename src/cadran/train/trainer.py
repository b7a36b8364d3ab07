"""The training loop: one step is a pure function of (state, step number), so a run can die anywhere and go on.

The loop knows nothing of corpora or reports: it takes batches from a loader, hands plain dictionaries to ``record``
and calls ``observe`` where evaluation and samples belong.
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

from cadran.errors import UserError
from cadran.model.attention import document_bias
from cadran.model.transformer import Transformer
from cadran.train.checkpoint import load_state, save_state
from cadran.train.loader import Batch, TokenLoader
from cadran.train.loss import head_cross_entropy
from cadran.train.machine import DTYPES, Precision, why_not_compile
from cadran.train.optimizers import OptimizerConfig, make_optimizers, set_rate
from cadran.train.schedule import Schedule

Record = Callable[[dict[str, Any]], None]


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
    """Trains a model in place.

    Args:
        model: float32 weights.
        loader: batches by step number.
        plan: what to do.
        checkpoints: folder for the state; removed by nobody here.
        identity: what a checkpoint must have been made for to be resumed; JSON.
        record: receives events.
        observe: called with the number of steps done.
    """

    def __init__(
        self,
        model: Transformer,
        loader: TokenLoader,
        plan: TrainingPlan,
        checkpoints: Path,
        identity: dict[str, Any],
        record: Record,
        observe: Callable[[int], None] = lambda step: None,
    ) -> None:
        self.model, self.loader, self.plan = model, loader, plan
        self.checkpoints, self.identity, self.record, self.observe = checkpoints, identity, record, observe
        self.dtype = DTYPES[plan.precision]
        self.optimizers = make_optimizers(model, plan.optimizer, self.dtype)
        self._hidden = self._compiled() if plan.compiled else model.hidden_states

    def _compiled(self) -> Callable[..., torch.Tensor]:
        reason = why_not_compile()
        if reason is not None:
            self.record({"kind": "notice", "text": f"training without torch.compile: {reason}"})
            return self.model.hidden_states
        return torch.compile(self.model.hidden_states, dynamic=False)

    def loss_and_gradients(self, batch: Batch) -> float:
        """Accumulate the gradients of one batch.

        The loss is the sum over the batch's valid targets divided by their number over *all* its rows, whatever
        the size of the pieces it is computed in.

        Returns:
            The loss, nats per target.
        """
        head, total = self.model.lm_head.weight, 0.0
        device = head.device
        for start in range(0, batch.ids.shape[0], self.plan.micro_rows):
            piece = slice(start, start + self.plan.micro_rows)
            bias = document_bias(batch.segments[piece].to(device), self.dtype)
            hidden = self._hidden(batch.ids[piece].to(device), bias, None, self.dtype)
            loss = head_cross_entropy(
                hidden.reshape(-1, hidden.shape[-1]),
                head.to(self.dtype),
                batch.targets[piece].to(device).reshape(-1),
                batch.valid,
                self.model.config.logit_cap,
            )
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def step(self, number: int) -> float:
        """Do optimizer step ``number`` and return its loss.

        Raises:
            UserError: the loss or the gradient is not finite; names the rows.
        """
        batch = self.loader.batch(number)
        set_rate(self.optimizers, self.plan.schedule.factor(number))
        loss = self.loss_and_gradients(batch)
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.plan.clip or math.inf))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            documents = sorted({piece.document for row in batch.rows for piece in row})
            named = ", ".join(map(str, documents[:8])) + (", ..." if len(documents) > 8 else "")
            raise UserError(
                f"the loss is {loss} with gradient norm {norm} at step {number} on documents {named} of the shard; "
                f"halve the learning rate (base.matrix_rate, base.embedding_rate) and run the same command again"
            )
        for optimizer in self.optimizers:
            optimizer.step()
        for parameter in self.model.parameters():
            parameter.grad = None
        return loss

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
        self.record({"kind": "resumed" if first else "started", "step": first})
        if first == 0:
            self.observe(0)
        saved = time.monotonic()
        tokens_per_step = self.loader.rows * self.loader.context
        with _postponed_signals() as stopping:
            for number in range(first, self.plan.steps):
                start = time.perf_counter()
                loss = self.step(number)
                took = time.perf_counter() - start
                done = number + 1
                self.record(
                    {
                        "kind": "step",
                        "step": done,
                        "loss": loss,
                        "lr_factor": self.plan.schedule.factor(number),
                        "tokens": done * tokens_per_step,
                        "tokens_per_second": tokens_per_step / took,
                    }
                )
                if done % self.plan.observe_every == 0 or done == self.plan.steps:
                    self.observe(done)
                stop = stopping()
                if stop or time.monotonic() - saved > self.plan.checkpoint_seconds:
                    save_state(self.checkpoints, done, self.model, self.optimizers, self.identity)
                    saved = time.monotonic()
                if stop:
                    raise Interrupted(
                        f"stopped after step {done} of {self.plan.steps}, nothing is lost; type the same command again"
                    )
        # The last state is kept too: a kill between here and the written model costs no training.
        save_state(self.checkpoints, self.plan.steps, self.model, self.optimizers, self.identity)


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
