"""Conversations of megabytes: whoever asks something else meanwhile does not wait for them."""

import gc
import json
import re
import threading
import time
from collections.abc import Iterator
from typing import Annotated, Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from live import LiveServer
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from cadran.serve.large_body import MANY, piecewise

TURNS = [{"role": ("user", "assistant")[number % 2], "content": "x" * 60} for number in range(50_001)]
PARTS = [{**turn, "content": [{"type": "text", "text": "x" * 30}]} for turn in TURNS]
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "openai": ("/v1/chat/completions", {"messages": PARTS}),
    "openai, one of many parts": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x" * 60}] * 50_000}]},
    ),
    "responses": ("/v1/responses", {"input": TURNS, "store": False}),
    "anthropic": ("/v1/messages", {"messages": PARTS, "max_tokens": 3}),
    "ollama": ("/api/chat", {"messages": TURNS}),
    "openai, one long text": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "la rivière " * 400_000}]},
    ),
}


@pytest.fixture(scope="module")
def asked(server: LiveServer) -> Iterator[httpx.Client]:
    gc.collect()
    gc.freeze()  # what lies about in the process of the tests, none of it the server's, is not to be looked through
    with httpx.Client(base_url=server.url, timeout=60) as client:
        client.post("/v1/embeddings", json={"input": "a"})  # until a model is open /health says so
        yield client
    gc.unfreeze()


def worst_wait(client: httpx.Client, path: str, body: bytes) -> tuple[float, float, httpx.Response]:
    """Seconds that ``/health`` took at most while a request was answered, and what that took.

    Of this process's own computing, in which the server runs: what the machine does elsewhere is no wait of ours.
    """
    answers: list[httpx.Response] = []
    headers = {"content-type": "application/json"}
    asking = threading.Thread(target=lambda: answers.append(client.post(path, content=body, headers=headers)))
    worst, begun = 0.0, time.process_time()
    with httpx.Client(base_url=client.base_url, timeout=60) as other:
        other.get("/health")
        asking.start()
        while asking.is_alive():
            before = time.process_time()
            assert other.get("/health").status_code == 200
            worst = max(worst, time.process_time() - before)
    return worst, time.process_time() - begun, answers[0]


@pytest.mark.parametrize("name", BODIES)
def test_others_do_not_wait_for_a_long_conversation(asked: httpx.Client, name: str) -> None:
    path, content = BODIES[name]
    body = json.dumps({"model": "tiny", **content}).encode()
    assert len(body) > 3_000_000
    seen = []
    for _ in range(3):  # whoever asked may have had no processor while the others had one
        worst, whole, answer = worst_wait(asked, path, body)
        assert answer.status_code == 400, answer.text[:300]  # so much fits into no context
        seen.append((round(worst, 3), round(whole, 3)))
        if worst < max(0.25, whole / 6):  # where the processor is shared with others, all takes longer
            return
    pytest.fail(f"others waited {seen}")


@pytest.mark.parametrize("name", ["openai", "anthropic", "ollama"])
def test_what_is_wrong_in_a_large_body_is_told_as_in_a_small_one(asked: httpx.Client, name: str) -> None:
    path, content = BODIES[name]
    told = []
    for number in (1, 5_000):
        messages = [*content["messages"][:number], {"role": 7, "content": "x"}, *TURNS[:5]]
        answer = asked.post(path, json={"model": "tiny", **content, "messages": messages})
        assert answer.status_code == 400
        told.append(re.sub('"req_[0-9a-f]+"', '""', answer.text.replace(f"messages.{number}.", "messages.N.")))
    assert told[0] == told[1] and "messages.N.role" in told[0]
    for wrong in (b'{"messages": [' + b" " * (1 << 20) + b"}", b"[" * 300_000, b'"' + b"a" * 300_000 + b'"'):
        answer = asked.post(path, content=wrong, headers={"content-type": "application/json"})
        assert answer.status_code == 400, answer.text


def test_a_large_body_is_read_as_a_small_one(asked: httpx.Client) -> None:
    small = {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "max_tokens": 4, "temperature": 0}
    large = {**small, "unknown": "x" * 300_000}
    answers = [asked.post("/v1/chat/completions", json=body).json()["choices"] for body in (small, large)]
    assert answers[0] == answers[1]


class Entry(BaseModel):
    """Of a list."""

    number: int
    words: list[str] = []


PLAIN = TypeAdapter(Annotated[list[Entry], Field(fail_fast=True, min_length=1)])
PIECEWISE = TypeAdapter(Annotated[list[Entry], Field(fail_fast=True, min_length=1), piecewise(Entry)])


@given(
    st.lists(
        st.sampled_from([{"number": 1}, {"number": "2", "words": ["a"]}, {"number": "x"}, {}, None, 3]), max_size=3
    ),
    st.integers(0, 2 * MANY),
)
def test_piece_by_piece_a_list_is_what_it_is_at_once(odd: list[Any], fine: int) -> None:
    entries = [*[{"number": number} for number in range(fine)], *odd, {"number": -1}, {"number": "y"}][: fine + 4]

    def outcome(adapter: "TypeAdapter[list[Entry]]") -> Any:
        try:
            return adapter.validate_python(entries)
        except ValidationError as error:
            return [(each["loc"], each["type"], each["msg"]) for each in error.errors()]

    assert outcome(PLAIN) == outcome(PIECEWISE)
