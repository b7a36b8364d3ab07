"""Sides of ``rollouts.py``: Cadran drawing answers, and Cadran in a step of GRPO."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch

from align_peers.bench_files import BenchFiles
from align_peers.own_dpo import constant_plan
from cadran.align.graders import by_functions
from cadran.align.grpo import GrpoConfig, GrpoObjective
from cadran.align.prompt_loader import PromptLoader, RolloutPrompt
from cadran.align.rewards.reward import Graded, Weighted
from cadran.align.rollout import RolloutParams, sample_rollouts
from cadran.align.rollout_engine import NativeRollouts, RolloutSource, TorchRollouts
from cadran.engine.runner import Runner
from cadran.model.transformer import Transformer
from cadran.train.frozen import freeze_base
from cadran.train.trainer import Trainer

Source = Literal["int8", "f32", "torch"]


@dataclass(frozen=True, slots=True)
class Work:
    """What a step reads and writes: prompts, answers to each, and tokens of every answer, all of the same length."""

    prompts: int = 4
    answers: int = 4
    tokens: int = 64

    @property
    def drawn(self) -> int:
        """Tokens drawn."""
        return self.prompts * self.answers * self.tokens


class TimedSource:
    """A source of rollouts that counts the seconds until it has laid the weights out."""

    def __init__(self, source: RolloutSource) -> None:
        self.name, self._source, self.seconds = source.name, source, 0.0

    @contextmanager
    def runner(self, sequences: int, positions: int) -> Iterator[Runner]:
        """See ``RolloutSource.runner``."""
        start = time.perf_counter()
        with self._source.runner(sequences, positions) as runner:
            self.seconds += time.perf_counter() - start
            yield runner


def open_source(model: Transformer, source: Source, threads: int) -> TimedSource:
    """A source by name."""
    if source == "torch":
        return TimedSource(TorchRollouts(model))
    return TimedSource(NativeRollouts(model, source, threads=threads))


def prompts_of(files: BenchFiles, steps: int, work: Work) -> PromptLoader:
    """The prompts of so many steps, in the order that all sides answer them."""
    items = files.items()[: steps * work.prompts]
    prompts = [RolloutPrompt(item.prompt, [{"role": "user", "content": str(n)}]) for n, item in enumerate(items)]
    return PromptLoader(prompts, work.prompts, seed=0)


def endless(model: Transformer, tokens: int) -> RolloutParams:
    """Answers of so many tokens, because what would end them is no token of the model."""
    return RolloutParams(tokens, (model.config.vocabulary,))


def vowels(text: str) -> float:
    """A reward that costs nothing: the share of vowels, or of twos where words are numbers."""
    return sum(text.count(letter) for letter in "aeiouy2") / max(len(text), 1)


class Vowels:
    """The same as a reward of ours."""

    name, bounded = "vowels", True

    def __call__(self, graded: Sequence[Graded]) -> list[float]:
        """One number for each answer."""
        return [vowels(one.answer) for one in graded]


class OwnRollouts:
    """Answers to the first prompts, drawn after a small change of the adapter, as in training.

    Args:
        files: what to read.
        source: who computes.
        work: how much.
        threads: of the compiled core.
    """

    def __init__(self, files: BenchFiles, source: Source, work: Work, threads: int) -> None:
        self.work, self.model, self.decode = work, files.open_model(), files.decode()
        self.prompts = prompts_of(files, 1, work).batch(0)
        self.source = open_source(self.model, source, threads)
        self.number = 0
        self.draw()

    def draw(self) -> dict[str, float]:
        """Seconds of a draw, and those of laying the weights out among them.

        Raises:
            ValueError: an answer has another length.
        """
        with torch.no_grad():
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    parameter.add_(1e-6)
        self.number, self.source.seconds = self.number + 1, 0.0
        params = endless(self.model, self.work.tokens)
        start = time.perf_counter()
        found = sample_rollouts(
            self.source, self.prompts, self.work.answers, params, 0, self.number, decode=self.decode
        )
        seconds = time.perf_counter() - start
        if sum(len(rollout.ids) for rollout in found) != self.work.drawn:
            raise ValueError("an answer has another length")
        return {"seconds": seconds, "packing": self.source.seconds}


class _Endless(GrpoObjective):
    """Padding is token 0, because the stop token is none."""

    @property
    def _pad(self) -> int:
        return 0


class OwnGrpo:
    """Steps of GRPO on an adapter.

    Args:
        files: what to read.
        source: who draws the answers.
        micro: prompts in one forward and backward pass.
        work: how much.
        steps: of a turn, after one that does not count.
        threads: of the compiled core.
        integers: whether the frozen base is multiplied in INT8, forwards and backwards.
    """

    def __init__(
        self, files: BenchFiles, source: Source, micro: int, work: Work, steps: int, threads: int, integers: bool
    ) -> None:
        self.work, self.steps = work, steps
        model = files.open_model()
        if integers:
            freeze_base(model, 8)
        self.source = open_source(model, source, threads)
        config = GrpoConfig(work.answers, endless(model, work.tokens), micro=micro)
        objective = _Endless(
            model, self.source, prompts_of(files, steps + 1, work), by_functions([Weighted(Vowels())]),
            files.decode(), config, seed=0,
        )  # fmt: skip
        self.objective = objective
        self.trainer = Trainer(model, objective, constant_plan(), files.scratch / "checkpoints", {}, lambda event: None)
        self._drawing = 0.0
        objective._draw = self._timed(objective._draw)  # type: ignore[method-assign]

    def _timed(self, draw):  # type: ignore[no-untyped-def]
        def timed(number: int) -> None:
            start = time.perf_counter()
            draw(number)
            self._drawing += time.perf_counter() - start

        return timed

    def turn(self) -> dict[str, float]:
        """Seconds of a step, of drawing and grading in it, and of laying the weights out; and its mean entropy.

        Raises:
            ValueError: an answer has another length.
        """
        self.trainer.step(0)
        self._drawing = self.source.seconds = entropy = 0.0
        start = time.perf_counter()
        for number in range(1, self.steps + 1):
            figures = self.trainer.step(number).figures
            entropy += figures["entropy"]
            if figures["length"] != self.work.tokens:
                raise ValueError("an answer has another length")
        seconds = time.perf_counter() - start
        totals = {"seconds": seconds, "drawing": self._drawing, "packing": self.source.seconds, "entropy": entropy}
        return {name: total / self.steps for name, total in totals.items()}
