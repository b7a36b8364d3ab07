"""A repetition penalty next to nothing divides logits into what is no number: it is refused, in every family."""

from typing import Any

import httpx
import pytest
from live import LiveServer

CHAT = {"messages": [{"role": "user", "content": "Ça va ?"}]}
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {**CHAT, "max_tokens": 4, "repetition_penalty": 5e-324},
    "/v1/completions": {"prompt": "Ça", "max_tokens": 4, "repeat_penalty": 1e-300},
    "/completion": {"prompt": "Ça", "n_predict": 4, "repeat_penalty": 1e-40},
    "/api/chat": {**CHAT, "stream": False, "options": {"num_predict": 4, "repeat_penalty": 1e-40}},
    "/v1/models/cadran/tiny/predictions": {"input": {"prompt": "Ça", "repetition_penalty": 1e-40}},
}


@pytest.mark.parametrize("path", REQUESTS)
def test_a_penalty_next_to_nothing_is_refused(server: LiveServer, path: str) -> None:
    answer = httpx.post(server.url + path, json={"model": "tiny", **REQUESTS[path]}, timeout=60)
    assert answer.status_code in (400, 422), answer.text
    assert "repe" in answer.text and "penalty" in answer.text


def test_the_smallest_penalty_that_is_allowed_gives_an_answer(server: LiveServer) -> None:
    body = {"model": "tiny", **CHAT, "max_tokens": 8, "repetition_penalty": 0.01}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
