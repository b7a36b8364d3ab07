"""Stage ``int8``: the finished model with 8 bits for each weight, and what that cost it."""

import warnings
from typing import Any

from cadran.compress.quantize import Choices, quantize
from cadran.files import write_json
from cadran.recipe.schema import Recipe
from cadran.recipe.stage import StageContext


class IntegerStage:
    """See the module.

    Args:
        parent: the stage whose model is made smaller.
        needs: stages whose artefacts it reads.
    """

    name = "int8"
    version = 1

    def __init__(self, parent: str, needs: tuple[str, ...]) -> None:
        self.parent, self.needs = parent, needs

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """The model's name, which stands in the file, and threads."""
        return {"name": recipe.name, "threads": recipe.threads}

    def run(self, context: StageContext) -> None:
        """Write a GGUF file and results.json."""
        name = f"{context.recipe.name}-int8"
        file = context.folder / f"{name}.gguf"
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)
            report = quantize(
                context.run.stage(self.parent), file, Choices(bits=8), name=name, force=True, progress=context.progress
            )
        for warning in said:
            context.record({"kind": "notice", "text": str(warning.message)})
        fidelity = report.fidelity
        results = {
            "file": file.name,
            "of": self.parent,
            "bytes_before": report.bytes_before,
            "bytes_after": report.bytes_after,
            "bits": report.bits_after,
            "text": report.text,
            "tokens": fidelity.tokens,
            "perplexity_before": fidelity.before,
            "perplexity_after": fidelity.after,
            "divergence": fidelity.divergence,
        }
        write_json(context.folder / "results.json", results)
