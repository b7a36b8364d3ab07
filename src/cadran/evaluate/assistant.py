"""How well an assistant does the tasks it was taught, on documents it never saw: topics and one-line descriptions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cadran.engine.completion import Completion
from cadran.engine.engine import Engine
from cadran.engine.sampler import SamplingParams
from cadran.errors import UserError
from cadran.evaluate.chrf import chrf
from cadran.evaluate.classification import accuracy, majority_accuracy, wilson_interval

AT_ONCE = 32
"""Questions that are answered together; no answer depends on it."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its ground truth.

    Attributes:
        language: ISO 639-1 code.
        prompt: what is asked.
        expected: the right answer.
        baseline: an answer that needs no model, for comparison; empty when there is none.
    """

    language: str
    prompt: str
    expected: str
    baseline: str = ""


def answer(engine: Engine, prompt: str, max_tokens: int, temperature: float = 0.0, seed: int = 0) -> str:
    """The engine's answer to one question, most likely tokens by default."""
    params = SamplingParams(temperature=temperature, max_tokens=max_tokens, seed=seed)
    return engine.chat([{"role": "user", "content": prompt}], params).text.strip()


def answers(
    engine: Engine, questions: Sequence[Question], max_tokens: int, progress: Callable[[int], None]
) -> list[str]:
    """Answers to all questions, several at a time; one that does not fit in the context counts as an empty answer."""
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens)
    given: list[str] = []
    for start in range(0, len(questions), AT_ONCE):
        begun: list[Completion | None] = []
        for asked in questions[start : start + AT_ONCE]:
            try:
                begun.append(engine.chat([{"role": "user", "content": asked.prompt}], params))
            except UserError:
                begun.append(None)
        given += ["" if completion is None else completion.text.strip() for completion in begun]
        progress(len(given))
    return given


def topic_scores(questions: Sequence[Question], given: Sequence[str]) -> dict[str, Any]:
    """Exact-match accuracy per language with its 95 % interval, beside always answering the commonest topic."""
    scores = {}
    for language in sorted({q.language for q in questions}):
        pairs = [(g, q.expected) for q, g in zip(questions, given, strict=True) if q.language == language]
        predicted, expected = [g for g, _ in pairs], [e for _, e in pairs]
        right = sum(g == e for g, e in pairs)
        scores[language] = {
            "accuracy": accuracy(predicted, expected),
            "interval": list(wilson_interval(right, len(pairs))),
            "majority": majority_accuracy(expected),
            "held_out": len(pairs),
        }
    return scores


def description_scores(questions: Sequence[Question], given: Sequence[str]) -> dict[str, Any]:
    """chrF per language (0 to 100, higher is better) beside that of the baseline answers."""
    scores = {}
    for language in sorted({q.language for q in questions}):
        rows = [(g, q.baseline, q.expected) for q, g in zip(questions, given, strict=True) if q.language == language]
        expected = [e for _, _, e in rows]
        scores[language] = {
            "chrf": chrf([g for g, _, _ in rows], expected),
            "baseline_chrf": chrf([b for _, b, _ in rows], expected),
            "held_out": len(rows),
        }
    return scores
