"""The rows that a stage learnt from: how many, which were refused and why, and a few as the trainer saw them."""

from typing import Any

from cadran.recipe.report.data import Record, RunData, branch, dig, number, rows
from cadran.recipe.report.order import ALIGNED

EXAMPLES = 3
_TOKENS = 500
_REFUSALS = 8


def row_counts(data: RunData) -> list[Record]:
    """What each stage had to learn from.

    Returns:
        For each stage that counted its rows or pairs: ``stage``, ``what`` ("rows" or "pairs"), ``train``,
        ``held_out`` and ``refused`` (None where it is not known), ``named`` (the first refusals as sentences).
    """
    found = []
    for stage in ALIGNED:
        result = data.results.get(stage, {})
        for what in ("rows", "pairs", "prompts"):
            counts = branch(result, what)
            line: Record = {key: _total(counts.get(key)) for key in ("train", "held_out", "refused")}
            named = dig(result, "refused")
            sentences = [text for text in named if isinstance(text, str)] if isinstance(named, list) else []
            if line["refused"] is None and sentences:
                line["refused"] = len(sentences)
            if counts and any(value is not None for value in line.values()):
                found.append(line | {"stage": stage, "what": what, "named": sentences[:_REFUSALS]})
                break
    return found


def rendered(data: RunData) -> list[Record]:
    """The first rows as the trainer saw them.

    Returns:
        Each with ``stage``, ``tokens`` (text and whether it is supervised), ``left_out`` (tokens not shown),
        ``all`` and ``supervised`` (how many there are).
    """
    found = []
    for stage in ALIGNED:
        for example in rows(data.results.get(stage), "examples")[:EXAMPLES]:
            given = [token for token in rows(example, "tokens") if isinstance(token.get("text"), str)]
            tokens = [(token["text"], token.get("supervised") is True) for token in given]
            if tokens:
                found.append(
                    {
                        "stage": stage,
                        "tokens": tokens[:_TOKENS],
                        "left_out": max(0, len(tokens) - _TOKENS),
                        "all": len(tokens),
                        "supervised": sum(supervised for _, supervised in tokens),
                    }
                )
    return found


def _total(value: Any) -> float | None:
    """A count, or the sum of the counts per task."""
    if isinstance(value, dict):
        parts = [number(value, key) for key in value]
        return sum(part for part in parts if part is not None) if parts else None
    return number({"value": value}, "value")
