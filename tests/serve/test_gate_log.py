"""The log: one line of JSON for each request, and nothing that a client said unless it is asked for."""

import io
import json
import logging
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


def requests_in(text: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, text.splitlines()) if line["message"] == "request"]


def test_one_line_a_request_without_prompts_and_keys(tiny: Path) -> None:
    live = LiveServer(models=[str(tiny)])
    try:
        with live.service.database.session() as session:
            key = add_key(session, "anna")
        headers = {"x-api-key": key, "x-request-id": "mine"}
        with logged() as text:
            httpx.post(f"{live.url}/v1/chat/completions", json=ASKED, headers=headers)
            httpx.post(f"{live.url}/v1/chat/completions?q={SECRET}", json={**ASKED, "stream": True}, headers=headers)
            httpx.get(f"{live.url}/{SECRET}", headers=headers)
            httpx.get(f"{live.url}/health")
            live.settle()
        plain, streamed, lost = requests_in(text.getvalue())
        for line in (plain, streamed):
            assert line["route"] == "/v1/chat/completions"
            assert line.items() >= {"status": 200, "model": "tiny", "key": "anna", "id": "mine", "generated_tokens": 4,
                                    "outcome": "done", "level": "info", "method": "POST"}.items()  # fmt: skip
            assert line["prompt_tokens"] > 4 and line["seconds"] > 0
        assert (lost["status"], lost["route"]) == (404, "")
        assert SECRET not in text.getvalue() and key not in text.getvalue()
    finally:
        live.close()


def test_prompts_are_logged_when_that_is_wanted(tiny: Path) -> None:
    live = LiveServer(models=[str(tiny)], log_prompts=True)
    try:
        with logged() as text:
            httpx.post(f"{live.url}/v1/chat/completions", json=ASKED)
        assert SECRET in json.dumps(requests_in(text.getvalue())[0]["prompts"])
    finally:
        live.close()


def test_a_line_stays_a_line_whatever_is_in_it() -> None:
    record = logging.makeLogRecord({"msg": "a\nb\u2028c", "extra_field": "\ud800\n"})
    line = JsonFormatter().format(record)
    assert len(line.splitlines()) == 1 and json.loads(line)["message"] == "a\nb\u2028c"
