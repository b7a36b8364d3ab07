"""Stage ``dpo``: the answering model learns to prefer the better answers, and is compared with what it was."""

from typing import Any

import torch
from torch import Tensor

from cadran.align.losses.preference import REFERENCE_FREE
from cadran.align.pair_loader import PairLoader
from cadran.align.preference_objective import PreferenceObjective, examine_pairs
from cadran.align.reference import Reference, adapter_off, item_logprobs
from cadran.files import write_json
from cadran.model.checkpoint import load_model
from cadran.model.transformer import Transformer
from cadran.recipe.budget import training_plan
from cadran.recipe.run import CHECKPOINTS, runs_folder
from cadran.recipe.schema import Recipe, present
from cadran.recipe.stage import StageContext
from cadran.recipe.stages.comparison import compare_answers, compare_stages
from cadran.recipe.stages.pairs import gather_pairs, pair_settings, pair_steps, within
from cadran.recipe.stages.parent import parent_of, put_adapter, start_settings, write_finetuned
from cadran.recipe.stages.training import minimise
from cadran.train.machine import DTYPES


class DpoStage:
    """See the module.

    Args:
        parent: the stage it goes on from; None means the model that the recipe starts with.
        needs: stages whose artefacts it reads.
    """

    name = "dpo"
    version = 1

    def __init__(self, parent: str | None, needs: tuple[str, ...]) -> None:
        self.parent, self.needs = parent, needs

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """The section, and the content of what it reads."""
        settings = pair_settings(recipe, present(recipe.dpo), runs_folder() / recipe.name)
        if recipe.corpus is not None:
            sft = present(recipe.sft)
            settings |= {"examined": [sft.article_characters, sft.topics_evaluated, sft.descriptions_evaluated]}
        return settings | (start_settings(recipe) if self.parent is None else {})

    def run(self, context: StageContext) -> None:
        """Write the model and results.json."""
        section, seed = present(context.recipe.dpo), context.recipe.seed
        parent = parent_of(context, self.parent)
        model, dtype = parent.model(), DTYPES[section.precision or "fp32"]
        pairs = gather_pairs(context, section, parent, model.config.context)
        steps = pair_steps(section, pairs.train.prompted)
        pairs = within(pairs, steps * section.pairs)
        items, held_out = pairs.train.prompted, pairs.held_out.prompted
        before = item_logprobs(model, held_out, micro=section.micro, dtype=dtype, pad=parent.pad)
        reference: Tensor | Reference | None = None
        if section.adapter is not None:
            put_adapter(model, section.adapter, seed, parent.name)
        if section.loss not in REFERENCE_FREE and section.adapter is not None and section.adapter.base != "float":
            reference = adapter_off(model, dtype)  # the base in integers is another model than the one on disk
        elif section.loss not in REFERENCE_FREE:
            context.progress("log-probabilities of the reference", 0, None)
            cache = context.folder / CHECKPOINTS
            reference = item_logprobs(model, items, micro=section.micro, dtype=dtype, pad=parent.pad, cache=cache)
        objective = PreferenceObjective(
            model, items, PairLoader(items, section.pairs, seed), section.loss, section.beta, reference, section.micro,
            dtype, smoothing=section.smoothing, gamma=section.gamma, sft_weight=section.sft_weight, pad=parent.pad,
            sources=pairs.sources,
        )  # fmt: skip

        def examined(of: Transformer, reference: Tensor | None = before) -> dict[str, Any]:
            return examine_pairs(
                of, held_out, reference, section.beta, pairs.kinds, micro=section.micro, dtype=dtype, pad=parent.pad
            )

        def observe(step: int) -> None:
            found = examined(model)
            figures = {"accuracy": found["accuracy"]["after"], "margin": found["reward"]["margin"]}
            figures |= {"kl": found["kl"]["chosen"]}
            context.record({"kind": "examination", "step": step, "figures": figures})

        plan = training_plan(section, steps, max(1, -(-steps // section.examinations)))
        tokens = minimise(context, plan, model, objective, observe)
        results: dict[str, Any] = {
            "pairs": pairs.counts,
            "steps": steps,
            "tokens": tokens,
            "flops": model.config.training_flops_per_token() * tokens,
            "precision": plan.precision,
        } | examined(model)
        accuracy = results["accuracy"]
        if context.recipe.corpus is None:
            results |= compare_answers(parent, model, pairs.held_out.pairs, accuracy)
        else:
            base = load_model(context.run.stage("base"), torch.float32)
            results |= compare_stages(context, parent, model, base, accuracy | {"base": examined(base, None)})
        write_finetuned(context, parent, model, results, adapter=section.adapter is not None)
        write_json(context.folder / "results.json", results)
