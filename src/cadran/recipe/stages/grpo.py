"""Stage ``grpo``: the model answers, its answers are rewarded, and those better than their group become likelier."""

from typing import Any

from cadran.align.grpo import GrpoConfig, GrpoObjective
from cadran.align.prompt_loader import PromptLoader
from cadran.align.reward_model import RewardModel
from cadran.align.rollout import decoder
from cadran.recipe.schema import Recipe, present
from cadran.recipe.stage import StageContext
from cadran.recipe.stages.parent import start_settings
from cadran.recipe.stages.rollouts import (
    params_of,
    practise,
    prepare,
    reference_of,
    rollout_settings,
    source_of,
)


class GrpoStage:
    """See the module.

    Args:
        parent: the stage it goes on from; None means the model that the recipe starts with.
        needs: stages whose artefacts it reads; a reward model among them scores where the recipe names no rewards.
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
        judge = RewardModel.load(context.run.stage("reward")) if "reward" in self.needs else None
        practice = prepare(context, section, self.parent, judge)
        config = GrpoConfig(
            answers=section.answers,
            rollout=params_of(section, practice.parent),
            epochs=section.epochs,
            minibatches=section.minibatches,
            micro=section.micro,
            advantages=section.advantages,
            aggregation=section.aggregation,
            clip_low=section.clip_low,
            clip_high=section.clip_high,
            kl=section.kl,
            mask_truncated=section.mask_truncated,
            drop_zero_variance=section.drop_zero_variance,
            success=practice.right,
            success_reward=practice.deciding,
            dtype=practice.dtype,
        )
        objective = GrpoObjective(
            practice.model,
            source_of(context, section, practice.model),
            PromptLoader(practice.prompts, section.prompts, seed),
            practice.grader,
            decoder(practice.parent.tokenizer),
            config,
            seed=seed,
            reference=reference_of(practice) if section.kl else None,
        )
        practise(context, section, practice, practice.model, objective)
