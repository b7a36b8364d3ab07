"""What outlives the grace of a server that stops is told so, in the words of each family."""

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import LiveServer
from tiny import tiny_model

from cadran.serve.openai.responses_desk import ResponseDesk
from cadran.serve.state.database import Database
from cadran.serve.state.stored_response import StoredResponse

MESSAGES = [{"role": "user", "content": "Encore ?"}]
LONG = {"model": "tiny", "max_tokens": 90_000, "temperature": 0}  # greedy, this model never comes to an end
PREDICATES = [{"type": "predicate", "instructions": f"{number} " + "z" * 5000} for number in range(300)]
OLLAMA = {"model": "tiny", "messages": MESSAGES, "options": {"num_predict": -1, "temperature": 0}}
WHOLE: list[tuple[str, dict[str, Any], int]] = [
    ("/v1/chat/completions", {**LONG, "messages": MESSAGES}, 503),
    # Of these, most failures are the client's own.
    ("/v1/chat/completions", {**LONG, "messages": MESSAGES, "logit_bias": {"50": 1}}, 503),
    ("/v1/completions", {**LONG, "prompt": ["a", "b"]}, 503),
    ("/v1/messages", {**LONG, "messages": MESSAGES}, 529),
    ("/api/chat", {**OLLAMA, "stream": False}, 503),
    ("/v1/embeddings", {"model": "tiny", "input": [[number] * 3000 for number in range(300)]}, 503),
    ("/api/embed", {"model": "tiny", "input": ["z" * 3000] * 300}, 503),
    ("/v1/decisions", {"model": "tiny", "input": "z" * 5000, "questions": PREDICATES}, 503),
]
STREAMED: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/chat/completions", {**LONG, "messages": MESSAGES}, '"code":"draining"'),
    ("/v1/responses", {"model": "tiny", "input": "Encore ?", "temperature": 0}, "the server is stopping"),
    ("/v1/messages", {**LONG, "messages": MESSAGES}, '"type":"overloaded_error"'),
    ("/api/chat", OLLAMA, "the server is stopping"),
]


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose answers take longer than anybody waits here."""
    return tiny_model(tmp_path_factory.mktemp("slow") / "tiny", layers=6, context=100_000)


def test_plain_and_streamed_answers_say_that_the_server_stops(slow: Path) -> None:
    live = LiveServer(models=[str(slow)], grace=0)
    answers: dict[int, httpx.Response] = {}
    asked = [(path, body) for path, body, _ in WHOLE]
    asked += [(path, {**body, "stream": True}) for path, body, _ in STREAMED]

    def ask(number: int) -> None:
        path, body = asked[number]
        answers[number] = httpx.post(live.url + path, json=body, timeout=180)

    generating = sum("input" not in body for _, body, _ in WHOLE) + len(STREAMED)
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(asked))]
    try:
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 60
        while live.call(lambda: (live.service.admission.running, len(live.service.exchanges))) != (
            len(asked),
            generating,
        ):
            assert time.monotonic() < deadline, answers
            time.sleep(0.01)
        time.sleep(0.5)  # in which none may end
        assert not answers, [answer.text[-500:] for answer in answers.values()]
    finally:
        live.close()
        for thread in threads:
            thread.join(120)
    for number, (path, _, status) in enumerate(WHOLE):
        answer = answers[number]
        assert answer.status_code == status, (path, answer.text[:300])
        assert "the server is stopping" in answer.text and int(answer.headers["retry-after"]) >= 1, path
    for number, (path, _, mark) in enumerate(STREAMED, start=len(WHOLE)):
        answer = answers[number]
        assert answer.status_code == 200 and mark in answer.text, (path, answer.text[-500:])


def test_what_ends_with_the_server_is_stored_however_long_that_takes(
    slow: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = ResponseDesk.keep

    async def slowly(desk: ResponseDesk, live: Any) -> None:
        await asyncio.sleep(0.5)
        await keep(desk, live)

    monkeypatch.setattr(ResponseDesk, "keep", slowly)
    state = f"sqlite:///{tmp_path / 'state.db'}"
    live = LiveServer(models=[str(slow)], grace=0, database=state)
    body = {"model": "tiny", "input": "Encore ?", "temperature": 0, "stream": True}
    with httpx.stream("POST", f"{live.url}/v1/responses", json=body, timeout=60) as answer:
        lines = answer.iter_lines()
        while "output_text.delta" not in next(lines):
            pass
        live.stop()
        rest = "\n".join(lines)
    assert "response.failed" in rest and "the server is stopping" in rest and "stored" not in rest
    assert live.join()
    live.close()
    database = Database(state)
    with database.reading() as session:
        assert [json.loads(row.body)["status"] for row in session.query(StoredResponse)] == ["failed"]
    database.close()
