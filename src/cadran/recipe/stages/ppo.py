"""Stage ``ppo``: the model answers, a reward model or functions score it, and a value head says what was expected."""

from typing import Any

from cadran.align.actor_critic import ActorCritic
from cadran.align.kl_control import KlControl
from cadran.align.ppo import PpoConfig, PpoObjective
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


class PpoStage:
    """See the module.

    Args:
        parent: the stage it goes on from; None means the model that the recipe starts with.
        needs: stages whose artefacts it reads; a reward model among them scores where the recipe names no rewards.
    """

    name = "ppo"
    version = 1

    def __init__(self, parent: str | None, needs: tuple[str, ...]) -> None:
        self.parent, self.needs = parent, needs

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """The section, and the content of what it reads."""
        settings = rollout_settings(recipe, present(recipe.ppo))
        return settings | (start_settings(recipe) if self.parent is None else {})

    def run(self, context: StageContext) -> None:
        """Write the model and results.json."""
        section, seed = present(context.recipe.ppo), context.recipe.seed
        judge = RewardModel.load(context.run.stage("reward")) if "reward" in self.needs else None
        practice = prepare(context, section, self.parent, judge)
        config = PpoConfig(
            rollout=params_of(section, practice.parent),
            answers=section.answers,
            epochs=section.epochs,
            minibatches=section.minibatches,
            micro=section.micro,
            clip_low=section.clip_low,
            clip_high=section.clip_high,
            value_clip=section.value_clip,
            value_weight=section.value_weight,
            gamma=section.gamma,
            lam=section.gae_lambda,
            unended_penalty=section.unended_penalty,
            success=practice.right,
            success_reward=practice.deciding,
            dtype=practice.dtype,
        )
        trained = ActorCritic(practice.model)
        objective = PpoObjective(
            trained,
            source_of(context, section, practice.model),
            PromptLoader(practice.prompts, section.prompts, seed),
            practice.grader,
            decoder(practice.parent.tokenizer),
            config,
            control=KlControl(section.kl, section.kl_target),
            reference=reference_of(practice),
            seed=seed,
        )
        practise(context, section, practice, trained, objective)
