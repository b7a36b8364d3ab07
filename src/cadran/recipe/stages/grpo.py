"""Stage ``grpo``: the model answers, its answers are rewarded, and those better than their group become likelier."""

from typing import Any

from cadran.align.graders import by_functions
from cadran.align.grpo import GrpoConfig, GrpoObjective
from cadran.align.kl_control import TokenReference, adapter_off, frozen
from cadran.align.prompt_loader import PromptLoader
from cadran.align.rollout import decoder
from cadran.files import write_json
from cadran.recipe.budget import training_plan
from cadran.recipe.schema import Recipe, present
from cadran.recipe.stage import StageContext
from cadran.recipe.stages.parent import parent_of, put_adapter, start_settings, write_finetuned
from cadran.recipe.stages.rollouts import (
    examine_greedily,
    params_of,
    prompts_of,
    rewards_of,
    rollout_settings,
    shown_samples,
    source_of,
)
from cadran.recipe.stages.training import minimise
from cadran.train.machine import DTYPES


class GrpoStage:
    """See the module.

    Args:
        parent: the stage it goes on from; None means the model that the recipe starts with.
        needs: stages whose artefacts it reads.
    """

    name = "grpo"
    version = 1

    def __init__(self, parent: str | None, needs: tuple[str, ...]) -> None:
        self.parent, self.needs = parent, needs

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """The section, and the content of what it reads."""
        settings = rollout_settings(recipe, present(recipe.grpo))
        return settings | (start_settings(recipe) if self.parent is None else {})

    def run(self, context: StageContext) -> None:
        """Write the model and results.json."""
        section, seed = present(context.recipe.grpo), context.recipe.seed
        parent = parent_of(context, self.parent)
        model, dtype = parent.model(), DTYPES[section.precision or "fp32"]
        prompts, held_out = prompts_of(context, section, parent, model.config.context)
        before = examine_greedily(model, held_out, section, parent)
        if section.adapter is not None:
            put_adapter(model, section.adapter, seed, parent.name)
        reference: TokenReference | None = None
        if section.kl:
            reference = adapter_off(model, dtype) if section.adapter is not None else frozen(parent.model(), dtype)
        config = GrpoConfig(
            answers=section.answers,
            rollout=params_of(section, parent),
            epochs=section.epochs,
            minibatches=section.minibatches,
            micro=section.micro,
            advantages=section.advantages,
            aggregation=section.aggregation,
            clip_low=section.clip_low,
            clip_high=section.clip_high,
            kl=section.kl,
            mask_truncated=section.mask_truncated,
            dtype=dtype,
        )
        loader, grader = PromptLoader(prompts, section.prompts, seed), by_functions(rewards_of(section))
        objective = GrpoObjective(
            model, source_of(section, model), loader, grader, decoder(parent.tokenizer), config,
            seed=seed, reference=reference,
        )  # fmt: skip

        def observe(step: int) -> None:
            found = examine_greedily(model, held_out, section, parent)
            figures = {"success": found.success, "reward": found.reward}
            context.record({"kind": "examination", "step": step, "figures": figures})

        steps = section.iterations * objective.period
        plan = training_plan(section, steps, max(1, -(-steps // section.examinations)))
        tokens = minimise(context, plan, model, objective, observe)
        after = examine_greedily(model, held_out, section, parent)
        results: dict[str, Any] = {
            "prompts": {"train": len(prompts), "held_out": len(held_out)},
            "success": {"before": before.success, "after": after.success},
            "reward": {"before": before.reward, "after": after.reward},
            "samples": shown_samples(held_out, before.answers, after.answers),
            "steps": steps,
            "tokens": tokens,
            "flops": model.config.training_flops_per_token() * tokens,
            "precision": plan.precision,
        }
        write_json(context.folder / "results.json", results)
        write_finetuned(context, parent, model, results, adapter=section.adapter is not None)
