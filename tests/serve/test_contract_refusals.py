"""Each reason to refuse, in the status and the form of each family, whole and streamed (api-contracts 0, 1.4, 12.9)."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from contract_families import MESSAGES, QUESTION, SUFFIX
from live import LiveServer

from cadran.engine.engine import Engine
from cadran.serve.known_model import KnownModel
from cadran.serve.state.api_key import add_key

LONG = "漢" * 300
"""Thrice as many tokens, more than the context of 512 holds."""


@dataclass(frozen=True, slots=True)
class Door:
    """A path that computes something.

    Attributes:
        family: whose form its refusals have.
        path: of it, with the model's name where that is not in the body.
        body: of a request that is answered.
        long: what makes the prompt of it too long; None where it is shortened by the API's own rules.
        streams: whether it can be streamed.
        missing: status for a model that is not there.
    """

    family: str
    path: str
    body: dict[str, Any]
    long: dict[str, Any] | None
    streams: bool = True


TURNS = [{"role": "user", "content": LONG}]
DOORS = [
    Door("openai", "/v1/chat/completions", {"messages": MESSAGES}, {"messages": TURNS}),
    Door("openai", "/v1/completions", {"prompt": QUESTION}, {"prompt": LONG}),
    Door("openai", "/v1/responses", {"input": QUESTION}, {"input": LONG}),
    Door("openai", "/v1/embeddings", {"input": QUESTION}, {"input": LONG}, streams=False),
    Door("openai", "/v1/rerank", {"query": "a", "documents": ["b"]}, {"documents": [LONG]}, streams=False),
    Door(
        "openai",
        "/v1/decisions",
        {"input": QUESTION, "questions": [{"type": "predicate", "instructions": "a"}]},
        {"input": LONG},
        streams=False,
    ),
    Door("anthropic", "/v1/messages", {"messages": MESSAGES, "max_tokens": 3}, {"messages": TURNS}),
    Door("replicate", "/v1/models/cadran/{}/predictions", {"input": {"prompt": QUESTION}}, {"input": {"prompt": LONG}}),
    Door("ollama", "/api/chat", {"messages": MESSAGES, "stream": False}, {"messages": TURNS}),
    Door("ollama", "/api/generate", {"prompt": QUESTION, "stream": False}, {"prompt": LONG}),
    Door("ollama", "/api/embed", {"input": QUESTION}, {"input": LONG}, streams=False),
    Door("ide", "/completion", {"prompt": QUESTION, "n_predict": 3}, {"prompt": LONG}),
    Door("ide", "/infill", {"input_prefix": QUESTION, "input_suffix": SUFFIX, "n_predict": 3}, None),
    Door("ide", "/v1/fim/completions", {"prompt": QUESTION, "suffix": SUFFIX, "max_tokens": 3}, None),
]
EVERY = pytest.mark.parametrize("door", DOORS, ids=[door.path for door in DOORS])
BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
FULL = {"openai": 429, "ide": 429, "anthropic": 529, "replicate": 429, "ollama": 503}
TYPES = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def asked(url: str, door: Door, model: str = "tiny", stream: bool = False, **more: Any) -> httpx.Response:
    """Ask; what is wrong is said before the first byte of an answer."""
    body = {"model": model, **door.body, **more} | ({"stream": True} if stream else {})
    headers = {"prefer": "wait"} if door.family == "replicate" and not stream else {}
    return httpx.post(url + door.path.format(model), json=body, headers=headers, timeout=60)


def said(answer: httpx.Response, family: str, status: int) -> str:
    """The sentence of a refusal, once its form is found to be the family's."""
    assert answer.status_code == status, answer.text
    assert answer.headers["x-request-id"] and answer.headers["openai-processing-ms"].isdigit()
    content = answer.json()
    match family:
        case "anthropic":
            kind = "overloaded_error" if status == 529 else "request_too_large" if status == 413 else TYPES[status]
            assert content["type"] == "error" and content["error"]["type"] == kind
            assert content["request_id"] == answer.headers["request-id"] == answer.headers["x-request-id"]
            message = content["error"]["message"]
        case "replicate":
            assert content.keys() == {"title", "detail", "status"} and content["status"] == status and content["title"]
            assert answer.headers["content-type"] == "application/problem+json"
            message = content["detail"]
        case "ollama":
            assert content.keys() == {"error"}
            message = content["error"]
        case _:
            error = content["error"]
            assert error.keys() == {"message", "type", "param", "code"}
            assert error["type"] == TYPES.get(status, "invalid_request_error")
            message = error["message"]
    assert isinstance(message, str) and message and "\n" not in message
    return message


