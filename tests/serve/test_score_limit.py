"""Log-probabilities are most of what a request keeps: how many one may have."""

import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from live import LiveServer
from tiny import tiny_model, tiny_tokenizer

from cadran.engine.request import Scored
from cadran.serve.answering import JSON
from cadran.serve.api_error import ApiError
from cadran.serve.asked import GenerateRequest
from cadran.serve.collected import Answer, Collected
from cadran.serve.events import Used
from cadran.serve.generation import Generation
from cadran.serve.openai.chat_answer import ChatHead, chat_body
from cadran.serve.score_limit import LEAST, MOST, limit_scores


@dataclass
class Planned:
    """A generation that was not started."""

    request: GenerateRequest
    prompt_tokens: int
    room: int


@given(
    st.lists(st.tuples(st.integers(1, 100_000), st.integers(1, 200_000)), min_size=1, max_size=5),
    st.integers(1, 128),
    st.integers(0, 20),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_no_request_keeps_more_than_is_allowed(
    sizes: list[tuple[int, int]], answers: int, top: int, logprobs: bool, prompts: bool, stated: bool
) -> None:
    begun = [
        GenerateRequest(
            "m", prompt="a", answers=answers, top=top, logprobs=logprobs, prompt_logprobs=prompts,
            max_tokens=room if stated else None,
        )
        for _, room in sizes
    ]  # fmt: skip
    planned = [Planned(request, prompt, room) for request, (prompt, room) in zip(begun, sizes, strict=True)]
    try:
        limit_scores(cast(list[Generation], planned))
    except ApiError as error:
        assert error.kind == "invalid" and error.param in ("max_tokens", "prompt_logprobs")
        return
    kept = sum(
        plan.prompt_tokens * prompts + plan.room * answers * (logprobs or top > 0) for plan in planned
    ) * (1 + top)  # fmt: skip
    assert kept <= MOST or not (logprobs or top or prompts)
    for plan, (_, room) in zip(planned, sizes, strict=True):
        assert plan.room == room if stated else plan.room >= min(room, LEAST)


def test_the_answer_that_keeps_most_takes_less_than_a_hundred_megabytes() -> None:
    tokenizer, top = tiny_tokenizer(), 20
    head = ChatHead("id", 0, "m", None, top, tokenizer)
    tracemalloc.start()
    try:
        answer = Answer(text="a")
        for number in range(MOST // (1 + top)):
            likeliest = tuple((number % 300 + other, -1.25 - other / 7 - number / 3) for other in range(top))
            answer.tokens.append(Scored(number % 300, -0.1 - number / 7, likeliest))
        told = JSON(chat_body(head, Collected([answer], {}, Used())))
        assert len(told.body) > 10_000_000
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose context holds more log-probabilities than are kept."""
    return tiny_model(tmp_path_factory.mktemp("long") / "tiny", context=20_000, layers=1)


def test_too_many_are_refused_with_what_to_ask_for_instead(long: Path) -> None:
    live = LiveServer(models=[str(long)])
    chat: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "logprobs": True}
    try:

        def refused(path: str, **body: Any) -> dict[str, Any]:
            answer = httpx.post(live.url + path, json=body)
            assert answer.status_code == 400, answer.text
            return dict(answer.json()["error"])

        for stream in (False, True):
            huge = refused(
                "/v1/chat/completions", **chat, n=128, top_logprobs=20, max_tokens=100_000_000, stream=stream
            )
            assert huge["param"] == "max_tokens" and "max_tokens of 74 or less" in huge["message"]
        assert "max_tokens of 74 " in refused("/v1/chat/completions", **chat, n=128, top_logprobs=20)["message"]
        fits = httpx.post(
            f"{live.url}/v1/chat/completions",
            json={**chat, "n": 128, "top_logprobs": 20, "max_tokens": 3, "ignore_eos": True},
            timeout=60,
        )
        choices = fits.json()["choices"]
        assert len(choices) == 128 and len(choices[-1]["logprobs"]["content"][0]["top_logprobs"]) == 20
        prompts = [list(range(300)) * 30] * 12
        wrong = refused("/v1/completions", model="tiny", prompt=prompts, max_tokens=1, prompt_logprobs=5)
        assert wrong["param"] == "prompt_logprobs"
        # Without a stated length an answer has as much room as fits, and none is refused.
        with httpx.stream(
            "POST", f"{live.url}/v1/chat/completions", json={**chat, "top_logprobs": 20, "stream": True}
        ) as answer:
            assert answer.status_code == 200
            rooms = live.call(lambda: [exchange.room for exchange in live.service.exchanges])
            assert rooms in ([], [MOST // 21])
        # What asks for none is not limited.
        many = {**chat, "logprobs": False, "n": 100, "max_tokens": 19_000, "stop": ["a", "e", " "]}
        with httpx.stream("POST", f"{live.url}/v1/chat/completions", json={**many, "stream": True}) as answer:
            assert answer.status_code == 200
    finally:
        live.close()
