"""One side of ``rollouts.py``: steps of TRL's ``GRPOTrainer`` with a PEFT adapter on the same prompts."""

import time
from typing import Any

from datasets import Dataset, disable_progress_bars
from trl import GRPOConfig, GRPOTrainer

from align_peers.bench_files import BenchFiles
from align_peers.own_rollouts import Work, prompts_of, vowels
from align_peers.step_clock import StepClock
from align_peers.trl_settings import begin_alike, shared_parts, shared_settings


class TrlGrpo:
    """GRPO as TRL does it: ``transformers`` draws, every answer is a row with its own prompt.

    Args:
        files: what to read.
        passes: into how many forward and backward passes the answers of a step are cut.
        work: how much.
        steps: of a turn, after one that does not count.
    """

    def __init__(self, files: BenchFiles, passes: int, work: Work, steps: int) -> None:
        disable_progress_bars()
        loader = prompts_of(files, steps + 1, work)
        prompts = [prompt for step in range(steps + 1) for prompt in loader.batch(step)]
        self.work, self.steps, self.clock = work, steps, StepClock()
        self._drawing, self._entropies = list[float](), list[float]()
        side = self

        class Told(GRPOTrainer):  # type: ignore[misc]
            def _tokenize_prompts(self, named: list[str]) -> Any:
                return [list(prompts[int(name)].ids) for name in named], None, {}

            def _generate_single_turn(self, *given: Any, **options: Any) -> Any:
                start = time.perf_counter()
                found = super()._generate_single_turn(*given, **options)
                side._drawing.append(time.perf_counter() - start)
                if {len(ids) for ids in found[0]} != {work.tokens}:
                    raise ValueError("an answer has another length")
                return found

            def log(self, *given: Any, **options: Any) -> None:
                side._entropies[:] = self._metrics["train"]["entropy"]
                super().log(*given, **options)

        config = GRPOConfig(
            **shared_settings(files),
            per_device_train_batch_size=work.prompts * work.answers // passes,
            gradient_accumulation_steps=passes,
            num_generations=work.answers,
            max_completion_length=work.tokens,
            temperature=1.0,
            beta=0.0,
            epsilon=0.2,
            epsilon_high=0.28,
            loss_type="dapo",
            shuffle_dataset=False,
            generation_kwargs={"min_new_tokens": work.tokens},
        )
        self.trainer = Told(
            args=config,
            reward_funcs=lambda completions, **others: [vowels(text) for text in completions],
            train_dataset=Dataset.from_list([{"prompt": str(number)} for number in range(len(prompts))]),
            callbacks=[self.clock],
            **shared_parts(files),
        )
        begin_alike(self.trainer.model, files)

    def turn(self) -> dict[str, float]:
        """Seconds of a step and of drawing in it, and its mean entropy."""
        self.clock.seconds.clear()
        self._drawing.clear()
        self.trainer.args.max_steps = self.steps + 1
        self.trainer.train()
        counted = self._entropies[len(self._entropies) // (self.steps + 1) :]
        return {
            "seconds": sum(self.clock.seconds[1:]) / self.steps,
            "drawing": sum(self._drawing[1:]) / self.steps,
            "packing": 0.0,
            "entropy": sum(counted) / len(counted),
        }
