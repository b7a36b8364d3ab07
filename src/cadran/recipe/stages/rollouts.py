"""What the stages of reinforcement learning share: a policy, prompts, rewards, and how well greedy answers do."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cadran.align.arithmetic import arithmetic_rows
from cadran.align.branches import Prompted
from cadran.align.data.read import read_rows
from cadran.align.data.row import Verifiable
from cadran.align.graders import Grader, by_functions, by_model
from cadran.align.kl_control import TokenReference, adapter_off, frozen
from cadran.align.prompt_loader import RolloutPrompt
from cadran.align.rendering import rendered
from cadran.align.reward_model import RewardModel
from cadran.align.rewards.catalogue import parse_rewards
from cadran.align.rewards.reward import Graded
from cadran.align.rewards.scorer import Scored
from cadran.align.rollout import RolloutParams, decoder, sample_rollouts
from cadran.align.rollout_engine import RolloutSource, TorchRollouts, open_rollouts
from cadran.align.sft_rows import split_rows
from cadran.errors import UserError
from cadran.files import write_json
from cadran.model.lora import active_adapter
from cadran.model.transformer import Transformer
from cadran.recipe.alignment_sections import RolloutSection
from cadran.recipe.budget import training_plan
from cadran.recipe.schema import Recipe
from cadran.recipe.stage import StageContext
from cadran.recipe.stages.pairs import tell_refused
from cadran.recipe.stages.parent import Parent, content_of, parent_of, put_adapter, write_finetuned
from cadran.recipe.stages.training import minimise
from cadran.train.machine import DTYPES
from cadran.train.objective import Objective

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


@dataclass(frozen=True, slots=True)
class Practice:
    """A policy, what it is asked, and what it answered before it was trained.

    Attributes:
        parent: whence it comes.
        model: the policy, with its adapter.
        prompts, held_out: to learn from, and not.
        refused: rows that are neither.
        grader: what says what an answer is worth.
        deciding: name of the reward that decides whether an answer is right, the first of the recipe's.
        right: from which value of it on.
        before: its examination before the training.
        dtype: of the matrix products.
    """

    parent: Parent
    model: Transformer
    prompts: list[RolloutPrompt]
    held_out: list[RolloutPrompt]
    refused: int
    grader: Grader
    deciding: str
    right: float
    before: Examination
    dtype: torch.dtype


def prepare(
    context: StageContext, section: RolloutSection, stage: str | None, judge: RewardModel | None = None
) -> Practice:
    """Open the policy of a stage, find its prompts, and let it answer the held-out ones.

    Args:
        context: of the stage.
        section: its section.
        stage: the one before it; None means what the recipe starts with.
        judge: the run's reward model, which grades where the section names no rewards; None without one.

    Raises:
        UserError: there is no model, or nothing to ask it.
    """
    parent = parent_of(context, stage)
    model, dtype = parent.model(), DTYPES[section.precision or "fp32"]
    deciding, right = "reward model", 0.0  # its rewards have mean 0 on what it learnt from
    learnt = None if judge is None else by_model(judge, parent.pad, micro=section.micro, dtype=dtype, name=deciding)
    if learnt is not None and not section.rewards:
        grader = learnt
    else:
        weighted = parse_rewards(section.rewards or EXACT, scorer=None if learnt is None else _unasked)
        grader, deciding = by_functions(weighted, judge=learnt), weighted[0].reward.name
        right = 0.0 if isinstance(weighted[0].reward, Scored) else 1.0
    prompts, held_out, refused = prompts_of(context, section, parent, model.config.context)
    before = examine_greedily(model, held_out, params_of(section, parent), parent, grader, (deciding, right))
    if section.adapter is not None:
        put_adapter(model, section.adapter, context.recipe.seed, parent.name)
    return Practice(parent, model, prompts, held_out, len(refused), grader, deciding, right, before, dtype)


def reference_of(practice: Practice) -> TokenReference:
    """What the policy was before its training: itself without its adapter, or a second copy."""
    if active_adapter(practice.model) is not None:
        return adapter_off(practice.model, practice.dtype)
    return frozen(practice.parent.model(), practice.dtype)


def practise(
    context: StageContext, section: RolloutSection, practice: Practice, trained: nn.Module, objective: Objective
) -> None:
    """Train a policy, examine it along the way, and write it with its results.

    Args:
        context: of the stage.
        section: its section.
        practice: the policy.
        trained: the policy, or what it is a part of.
        objective: what draws, grades and learns.
    """
    model, held_out, parent, before = practice.model, practice.held_out, practice.parent, practice.before

    params, grader = params_of(section, parent), practice.grader
    success = (practice.deciding, practice.right)

    def observe(step: int) -> None:
        found = examine_greedily(model, held_out, params, parent, grader, success)
        figures = {"success": found.success, "reward": found.reward}
        context.record({"kind": "examination", "step": step, "figures": figures})

    steps = section.iterations * objective.period
    plan = training_plan(section, steps, max(1, -(-steps // section.examinations)))
    tokens = minimise(context, plan, trained, objective, observe)
    after = examine_greedily(model, held_out, params, parent, grader, success)
    results: dict[str, Any] = {
        "prompts": {"train": len(practice.prompts), "held_out": len(held_out), "refused": practice.refused},
        "success": {"before": before.success, "after": after.success},
        "reward": {"before": before.reward, "after": after.reward},
        "samples": _samples(held_out, before.answers, after.answers),
        "steps": steps,
        "tokens": tokens,
        "flops": model.config.training_flops_per_token() * tokens,
        "precision": plan.precision,
    }
    write_finetuned(context, parent, model, results, adapter=section.adapter is not None)
    write_json(context.folder / "results.json", results)


def rollout_settings(recipe: Recipe, section: RolloutSection) -> dict[str, Any]:
    """What a stage of rollouts depends on besides its parent."""
    settings = section.model_dump(mode="json", exclude={"checkpoint_seconds", "data"})
    files = {} if section.data is None else content_of(Path(section.data))
    for entry in section.rewards:  # a user's own function is one more file that the result depends on
        options = entry.get("python") if isinstance(entry, dict) else None
        if isinstance(options, dict) and isinstance(options.get("function"), str):
            files |= content_of(Path(options["function"].rpartition(":")[0]))
    sums = None if recipe.arithmetic is None else recipe.arithmetic.model_dump(mode="json")
    return {"section": settings, "files": files, "sums": sums, "seed": recipe.seed, "threads": recipe.threads}


def _unasked(graded: Sequence[Graded]) -> list[float]:
    """Stands for the reward model until the answers' ids are there for it to read."""
    return [0.0] * len(graded)


