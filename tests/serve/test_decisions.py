"""Decisions: what each answer's probability is, and that it is exactly the model's own."""

import json
import math
from pathlib import Path
from typing import Any

import httpx
import ollama
import openai
import pytest
from live import LiveServer

from cadran.engine.engine import Engine
from cadran.serve.openai.decisions_request import asked_about, one_of, yes_or_no

QUESTIONS: list[dict[str, Any]] = [
    {"type": "predicate", "instructions": "It is summer.", "name": "summer"},
    {
        "type": "choice",
        "instructions": "Which place?",
        "choices": [{"value": "river"}, {"value": "the big town", "description": "many houses"}, {"value": True}],
    },
    {"type": "score", "instructions": "How calm?", "levels": [{"label": "wild"}, {"label": "calm"}, {"label": "dead"}]},
]
INPUT = "In summer the river is calm; nobody fishes."


@pytest.fixture(scope="module")
def client(server: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def engine(tiny: Path) -> Any:
    with Engine.load(tiny) as engine:
        yield engine


def direct(engine: Engine, messages: Any, candidates: tuple[str, ...]) -> list[float]:
    """Probabilities by scoring every candidate with its whole prompt, one after the other."""
    assert engine.renderer is not None
    prompt = engine.renderer.render(messages, add_generation_prompt=True).ids
    totals = []
    for candidate in candidates:
        ids = [*prompt, *engine.tokenizer.encode(candidate), engine.renderer.stop_ids[0]]
        totals.append(sum(scored.logprob or 0.0 for scored in engine.score(ids)[len(prompt) :]))
    weights = [math.exp(total - max(totals)) for total in totals]
    return [weight / sum(weights) for weight in weights]


def test_probabilities_are_those_of_scoring_each_answer_alone(client: openai.OpenAI, engine: Engine) -> None:
    decision = client.decisions.create(model="tiny", input=INPUT, questions=QUESTIONS)
    predicate, choice, score = decision.answers
    told = [{"role": "user", "content": INPUT}]
    statement = yes_or_no("It is summer.")
    expected = direct(engine, asked_about(told, statement), statement.candidates)
    assert predicate.type == "predicate" and predicate.name == "summer"
    assert predicate.probability == pytest.approx(expected[0], abs=1e-4)
    options = one_of("Which place?", [("river", None), ("the big town", "many houses"), ("true", None)])
    expected = direct(engine, asked_about(told, options), options.candidates)
    assert choice.type == "choice" and choice.name is None
    assert [entry.probability for entry in choice.probabilities] == pytest.approx(expected, abs=1e-4)
    assert [entry.value for entry in choice.probabilities] == ["river", "the big town", True]
    assert choice.confidence == max(entry.probability for entry in choice.probabilities)
    best = max(choice.probabilities, key=lambda entry: entry.probability)
    assert choice.choice == best.value and type(choice.choice) is type(best.value)
    assert score.type == "score" and [entry.label for entry in score.probabilities] == ["wild", "calm", "dead"]
    assert sum(entry.probability for entry in score.probabilities) == pytest.approx(1)
    expectation = sum(entry.value * entry.probability for entry in score.probabilities)
    assert score.score == pytest.approx(expectation)
    usage = decision.usage
    assert usage.output_tokens == 0 and usage.total_tokens == usage.input_tokens > 0


def test_answers_do_not_depend_on_what_was_asked_before(client: openai.OpenAI) -> None:
    alone = [
        client.decisions.create(model="tiny", input=INPUT, questions=[question]).answers[0] for question in QUESTIONS
    ]
    together = client.decisions.create(model="tiny", input=INPUT, questions=QUESTIONS[::-1])
    for one, other in zip(alone, together.answers[::-1], strict=True):
        for name, value in one.to_dict().items():
            if isinstance(value, float):
                assert other.to_dict()[name] == pytest.approx(value, abs=1e-4)
    assert together.usage.input_tokens_details.cached_tokens > together.usage.input_tokens / 4


def test_conversation_is_judged_as_well_as_a_text(client: openai.OpenAI) -> None:
    conversation = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "input_text", "text": "1 + 1?"}, {"type": "input_json", "data": {"a": 1}}],
        },
        {"type": "function_call", "call_id": "c", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "2"},
        {"role": "assistant", "content": "2"},
    ]
    decision = client.decisions.create(model="tiny", input=conversation, questions=QUESTIONS[:1])
    assert 0 <= decision.answers[0].probability <= 1


def test_many_choices_run_in_batches(client: openai.OpenAI, engine: Engine) -> None:
    values = [f"v{number}" for number in range(70)]
    question = {"type": "choice", "instructions": "?", "choices": [{"value": value} for value in values]}
    answer = client.decisions.create(model="tiny", input="x", questions=[question]).answers[0]
    assert sum(entry.probability for entry in answer.probabilities) == pytest.approx(1)
    asked = one_of("?", [(value, None) for value in values])
    expected = direct(engine, asked_about([{"role": "user", "content": "x"}], asked), asked.candidates)
    assert [entry.probability for entry in answer.probabilities] == pytest.approx(expected, abs=1e-4)


def test_ollama_asks_in_its_own_words(server: LiveServer, client: openai.OpenAI) -> None:
    answer = ollama.Client(server.url).systemone(
        "tiny",
        {"text": "calm"},
        {
            "summer": {"type": "noul", "instructions": "It is summer.", "criteria": {"true": "warm", "false": "cold"}},
            "place": {"type": "choice", "instructions": "Where?", "criteria": {"river": "water", "town": "houses"}},
            "calm": {"type": "score", "instructions": "How calm?", "criteria": ["wild", "calm"]},
        },
    )
    summer, place, calm = answer.answers["summer"], answer.answers["place"], answer.answers["calm"]
    assert 0 <= summer.noul <= 1
    assert sum(place.probabilities.values()) == pytest.approx(1) and place.choice in ("river", "town")
    assert calm.legend == {"0": "wild", "1": "calm"} and calm.score == pytest.approx(calm.probabilities["1"])
    assert answer.usage.input_tokens > 0 and answer.usage.output_tokens == 0


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"questions": []}, "questions"),
        ({"questions": [{"type": "riddle"}]}, "questions.0"),
        ({"questions": [{"type": "choice", "instructions": "", "choices": [{"value": "a"}]}]}, None),
        (
            {"questions": [{"type": "choice", "instructions": "", "choices": [{"value": "a"}] * 2}]},
            "questions.0.choices",
        ),
        ({"input": [{"type": "computer_call"}]}, "input.0"),
        ({"input": "l'été " * 600}, None),
        ({"input": "\ud800"}, None),
        (
            {"questions": [{"type": "choice", "instructions": "", "choices": [{"value": "\ud800"}, {"value": "b"}]}]},
            None,
        ),
    ],
)
def test_wrong_question_is_400(server: LiveServer, change: dict[str, Any], param: str | None) -> None:
    body = json.dumps({"model": "tiny", "input": "x", "questions": QUESTIONS[:1], **change})
    answer = httpx.post(f"{server.url}/v1/decisions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert param is None or answer.json()["error"]["param"] == param
