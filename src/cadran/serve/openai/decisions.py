"""``POST /v1/decisions`` and ``POST /v1/systemone``: questions answered by probability, nothing is generated.

Source: api-contracts 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from cadran.serve.answering import JSON, until_gone
from cadran.serve.asked import GenerateRequest, Message
from cadran.serve.family import service_of
from cadran.serve.generation import render
from cadran.serve.large_body import BodyRoute, aside
from cadran.serve.lent import lent
from cadran.serve.openai.decisions_request import (
    Choice,
    DecisionsRequest,
    Noul,
    Predicate,
    Question,
    Score,
    SystemOneChoice,
    SystemOneRequest,
    SystemOneScore,
    asked_about,
)
from cadran.serve.openai.decisions_scoring import CandidateScores, score_candidates
from cadran.serve.service import Service

router = APIRouter(tags=["OpenAI"], route_class=BodyRoute)

METHOD = {
    "probabilities": "softmax over the exact log-probabilities of the candidates, each with the token that ends it",
    "score": "expected number of the level, from 0",
    "confidence": "probability of the likeliest candidate",
}


@dataclass(frozen=True, slots=True)
class _Decided:
    """The scores of all questions, and the name of the model."""

    model: str
    scores: list[CandidateScores]

    @property
    def tokens(self) -> int:
        return sum(score.tokens for score in self.scores)

    @property
    def cached(self) -> int:
        return sum(score.cached for score in self.scores)


@router.post("/v1/decisions")
async def create_decision(request: Request, body: DecisionsRequest) -> Response:
    """Answer questions about an input by probability."""
    messages = await aside(request, body.messages)
    questions = [question.question(f"questions.{number}") for number, question in enumerate(body.questions)]
    decided = await until_gone(request, _decide(service_of(request), body.model, messages, questions))
    answers = [
        _answer(question, score.probabilities) for question, score in zip(body.questions, decided.scores, strict=True)
    ]
    usage = {
        "input_tokens": decided.tokens,
        "input_tokens_details": {
            "cached_tokens": decided.cached,
            "cache_write_tokens": decided.tokens - decided.cached,
        },
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": decided.tokens,
    }
    return JSON({"model": decided.model, "answers": answers, "usage": usage, "metadata": METHOD})


@router.post("/v1/systemone")
async def create_system_one(request: Request, body: SystemOneRequest) -> Response:
    """Answer questions about a state by probability, in the words of Ollama."""
    questions = [question.question() for question in body.questions.values()]
    decided = await until_gone(request, _decide(service_of(request), body.model, body.messages(), questions))
    answers = {
        name: _system_one_answer(question, score.probabilities)
        for (name, question), score in zip(body.questions.items(), decided.scores, strict=True)
    }
    usage = {"input_tokens": decided.tokens, "output_tokens": 0}
    return JSON({"model": decided.model, "answers": answers, "usage": usage, "metadata": METHOD})


async def _decide(service: Service, model: str, messages: Sequence[Message], questions: Sequence[Question]) -> _Decided:
    """Score one question after the other: each begins with the input, which is read once."""
    async with lent(service, model) as loan:
        served, scores = loan.served, []
        for question in questions:
            asked = GenerateRequest(model, asked_about(messages, question), thinking=False)
            prompted = await render(asked, served)
            scores.append(await score_candidates(served.engine, prompted.ids, question.candidates))
            loan.read(scores[-1].tokens, scores[-1].cached)
        return _Decided(model or served.known.name, scores)


def _answer(question: Predicate | Choice | Score, probabilities: Sequence[float]) -> dict[str, Any]:
    answer: dict[str, Any] = {"type": question.type, "name": question.name}
    best = _likeliest(probabilities)
    match question:
        case Predicate():
            return answer | {"probability": probabilities[0]}
        case Choice():
            values = [choice.value for choice in question.choices]
            return answer | {
                "choice": values[best],
                "confidence": probabilities[best],
                "probabilities": [
                    {"value": value, "probability": probability}
                    for value, probability in zip(values, probabilities, strict=True)
                ],
            }
        case Score():
            return answer | {
                "score": _expected(probabilities),
                "confidence": probabilities[best],
                "probabilities": [
                    {"value": value, "label": level.label, "probability": probability}
                    for value, (level, probability) in enumerate(zip(question.levels, probabilities, strict=True))
                ],
            }


def _system_one_answer(
    question: Noul | SystemOneChoice | SystemOneScore, probabilities: Sequence[float]
) -> dict[str, Any]:
    best = _likeliest(probabilities)
    match question:
        case Noul():
            return {"type": "noul", "noul": probabilities[0]}
        case SystemOneChoice():
            values = list(question.criteria)
            return {
                "type": "choice",
                "choice": values[best],
                "probabilities": dict(zip(values, probabilities, strict=True)),
                "confidence": probabilities[best],
            }
        case SystemOneScore():
            numbers = [str(number) for number in range(len(probabilities))]
            return {
                "type": "score",
                "score": _expected(probabilities),
                "legend": dict(zip(numbers, question.criteria, strict=True)),
                "probabilities": dict(zip(numbers, probabilities, strict=True)),
                "confidence": probabilities[best],
            }


def _likeliest(probabilities: Sequence[float]) -> int:
    return max(range(len(probabilities)), key=probabilities.__getitem__)


def _expected(probabilities: Sequence[float]) -> float:
    return sum(number * probability for number, probability in enumerate(probabilities))