@contextmanager
def refusing(tiny: Path, **settings: Any) -> Iterator[LiveServer]:
    live = LiveServer(models=[str(tiny)], **settings)
    try:
        yield live
    finally:
        live.close()


@pytest.fixture(scope="module")
def full(tiny: Path) -> Iterator[LiveServer]:
    """Somebody has the only place, and nobody may wait for it."""
    with refusing(tiny, parallel=1, queue=0) as live:
        httpx.post(f"{live.url}/models/load", json={"model": "tiny"})
        live.call(live.service.admission._begin)
        yield live
        live.call(live.service.admission.leave)


@pytest.fixture(scope="module")
def small(tiny: Path) -> Iterator[LiveServer]:
    with refusing(tiny, body_limit=1000) as live:
        yield live


@pytest.fixture(scope="module")
def locked(tiny: Path) -> Iterator[LiveServer]:
    with refusing(tiny) as live:
        with live.service.database.session() as session:
            add_key(session, "anna")
        yield live


@BOTH
@pytest.mark.parametrize("door", [door for door in DOORS if door.long], ids=lambda door: door.path)
def test_what_exceeds_the_context_is_refused_with_both_numbers(server: LiveServer, door: Door, stream: bool) -> None:
    assert door.long is not None
    if stream and (not door.streams or door.family == "replicate"):
        return  # a prediction that nobody waits for is created, and fails
    answer = asked(server.url, door, stream=stream, **door.long)
    message = said(answer, door.family, 400)
    wanted, there = sorted((int(number) for number in re.findall(r"\b\d{3,}\b", message)), reverse=True)[:2]
    assert 900 <= wanted < 1200 and there in (511, 512), message
    if door.family == "openai":
        assert answer.json()["error"]["code"] == "context_length_exceeded"


@BOTH
@EVERY
def test_a_model_that_is_not_there_is_404_with_those_that_are(server: LiveServer, door: Door, stream: bool) -> None:
    answer = asked(server.url, door, model="nobody", stream=stream and door.streams)
    assert "tiny" in said(answer, door.family, 404)
    if door.family in ("openai", "ide"):
        assert answer.json()["error"]["code"] == "model_not_found"


@BOTH
@EVERY
def test_a_full_queue_has_the_familys_status(full: LiveServer, door: Door, stream: bool) -> None:
    answer = asked(full.url, door, stream=stream and door.streams)
    said(answer, door.family, FULL[door.family])
    assert int(answer.headers["retry-after"]) >= 1


@EVERY
def test_a_body_that_is_no_json_or_too_large_is_the_clients_fault(small: LiveServer, door: Door) -> None:
    url = small.url + door.path.format("tiny")
    for content in (b'{"model": "tiny",', b"\xff\xfe", b""):
        answer = httpx.post(url, content=content, headers={"content-type": "application/json"})
        if door.family == "replicate" and not content:  # an object without its fields
            assert answer.status_code in (400, 422)
        else:
            said(answer, door.family, 400)
    assert "1000" in said(httpx.post(url, json={"model": "z" * 2000}), door.family, 413)


@EVERY
def test_without_a_key_nothing_is_computed(locked: LiveServer, door: Door) -> None:
    assert "cadran keys add" in said(asked(locked.url, door), door.family if door.family != "ide" else "openai", 401)


