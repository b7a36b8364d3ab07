"""The order of the stages, in one place: what a run may hold, and which of it this run should.

A run may make its model from text (corpus, tokenizer, base) or start from a model that others made; what follows is
the same for both.
"""

from collections.abc import Collection
from typing import Any

PRETRAINING = ("corpus", "tokenizer", "base")
ALIGNED = ("sft", "distil", "reward", "dpo", "kto", "grpo", "ppo")
TRAINED = ("base", *ALIGNED)
ORDER = (*PRETRAINING, *ALIGNED, "int8", "report")
RESULTS = {stage: f"{stage}/results.json" for stage in ORDER[:-1]} | {"corpus": "corpus/datasheet.json"}
"""Where each stage leaves what it found out; the report itself leaves nothing of the kind."""

_ALWAYS = (*PRETRAINING, "sft")


def expected(recipe: Any, begun: Collection[str]) -> tuple[str, ...]:
    """Stages that a run should end with, in the order of the pipeline.

    Args:
        recipe: the parsed recipe; anything that is no object counts as an empty one.
        begun: stages of which there are traces already.

    Returns:
        The stages that ``stages`` of the recipe names, when it does. Otherwise those that have a section, and
        corpus, tokenizer, base and sft, which need none; a run that starts from another model has no pre-training,
        whatever its sections say. A section that is null is a stage left out. To these come the ones that have begun.
    """
    sections: dict[Any, Any] = recipe if isinstance(recipe, dict) else {}
    named = sections.get("stages")
    if isinstance(named, list):
        wanted = {stage for stage in named if isinstance(stage, str)}
    else:
        wanted = {stage for stage in ORDER if isinstance(sections.get(stage), dict)}
        if isinstance(sections.get("start"), str):
            wanted -= set(PRETRAINING)
        else:
            wanted |= {stage for stage in _ALWAYS if stage not in sections}
    return tuple(stage for stage in RESULTS if stage in wanted or stage in begun)
