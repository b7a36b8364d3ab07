"""What the stages of reinforcement learning share: prompts, rewards, and how well greedy answers do."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cadran.align.arithmetic import arithmetic_rows
from cadran.align.data.read import read_rows
from cadran.align.data.row import Verifiable
from cadran.align.prompt_loader import RolloutPrompt
from cadran.align.rendering import rendered
from cadran.align.rewards.catalogue import parse_rewards
from cadran.align.rewards.reward import Graded, Weighted, grade
from cadran.align.rollout import RolloutParams, decoder, sample_rollouts
from cadran.align.rollout_engine import NativeRollouts, RolloutSource, TorchRollouts
from cadran.align.sft_rows import split_rows
from cadran.errors import UserError
from cadran.files import sha256_file
from cadran.model.transformer import Transformer
from cadran.recipe.alignment_sections import RolloutSection
from cadran.recipe.schema import Recipe
from cadran.recipe.stage import StageContext
from cadran.recipe.stages.parent import Parent

SHOWN = 8
"""Held-out questions whose answers are shown, before and after."""

EXACT: list[dict[str, Any]] = [{"exact": {"field": "answer"}}]
"""The reward where a recipe names none: the row's own answer."""


@dataclass(frozen=True, slots=True)
class Examination:
    """Greedy answers to held-out prompts.

    Attributes:
        success: share with the whole reward.
        reward: mean.
        answers: the texts.
    """

    success: float
    reward: float
    answers: list[str]


def rollout_settings(recipe: Recipe, section: RolloutSection) -> dict[str, Any]:
    """What a stage of rollouts depends on besides its parent."""
    settings = section.model_dump(mode="json", exclude={"checkpoint_seconds", "data"})
    files = {} if section.data is None else {Path(section.data).name: _content(Path(section.data))}
    sums = None if recipe.arithmetic is None else recipe.arithmetic.model_dump(mode="json")
    return {"section": settings, "files": files, "sums": sums, "seed": recipe.seed, "threads": recipe.threads}


def _content(path: Path) -> str:
    return sha256_file(path) if path.is_file() else "folder or absent"


def rewards_of(section: RolloutSection) -> list[Weighted]:
    """The rewards that a recipe names, else whether the answer is the row's own."""
    return parse_rewards(section.rewards or EXACT)


def source_of(section: RolloutSection, model: Transformer) -> RolloutSource:
    """Who draws the answers."""
    return TorchRollouts(model) if section.rollouts == "torch" else NativeRollouts(model, section.rollouts)


def params_of(section: RolloutSection, parent: Parent) -> RolloutParams:
    """How they are drawn."""
    return RolloutParams(section.max_tokens, tuple(parent.renderer.stop_ids), section.temperature)


def prompts_of(
    context: StageContext, section: RolloutSection, parent: Parent, length: int
) -> tuple[list[RolloutPrompt], list[RolloutPrompt]]:
    """Prompts to learn from and prompts held out.

    Args:
        context: of the stage.
        section: its section.
        parent: who renders them.
        length: most tokens that the model reads.

    Raises:
        UserError: there is nothing to ask.
    """
    recipe, sums = context.recipe, context.recipe.arithmetic
    if section.data is not None:
        found = read_rows(Path(section.data), "verifiable")
        for sentence in [*found.described(), *found.refused[:3]]:
            context.record({"kind": "notice", "text": sentence})
        split = split_rows(found.verifiable, section.held_out, recipe.seed)
        train, held_out = split.train, split.held_out
    elif sums is not None:
        options: dict[str, Any] = {"operands": sums.operands, "largest": sums.largest, "operations": sums.operations}
        train = list(arithmetic_rows(sums.count, recipe.seed + 1, **options))
        held_out = list(arithmetic_rows(section.held_out_rows, recipe.seed + 2, held_out=True, **options))
    else:
        raise UserError(f"the recipe says nothing of what to ask; name a file with {context.name}.data=FILE")
    made = [_prompts(rows, parent, length - section.max_tokens) for rows in (train, held_out[: section.held_out_rows])]
    if not all(made):
        raise UserError(f"no prompt fits the model's context of {length} tokens; lower {context.name}.max_tokens")
    return made[0], made[1]


def _prompts(rows: Sequence[Verifiable], parent: Parent, longest: int) -> list[RolloutPrompt]:
    prompts = []
    for row in rows:
        ids = tuple(rendered(row.messages, parent.renderer, add_generation_prompt=True).ids)
        if len(ids) <= longest:
            prompts.append(RolloutPrompt(ids, list(row.messages), dict(row.reference), row.source))
    return prompts


def examine_greedily(
    model: Transformer, prompts: Sequence[RolloutPrompt], section: RolloutSection, parent: Parent
) -> Examination:
    """Let a model answer as likely as it can, and grade that."""
    params = replace(params_of(section, parent), temperature=0.0)
    decode = decoder(parent.tokenizer)
    rollouts = sample_rollouts(TorchRollouts(model), prompts, 1, params, 0, 0, decode=decode)
    graded = [
        Graded(prompts[rollout.prompt].messages, rollout.text, prompts[rollout.prompt].reference, rollout.ended)
        for rollout in rollouts
    ]
    weighted = rewards_of(section)
    totals = grade(weighted, graded).totals
    most = sum(each.weight for each in weighted if each.weight > 0)
    right = sum(float(total) >= most - 1e-6 for total in totals)
    return Examination(right / len(rollouts), float(sum(totals)) / len(rollouts), [r.text for r in rollouts])


def shown_samples(
    prompts: Sequence[RolloutPrompt], before: Sequence[str], after: Sequence[str]
) -> list[dict[str, Any]]:
    """Answers before and after, side by side."""
    return [
        {
            "prompt": prompt.messages[-1]["content"],
            "expected": str(prompt.reference.get("answer", "")),
            "answers": {"before": first, "after": last},
        }
        for prompt, first, last in list(zip(prompts, before, after, strict=True))[:SHOWN]
    ]