def source_of(context: StageContext, section: RolloutSection, model: Transformer) -> RolloutSource:
    """Who draws the answers; the compiled core where it was asked for and can, else PyTorch, saying why."""
    source, why_not = open_rollouts(model, section.rollouts)
    if why_not:
        context.record({"kind": "notice", "text": f"answers are drawn by PyTorch: {why_not}"})
    return source


def params_of(section: RolloutSection, parent: Parent) -> RolloutParams:
    """How they are drawn."""
    return RolloutParams(section.max_tokens, tuple(parent.renderer.stop_ids), section.temperature)


def prompts_of(
    context: StageContext, section: RolloutSection, parent: Parent, length: int
) -> tuple[list[RolloutPrompt], list[RolloutPrompt], list[str]]:
    """Prompts to learn from, prompts held out, and a sentence for each row that is neither.

    Args:
        context: of the stage.
        section: its section.
        parent: who renders them.
        length: most tokens that the model reads.

    Raises:
        UserError: there is nothing to ask.
    """
    recipe, sums, refused = context.recipe, context.recipe.arithmetic, list[str]()
    if section.data is not None:
        found = read_rows(Path(section.data), "verifiable")
        for sentence in found.described():
            context.record({"kind": "notice", "text": sentence})
        split = split_rows(found.verifiable, section.held_out, recipe.seed)
        train, held_out, refused = split.train, split.held_out, list(found.refused)
    elif sums is not None:
        options: dict[str, Any] = {"operands": sums.operands, "largest": sums.largest, "operations": sums.operations}
        train = list(arithmetic_rows(sums.count, recipe.seed + 1, **options))
        held_out = list(arithmetic_rows(section.held_out_rows, recipe.seed + 2, held_out=True, **options))
    else:
        raise UserError(f"the recipe says nothing of what to ask; name a file with {context.name}.data=FILE")
    longest, name = length - section.max_tokens, context.name
    made = [_prompts(rows, parent, longest, refused) for rows in (train, held_out[: section.held_out_rows])]
    tell_refused(context, refused)
    for prompts, use in zip(made, ("learn from", "hold out"), strict=True):
        if not prompts:
            why = f" ({refused[-1].rstrip('.')})" if refused else ""
            raise UserError(
                f"no prompt is left to {use}{why}; give more rows, another {name}.held_out, or lower {name}.max_tokens"
            )
    return made[0], made[1], refused


def _prompts(rows: Sequence[Verifiable], parent: Parent, longest: int, refused: list[str]) -> list[RolloutPrompt]:
    prompts = []
    for row in rows:
        try:
            ids = tuple(rendered(row.messages, parent.renderer, add_generation_prompt=True).ids)
        except UserError as error:
            refused.append(f"{row.source}: it cannot be rendered ({error})")
            continue
        if len(ids) <= longest:
            prompts.append(RolloutPrompt(ids, list(row.messages), dict(row.reference), row.source))
        else:
            refused.append(f"{row.source}: it has {len(ids)} tokens where {longest} are left beside an answer")
    return prompts


def examine_greedily(
    model: Transformer,
    prompts: Sequence[RolloutPrompt],
    params: RolloutParams,
    parent: Parent,
    grader: Grader,
    success: tuple[str, float],
) -> Examination:
    """Let a model answer as likely as it can, and grade that.

    Args:
        model: the policy.
        prompts: held out.
        params: of its answers; the temperature is passed over.
        parent: of the policy.
        grader: what says what an answer is worth.
        success: name of the reward that decides whether it is right, and from which value on.
    """
    decode, params = decoder(parent.tokenizer), replace(params, temperature=0.0)
    rollouts = sample_rollouts(TorchRollouts(model), prompts, 1, params, 0, 0, decode=decode)
    graded = [
        Graded(prompts[rollout.prompt].messages, rollout.text, prompts[rollout.prompt].reference, rollout.ended)
        for rollout in rollouts
    ]
    grades = grader(graded, [Prompted(prompts[each.prompt].ids, (each.ids,)) for each in rollouts])
    name, least = success
    right = int((grades.values[name].double() >= least - 1e-6).sum())
    reward = float(grades.totals.double().mean())
    return Examination(right / len(rollouts), reward, [rollout.text for rollout in rollouts])


def _samples(prompts: Sequence[RolloutPrompt], before: Sequence[str], after: Sequence[str]) -> list[dict[str, Any]]:
    """Answers before and after, side by side."""
    return [
        {
            "prompt": prompt.messages[-1]["content"],
            "expected": str(prompt.reference.get("answer", "")),
            "answers": {"before": first, "after": last},
        }
        for prompt, first, last in list(zip(prompts, before, after, strict=True))[:SHOWN]
    ]