def test_answers_and_streams_are_named_and_timed(server: LiveServer) -> None:
    for door in DOORS:
        for stream in (False, True):
            if stream and not door.streams:
                continue
            answer = asked(server.url, door, stream=stream, max_tokens=3)
            assert answer.is_success, (door.path, answer.text)
            assert answer.headers["x-request-id"] and answer.headers["openai-processing-ms"].isdigit(), door.path
            if not stream and door.path not in ("/v1/rerank",):
                assert answer.headers["server-timing"].startswith("queue;dur="), door.path


@pytest.fixture(scope="module")
def failing(tiny: Path) -> Iterator[LiveServer]:
    """A server whose engine has a defect."""

    def broken(known: KnownModel) -> Engine:
        engine = Engine.load(known.path)

        def failed(*_: Any) -> Any:
            raise RuntimeError("a defect")

        engine.runner.step = engine.runner.burst = failed  # type: ignore[method-assign, attr-defined]
        return engine

    live = LiveServer(broken, models=[str(tiny)])
    yield live
    live.close()


def test_a_failure_that_would_repeat_itself_is_not_asked_for_again(
    failing: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, begun = failing.service.begin, []

    async def counted(*requests: Any) -> Any:
        begun.append(requests)
        return await begin(*requests)

    monkeypatch.setattr(failing.service, "begin", counted)
    patient: Any = openai.OpenAI(base_url=f"{failing.url}/v1", api_key="none", max_retries=2)
    calls = [
        lambda: patient.chat.completions.create(model="tiny", messages=MESSAGES),
        lambda: patient.completions.create(model="tiny", prompt="a"),
        lambda: patient.responses.create(model="tiny", input="a"),
    ]
    for call in calls:
        with pytest.raises(openai.InternalServerError) as failed:
            call()
        assert failed.value.response.headers["x-should-retry"] == "false" and failed.value.type == "server_error"
        assert "defect" not in str(failed.value)
    other: Any = anthropic.Anthropic(base_url=failing.url, api_key="none", max_retries=2)
    with pytest.raises(anthropic.InternalServerError) as refused:
        other.messages.create(model="tiny", messages=MESSAGES, max_tokens=3)
    assert refused.value.response.headers["x-should-retry"] == "false" and refused.value.type == "api_error"
    assert len(begun) == len(calls) + 1, "it was asked again"


@pytest.mark.parametrize(
    ("path", "body", "mark"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}, 'data: {"error":{"message":'),
        ("/v1/completions", {"prompt": "a"}, 'data: {"error":{"message":'),
        ("/v1/responses", {"input": "a"}, "event: response.failed\n"),
        ("/v1/messages", {"messages": MESSAGES}, "event: error\n"),
        ("/api/chat", {"messages": MESSAGES}, '{"error":"the engine failed'),
        ("/api/generate", {"prompt": "a"}, '{"error":"the engine failed'),
        ("/infill", {"input_prefix": "a"}, 'data: {"error":{"message":'),
        ("/completion", {"prompt": "a"}, 'data: {"error":{"message":'),
        ("/v1/fim/completions", {"prompt": "a"}, 'data: {"error":{"message":'),
    ],
)
def test_a_failure_within_a_stream_has_the_familys_form(
    failing: LiveServer, path: str, body: dict[str, Any], mark: str
) -> None:
    answer = httpx.post(failing.url + path, json={"model": "tiny", "max_tokens": 3, **body, "stream": True})
    assert answer.status_code == 200
    last = [record for record in answer.text.split("\n\n") if record.strip()][-1].splitlines(keepends=True)
    assert "".join(last if path.startswith("/v1/responses") or path == "/v1/messages" else last[-1:]).startswith(mark)
    assert "a defect" not in answer.text and "[DONE]" not in answer.text
    record = json.loads(last[-1].removeprefix("data: "))
    if path == "/v1/responses":
        assert record["response"]["status"] == "failed" and record["response"]["error"]["code"]
    failing.settle()
