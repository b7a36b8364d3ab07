"""Clients that leave: while the prompt is read, while the answer is written, in the queue; whole and streamed.

And clients that wait: what they are told first, and what keeps their connection (api-contracts 0, 1.3 and 12.6).
"""

import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from contract_families import WAYS, Way
from live import LiveServer, asking, until
from paced import Paced
from tiny import tiny_model

from cadran.serve import answering

READING = "z" * 6000
"""A prompt that is read in a dozen steps."""
STEP = 0.025
"""Seconds that a step takes at least."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("paced") / "tiny", context=16_384)


@pytest.fixture(scope="module")
def paced() -> Paced:
    return Paced(STEP)


@pytest.fixture(scope="module")
def live(folder: Path, paced: Paced) -> Iterator[LiveServer]:
    live = LiveServer(paced, models=[str(folder)])
    httpx.post(f"{live.url}/models/load", json={"model": "tiny"}).raise_for_status()
    yield live
    live.close()


def turns(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def body_of(path: str, text: str, tokens: int) -> dict[str, Any]:
    """A request with a prompt, for an answer of so many tokens."""
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": turns(text), "max_tokens": tokens, "ignore_eos": True},
        "/v1/completions": {"prompt": [text, text], "max_tokens": tokens, "ignore_eos": True},
        "/v1/responses": {"input": text, "max_output_tokens": tokens, "temperature": 0},
        "/v1/messages": {"messages": turns(text), "max_tokens": tokens, "temperature": 0},
        "/api/chat": {"messages": turns(text), "options": {"num_predict": tokens, "temperature": 0}},
        "/api/generate": {"prompt": text, "options": {"num_predict": tokens, "temperature": 0}},
        "/infill": {"input_prefix": text, "input_suffix": ")", "n_predict": tokens, "temperature": 0},
        "/completion": {"prompt": text, "n_predict": tokens, "ignore_eos": True},
        "/v1/fim/completions": {"prompt": text, "suffix": ")", "max_tokens": tokens},
    }
    return {"model": "tiny", **bodies[path]}


PATHS = [
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/api/chat", "/api/generate",
    "/infill", "/completion", "/v1/fim/completions",
]  # fmt: skip
EVERY = pytest.mark.parametrize("path", PATHS)
BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def left(live: LiveServer) -> tuple[int, int, list[int]]:
    """Places taken, requests waiting, users of the models."""
    service = live.service
    return live.call(
        lambda: (
            service.admission.running,
            service.admission.waiting,
            [served.users for served in service.shelf.served],
        )
    )


def blocks(live: LiveServer) -> int:
    return int(live.call(lambda: live.service.shelf.served[0].engine.statistics.blocks_used))


@BOTH
@EVERY
@pytest.mark.parametrize("phase", ["reading", "writing"])
def test_who_leaves_is_not_computed_for(live: LiveServer, paced: Paced, path: str, stream: bool, phase: str) -> None:
    live.settle()
    begun = paced.steps
    text = f"{path} {stream} {READING}" if phase == "reading" else path  # nothing of it is remembered
    try:
        with asking(live, path, {**body_of(path, text, 3000), "stream": stream}):
            until(lambda: paced.steps >= begun + (2 if phase == "reading" else 6))
            paced.hold.clear()  # the step under way goes on when the news has arrived
            gone = paced.steps
        until(lambda: left(live) == (0, 0, [0]))
    finally:
        paced.hold.set()
    until(lambda: blocks(live) == 0)
    time.sleep(3 * STEP)
    assert paced.steps - gone <= 1, "it was computed on"


@pytest.fixture(scope="module")
def single(folder: Path) -> Iterator[tuple[LiveServer, Paced]]:
    """A server with one place."""
    paced = Paced()
    live = LiveServer(paced, models=[str(folder)], parallel=1)
    httpx.post(f"{live.url}/models/load", json={"model": "tiny"}).raise_for_status()
    yield live, paced
    live.close()


@BOTH
@EVERY
def test_who_leaves_the_queue_is_never_computed_for(single: tuple[LiveServer, Paced], path: str, stream: bool) -> None:
    live, paced = single
    paced.hold.clear()  # somebody has the place for as long as nothing goes on
    try:
        with asking(live, "/v1/chat/completions", body_of("/v1/chat/completions", "first", 2)) as first:
            until(lambda: left(live)[0] == 1)
            with asking(live, path, {**body_of(path, "second", 3000), "stream": stream}):
                until(lambda: left(live)[1] >= 1)
            until(lambda: left(live)[1] == 0)  # nothing else could end its waiting: the first goes not on
            assert left(live)[0] == 1
            begun = paced.steps
            paced.hold.set()
            assert first.recv(12) == b"HTTP/1.1 200"
        until(lambda: left(live) == (0, 0, [0]))
        assert paced.steps - begun <= 4, "the second was computed"
    finally:
        paced.hold.set()


OPENINGS = {
    "/v1/chat/completions": b'"role":"assistant"',
    "/v1/responses": b"event: response.created",
    "/v1/fim/completions": b'"role":"assistant"',
}


@pytest.mark.parametrize("path", OPENINGS)
def test_the_first_chunk_comes_before_the_prompt_is_read(live: LiveServer, paced: Paced, path: str) -> None:
    live.settle()
    paced.hold.clear()
    try:
        with asking(live, path, {**body_of(path, f"once {path}", 2), "stream": True}) as connection:
            said = b""
            while OPENINGS[path] not in said:
                piece = connection.recv(65536)
                assert piece, said
                said += piece
            assert b"HTTP/1.1 200" in said
    finally:
        paced.hold.set()
    live.settle()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_clients_read_over_what_keeps_their_connection(
    live: LiveServer, paced: Paced, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "PING_SECONDS", STEP / 4)
    monkeypatch.setattr("cadran.serve.followed.PING_SECONDS", STEP / 4)
    live.settle()
    said = way.ask(live.url, True, 3, ())
    assert said.written is not None and 0 < said.written <= 3


def read_over_pings(paced: Paced, ask: Callable[[], AbstractContextManager[httpx.Response]]) -> str:
    """A stream; its prompt is not read before two comments have come."""
    paced.hold.clear()
    try:
        with ask() as answer:
            text = ""
            for piece in answer.iter_text():
                text += piece
                if text.count(": ping\n") >= 2:
                    paced.hold.set()
    finally:
        paced.hold.set()
    return text


@EVERY
def test_a_stream_is_kept_alive_by_comments_and_a_line_of_json_by_nothing(
    live: LiveServer, paced: Paced, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "PING_SECONDS", STEP / 4)
    live.settle()
    asked = {**body_of(path, "once", 4), "stream": True}
    if path.startswith("/api"):
        answer = httpx.post(live.url + path, json=asked, timeout=60)
        assert all(json.loads(line) for line in answer.content.removesuffix(b"\n").split(b"\n"))
    else:
        text = read_over_pings(paced, lambda: httpx.stream("POST", live.url + path, json=asked, timeout=60))
        pings = [record for record in text.split("\n\n") if record.startswith((":", "event: ping"))]
        assert set(pings) <= {": ping", 'event: ping\ndata: {"type":"ping"}'} and len(pings) >= 2


def test_a_prediction_s_stream_is_kept_alive_too(
    live: LiveServer, paced: Paced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cadran.serve.followed.PING_SECONDS", STEP / 4)
    live.settle()
    asked = {"input": {"prompt": "once", "max_tokens": 4}, "stream": True}
    paced.hold.clear()
    try:
        made = httpx.post(f"{live.url}/v1/models/cadran/tiny/predictions", json=asked).raise_for_status().json()
        told = read_over_pings(paced, lambda: httpx.stream("GET", made["urls"]["stream"], timeout=60)).split("\n\n")
    finally:
        paced.hold.set()
    assert told.count(": ping") >= 2 and told[-2].startswith("event: done\n")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/fim/completions"])
def test_a_connection_that_is_reset_after_the_end_is_no_failure(
    live: LiveServer, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    live.settle()
    outcomes: list[str] = []
    listener = lambda computed: outcomes.append(computed.outcome)  # noqa: E731
    live.call(lambda: live.service.listeners.append(listener))
    try:
        with caplog.at_level("WARNING"), asking(live, path, {**body_of(path, "bye", 2), "stream": True}) as connection:
            said = b""
            while b"[DONE]" not in said:
                said += connection.recv(65536)
            # Closing it now sends a reset rather than an end.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        live.settle()
        until(lambda: outcomes)
    finally:
        live.call(lambda: live.service.listeners.remove(listener))
    assert outcomes == ["done"] and not [record for record in caplog.records if record.name.startswith("cadran")]
    assert httpx.get(f"{live.url}/health").status_code == 200
