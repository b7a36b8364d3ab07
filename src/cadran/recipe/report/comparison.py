"""The same questions put to each model of a run, and what each scored: side by side.

A model is called best at a measure only where its interval leaves no overlap with any other's. A measure without
intervals names no best: a difference that nobody knows the noise of is no difference.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cadran.recipe.report.data import Record, RunData, branch, dig, number, rows
from cadran.recipe.report.order import ALIGNED, TRAINED
from cadran.recipe.report.wording import decimal, language_name, percent, plain

_COLUMNS = ("before", *TRAINED, "after")
_NAMES = {
    "before": "Before",
    "after": "After",
    "base": "Base",
    "sft": "SFT",
    "reward": "Reward model",
    "dpo": "DPO",
    "kto": "KTO",
    "ppo": "PPO",
    "grpo": "GRPO",
    "distil": "Distilled",
}
_SHARES = ("accuracy", "pair_accuracy", "success")
_LOWER = ("held_out_loss", "loss", "perplexity", "divergence")
_MEASURES = {
    "accuracy": "Pairs ranked right",
    "pair_accuracy": "Pairs ranked right",
    "success": "Right answers",
    "reward": "Reward",
    "held_out_loss": "Held-out loss",
    "loss": "Held-out loss",
    "perplexity": "Held-out perplexity",
    "kl": "KL to the reference",
}
_FIRST = ("success", "pair_accuracy", "accuracy", "topic", "description")
_MOST_COLUMNS = 6


def comparisons(data: RunData) -> list[Record]:
    """What can be set side by side, by stage in the order of the pipeline.

    Returns:
        For each stage that has anything: ``stage``, ``columns`` (key and name of each model), ``measures`` (``name``,
        ``hint``, ``cells`` as (value, interval, whether it is best) per column), ``intervals`` (whether there are
        any) and ``samples`` (``prompt``, ``language``, ``task``, ``expected``, ``answers`` as (model, text, whether
        it is the expected one)).
    """
    found = []
    for stage in ALIGNED:
        result = data.results.get(stage, {})
        scores, samples = _scores(result), [row for row in rows(result, "samples") if branch(row, "answers")]
        records = [*scores.values(), *(branch(row, "answers") for row in samples)]
        given = {key: None for record in records for key in record}
        columns = [key for key in _COLUMNS if key in given] + [key for key in given if key not in _COLUMNS]
        columns = columns[:_MOST_COLUMNS]
        order = sorted(scores, key=lambda key: _FIRST.index(key[0]) if key[0] in _FIRST else len(_FIRST))
        measures = [_measure(key, scores[key], columns) for key in order]
        if columns:
            found.append(
                {
                    "stage": stage,
                    "columns": [(key, _NAMES.get(key, key)) for key in columns],
                    "measures": measures,
                    "intervals": any(interval for measure in measures for _, interval, _ in measure["cells"]),
                    "samples": _in_turn(_sample(row, columns) for row in samples),
                }
            )
    return found


def change(result: Any, *names: str) -> Record:
    """The first of these measures of a stage that has a value before and one after, as a `_measure`; else empty."""
    scores = _before_and_after(result)
    for name in names:
        if {"before", "after"} <= scores.get((name, ""), {}).keys():
            return _measure((name, ""), scores[name, ""], ["before", "after"])
    return {}


Cell = tuple[float, float | None, float | None]
"""A value with the ends of its interval, None where it has none."""
Key = tuple[str, str]
"""(measure, language); "" for all languages together."""


def _scores(result: Record) -> dict[Key, dict[str, Cell]]:
    models = branch(result, "models")
    if not models:
        return _before_and_after(result)
    scores: dict[Key, dict[str, Cell]] = {}
    for model in models:
        figures = branch(models, model)
        for name in figures:
            for key, value in _values(name, figures[name]):
                if (cell := _cell(key, value, result, number(figures, f"{name}_pairs"))) is not None:
                    scores.setdefault(key, {})[model] = cell
    return scores


def _before_and_after(result: Any) -> dict[Key, dict[str, Cell]]:
    scores: dict[Key, dict[str, Cell]] = {}
    for name in result if isinstance(result, dict) else ():
        record = branch(result, name)
        for when in ("before", "after"):
            if when not in record:
                continue
            value = record[when]
            # One interval beside two values belongs to the one that was worked for.
            if when == "after" and number(record, when) is not None and "interval" in record:
                value = {"value": value, "interval": record["interval"]}
            if (cell := _cell((name, ""), value, result, number(record, "held_out"))) is not None:
                scores.setdefault((name, ""), {})[when] = cell
    return scores


def _values(name: str, value: Any) -> Iterable[tuple[Key, Any]]:
    """A figure, or the figures per language under it."""
    if name in ("topic", "description") and isinstance(value, dict):
        return [((name, language), value[language]) for language in value]
    return [((name, ""), value)]


def _cell(key: Key, value: Any, result: Any, counted: float | None) -> Cell | None:
    found = number({"value": value}, "value")
    for name in ("value", "accuracy", "chrf", key[0]):
        found = number(value, name) if found is None else found
    if found is None:
        return None
    interval = dig(value, "interval")
    if isinstance(interval, list) and len(interval) == 2:
        low, high = number({"low": interval[0]}, "low"), number({"high": interval[1]}, "high")
        if low is not None and high is not None and low <= high:
            return float(found), float(low), float(high)
    held_out = number(value, "held_out") or number(value, "pairs") or counted
    if key[0] in ("accuracy", "pair_accuracy"):
        held_out = held_out or number(result, "pairs", "held_out")
    if key[0] == "success":
        held_out = held_out or number(result, "prompts", "held_out")
    if key[0] in _SHARES and held_out and 1 <= held_out < 2**53 and 0 <= found <= 1:
        from cadran.evaluate.classification import wilson_interval

        return (float(found), *wilson_interval(round(found * int(held_out)), int(held_out)))
    return float(found), None, None


def _measure(key: Key, cells: dict[str, Cell], columns: list[str]) -> Record:
    name, language = key
    share = name in (*_SHARES, "topic")
    title = {"topic": "Topic named right", "description": "Description, chrF"}.get(name) or _MEASURES.get(name)
    title = title or name.replace("_", " ").capitalize()[:60]
    best = _best(cells, lower=name in _LOWER) if share or name in _LOWER or name in ("description", "reward") else None
    hint = "lower is better" if name in _LOWER else ""

    def said(value: float) -> str:
        return percent(value) if share else decimal(value, 1) if name == "description" else plain(value)

    def ends(low: float, high: float) -> str:
        return f"{decimal(100 * low, 1)} to {decimal(100 * high, 1)}" if share else f"{said(low)} to {said(high)}"

    return {
        "name": f"{title}, {language_name(language)}" if language else title,
        "hint": hint,
        "cells": [_shown(cells.get(column), said, ends, column == best) for column in columns],
    }


def _shown(
    cell: Cell | None, said: Callable[[float], str], ends: Callable[[float, float], str], best: bool
) -> tuple[str, str, bool]:
    if cell is None:
        return "–", "", False
    value, low, high = cell
    return said(value), "" if low is None or high is None else ends(low, high), best


def _best(cells: Mapping[str, Cell], *, lower: bool) -> str | None:
    """The model whose interval lies beyond all the others'."""
    known = [(model, low, high) for model, (_, low, high) in cells.items() if low is not None and high is not None]
    if len(known) < 2 or len(known) < len(cells):
        return None
    for model, low, high in known:
        others = [(a, b) for other, a, b in known if other != model]
        if all(high < a if lower else low > b for a, b in others):
            return model
    return None


def _sample(row: Record, columns: list[str]) -> Record:
    answers, expected = branch(row, "answers"), str(row.get("expected") or "")
    given = [(column, str(answers[column] or "")) for column in columns if column in answers]
    return {
        "prompt": _conversation(row.get("prompt")),
        "language": str(row.get("language") or "und"),
        "task": str(row.get("task") or ""),
        "expected": expected,
        "answers": [
            (_NAMES.get(column, column), text.strip(), bool(expected) and text.strip() == expected.strip())
            for column, text in given
        ],
    }


def _conversation(prompt: Any) -> str:
    if not isinstance(prompt, list):
        return str(prompt or "")
    return "\n\n".join(str(dig(turn, "content") or "") for turn in prompt)


def _in_turn(samples: Iterable[Record]) -> list[Record]:
    """One of each task and language, then a second of each: whoever reads a few of them sees all kinds."""
    rounds: Counter[tuple[str, str]] = Counter()
    placed = []
    for sample in samples:
        kind = sample["language"], sample["task"]
        rounds[kind] += 1
        placed.append((rounds[kind], sample))
    return [sample for _, sample in sorted(placed, key=lambda pair: pair[0])]
