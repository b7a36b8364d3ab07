"""The report of a run: one HTML page that can be read anywhere, its figures as JSON, its curves as SVG."""

from cadran.recipe.report.report import MEASURED, REPRODUCIBLE, write_report

__all__ = ["MEASURED", "REPRODUCIBLE", "write_report"]
