"""Stage ``report``: one page that shows how the model was made, what it learnt and what it cost."""

from typing import Any

from cadran.recipe.report import write_report
from cadran.recipe.schema import Recipe
from cadran.recipe.stage import StageContext


class ReportStage:
    """See the module.

    Args:
        needs: all other stages of the run.
    """

    name = "report"
    version = 2

    def __init__(self, needs: tuple[str, ...]) -> None:
        self.needs = needs

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """The recipe's name and words; the numbers come from the other stages."""
        return {"name": recipe.name, "about": recipe.about}

    def run(self, context: StageContext) -> None:
        """Write report/index.html and what stands beside it."""
        write_report(context.run.folder)
