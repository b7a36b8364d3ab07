"""Tiny policies, prompts and rewards for the tests of rollouts, GRPO and PPO: ids are numbers, text is their names."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cadran.align.branches import Prompted
from cadran.align.experience import Experience
from cadran.align.graders import Grader
from cadran.align.prompt_loader import RolloutPrompt
from cadran.align.rewards.reward import Graded, Grades
from cadran.align.rollout import RolloutParams
from cadran.model.config import ModelConfig
from cadran.model.transformer import Transformer

VOCABULARY, STOP = 12, 11
CONFIG = ModelConfig(
    vocabulary=VOCABULARY, layers=2, width=16, heads=2, kv_heads=1, head_width=8, hidden=24, context=40
)  # fmt: skip
PARAMS = RolloutParams(max_tokens=8, stop_ids=(STOP,))


def policy(seed: int = 0, noise: float = 0.2, **changes: Any) -> Transformer:
    """Weights with noise on all of them, so that nothing is equal for want of being used."""
    model = Transformer(replace(CONFIG, **changes), seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * noise)
    return model.eval()


def prompts(count: int = 6) -> list[RolloutPrompt]:
    return [
        RolloutPrompt(tuple((7 * i + j) % 10 for j in range(2 + i % 3)), [{"role": "user", "content": str(i)}],
                      {"number": i}, f"row {i}")
        for i in range(count)
    ]  # fmt: skip


def names(ids: Sequence[int]) -> str:
    return " ".join(map(str, ids))


def graded_by(rule: Callable[[Graded], float], name: str = "rule") -> Grader:
    def grader(graded: Sequence[Graded], items: Sequence[Prompted]) -> Grades:
        totals = torch.tensor([rule(one) for one in graded])
        return Grades(totals, {name: totals})

    return grader


def share_of_even(graded: Graded) -> float:
    """Share of an answer's tokens that are even; 0 for an empty one."""
    ids = [int(word) for word in graded.answer.split()]
    return sum(id % 2 == 0 for id in ids) / max(len(ids), 1)


def moved(model: Transformer, seed: int = 0, by: float = 0.05) -> Transformer:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * by)
    return model


def alone(model: Transformer, experience: Experience, temperature: float) -> list[Tensor]:
    """Log-probabilities of each answer's tokens, each read in a row of its own by a plain forward pass."""
    found = []
    for rollout in experience.rollouts:
        prompt = experience.prompts[rollout.prompt].ids
        logits = model(torch.tensor([[*prompt, *rollout.ids]]))[0] / temperature
        steps = torch.log_softmax(logits[len(prompt) - 1 : -1], -1)
        found.append(steps.gather(-1, torch.tensor(rollout.ids)[:, None])[:, 0])
    return found
