"""One side of ``dpo.py``: TRL's ``DPOTrainer`` with a PEFT adapter on the same ids."""

import time
from typing import Any

from datasets import Dataset, disable_progress_bars
from trl import DPOConfig, DPOTrainer

from align_peers.bench_files import BenchFiles
from align_peers.step_clock import StepClock
from align_peers.trl_settings import begin_alike, shared_parts, shared_settings
from cadran.align.pair_loader import PairLoader

WARM = 1


class TrlDpo:
    """DPO as TRL does it: chosen and rejected are rows of their own, padded to the longest of a batch.

    Args:
        files: what to read.
        pairs: of a step.
        cached: whether the reference's log-probabilities are computed beforehand; else the adapter is switched off for
            a second forward pass in each step.
        beta: of the loss.

    Attributes:
        reference_seconds: what the reference's log-probabilities cost beforehand, for a pair; 0 when not cached.
    """

    def __init__(self, files: BenchFiles, pairs: int, cached: bool, beta: float) -> None:
        disable_progress_bars()
        items, self.pairs = files.items(), pairs
        rows = [dict(zip(("prompt_ids", "chosen_ids", "rejected_ids"), _lists(item), strict=True)) for item in items]
        self.clock, self.reference_seconds = StepClock(), 0.0
        self.loader, self.order, self.losses = PairLoader(items, pairs, seed=0), list[int](), list[float]()
        side = self

        class Told(DPOTrainer):  # type: ignore[misc]
            def _prepare_dataset(self, dataset: Any, *given: Any, **options: Any) -> Any:
                return dataset  # it holds ids already

            def _get_train_sampler(self, dataset: Any = None) -> list[int]:
                return side.order

            def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
                start = time.perf_counter()
                found = super()._precompute_ref_logps(dataset, name, batch_size)
                side.reference_seconds = (time.perf_counter() - start) / len(dataset)
                return found

            def compute_loss(self, *given: Any, **options: Any) -> Any:
                loss = super().compute_loss(*given, **options)
                side.losses.append(float(loss.detach()))
                return loss

        config = DPOConfig(
            **shared_settings(files),
            per_device_train_batch_size=pairs,
            max_length=None,
            beta=beta,
            precompute_ref_log_probs=cached,
        )
        self.trainer = Told(
            args=config, train_dataset=Dataset.from_list(rows), callbacks=[self.clock], **shared_parts(files)
        )
        begin_alike(self.trainer.model, files)

    def first_losses(self, steps: int) -> list[float]:
        """Losses of the first steps."""
        self._train(list(range(steps)))
        return list(self.losses)

    def turn(self, first: int, pairs: int) -> float:
        """Pairs a second over ``pairs`` pairs from number ``first`` on, after a step that does not count."""
        self._train([WARM, *range(first // self.pairs, (first + pairs) // self.pairs)])
        return pairs / sum(self.clock.seconds[1:])

    def _train(self, steps: list[int]) -> None:
        self.order[:] = [index for step in steps for index in self.loader.batch(step)]
        self.losses.clear()
        self.clock.seconds.clear()
        self.trainer.args.max_steps = len(steps)
        self.trainer.train()


def _lists(item: Any) -> list[list[int]]:
    return [list(item.prompt), *(list(answer) for answer in item.answers)]
