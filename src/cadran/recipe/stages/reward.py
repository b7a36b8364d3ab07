"""Stage ``reward``: a model that gives an answer a number, learnt from pairs of which one answer is preferred."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cadran.align.branches import pack_for
from cadran.align.pair_loader import PairLoader
from cadran.align.reward_model import RewardModel
from cadran.align.reward_objective import RewardObjective, examine_rewards
from cadran.files import write_json, write_text
from cadran.recipe.budget import training_plan
from cadran.recipe.run import runs_folder
from cadran.recipe.schema import Recipe, present
from cadran.recipe.stage import StageContext
from cadran.recipe.stages.pairs import gather_pairs, pair_settings, pair_steps
from cadran.recipe.stages.parent import keep_small_files, merged, parent_of, put_adapter, start_settings
from cadran.recipe.stages.training import minimise, write_lineage
from cadran.train.machine import DTYPES

SAMPLES = 200
"""Pairs to learn from whose rewards have mean 0 and standard deviation 1 afterwards."""


class RewardStage:
    """See the module.

    Args:
        parent: the stage it goes on from; None means the model that the recipe starts with.
        needs: stages whose artefacts it reads.
    """

    name = "reward"
    version = 1

    def __init__(self, parent: str | None, needs: tuple[str, ...]) -> None:
        self.parent, self.needs = parent, needs

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """The section, and the content of what it reads."""
        settings = pair_settings(recipe, present(recipe.reward), runs_folder() / recipe.name)
        return settings | (start_settings(recipe) if self.parent is None else {})

    def run(self, context: StageContext) -> None:
        """Write a sequence classifier with one label, and results.json."""
        section, seed = present(context.recipe.reward), context.recipe.seed
        parent = parent_of(context, self.parent)
        base = parent.model()
        pairs = gather_pairs(context, section, parent, base.config.context)
        if section.adapter is not None:
            put_adapter(base, section.adapter, seed, parent.name)
        model, dtype = RewardModel(base, seed), DTYPES[section.precision or "fp32"]
        items, held_out = pairs.train.prompted, pairs.held_out.prompted
        steps = pair_steps(section, items)
        objective = RewardObjective(
            model, items, pairs.margins, PairLoader(items, section.pairs, seed), section.micro, dtype,
            centring=section.centring, pad=parent.pad, sources=pairs.sources,
        )  # fmt: skip

        def examine() -> dict[str, Any]:
            return examine_rewards(model, held_out, pairs.kinds, micro=section.micro, dtype=dtype, pad=parent.pad)

        def observe(step: int) -> None:
            figures = {"accuracy": examine()["accuracy"]}
            context.record({"kind": "examination", "step": step, "figures": figures})

        plan = training_plan(section, steps, max(1, -(-steps // section.examinations)))
        tokens = minimise(context, plan, model, objective, observe)
        if section.adapter is not None:
            with TemporaryDirectory() as folder:
                whole = RewardModel(merged(parent, base, Path(folder)), None)
            whole.score.load_state_dict(model.score.state_dict())
            model = whole
        samples = (items[start : start + section.micro] for start in range(0, min(SAMPLES, len(items)), section.micro))
        model.normalise((pack_for(model.transformer, some, parent.pad) for some in samples), dtype)
        results: dict[str, Any] = {"pairs": pairs.counts, "steps": steps, "tokens": tokens} | examine()
        results |= {"mean": float(model.shift), "std": float(model.scale), "precision": plan.precision}
        results |= {"flops": base.config.training_flops_per_token() * tokens}
        keep_small_files(parent, context.folder)
        write_json(context.folder / "results.json", results)
        stop = list(parent.renderer.stop_ids)
        model.save(context.folder, end_of_text=parent.end_of_text, pad=parent.pad, eos=stop)
        write_lineage(context, results)
        write_text(
            context.folder / "README.md",
            f"# {context.recipe.name}/{self.name}\n\nA reward model on top of {parent.name}: it gives an answer one "
            f"number. {results['accuracy']:.1%} of {len(held_out)} held-out pairs are put in the right order.\n",
        )
