"""The log: one line of JSON for each request, and nothing that a client said unless it is asked for."""

import io
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from live import LiveServer

from cadran.serve.log import JsonFormatter
from cadran.serve.state.api_key import add_key

SECRET = "a-very-private-sentence"
ASKED = {"model": "tiny", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 4}


@contextmanager
def logged() -> Iterator[io.StringIO]:
    text = io.StringIO()
    handler, logger = logging.StreamHandler(text), logging.getLogger("cadran")
    handler.setFormatter(JsonFormatter())
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield text
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def requests_in(log: io.StringIO, number: int) -> list[dict[str, Any]]:
    """The lines of requests, once there are so many: they are written after the answers."""
    deadline = time.monotonic() + 60
    while True:
        lines = [line for line in map(json.loads, log.getvalue().splitlines()) if line["message"] == "request"]
        if len(lines) >= number:
            return lines
        assert time.monotonic() < deadline, lines
        time.sleep(0.01)


def test_one_line_a_request_without_prompts_and_keys(tiny: Path) -> None:
    live = LiveServer(models=[str(tiny)])
    try:
        with live.service.database.session() as session:
            key = add_key(session, "anna")

        def named(id: str) -> dict[str, str]:
            return {"x-api-key": key, "x-request-id": id}

        with logged() as text:
            httpx.get(f"{live.url}/health", headers=named("health"))
            chat = f"{live.url}/v1/chat/completions"
            httpx.post(chat, json=ASKED, headers=named("plain"))
            httpx.post(f"{chat}?q={SECRET}", json={**ASKED, "stream": True}, headers=named("streamed"))
            httpx.get(f"{live.url}/{SECRET}", headers=named("lost"))
            lines = {line["id"]: line for line in requests_in(text, 3)}
        assert lines.keys() == {"plain", "streamed", "lost"}
        for id in ("plain", "streamed"):
            line = lines[id]
            assert line["route"] == "/v1/chat/completions"
            assert line.items() >= {"status": 200, "model": "tiny", "key": "anna", "generated_tokens": 4,
                                    "outcome": "done", "level": "info", "method": "POST"}.items()  # fmt: skip
            assert line["prompt_tokens"] > 4 and line["seconds"] > 0
        assert (lines["lost"]["status"], lines["lost"]["route"]) == (404, "")
        assert SECRET not in text.getvalue() and key not in text.getvalue()
    finally:
        live.close()


def test_prompts_are_logged_when_that_is_wanted(tiny: Path) -> None:
    live = LiveServer(models=[str(tiny)], log_prompts=True)
    try:
        with logged() as text:
            httpx.post(f"{live.url}/v1/chat/completions", json=ASKED)
            (line,) = requests_in(text, 1)
        assert SECRET in json.dumps(line["prompts"])
    finally:
        live.close()


def test_a_line_stays_a_line_whatever_is_in_it() -> None:
    record = logging.makeLogRecord({"msg": "a\nb\u2028c", "extra_field": "\ud800\n"})
    line = JsonFormatter().format(record)
    assert len(line.splitlines()) == 1 and json.loads(line)["message"] == "a\nb\u2028c"
