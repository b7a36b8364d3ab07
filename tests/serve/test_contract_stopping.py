"""SIGTERM while a stream of every family is open: all finish, nobody new is let in, the status is 0 (12.13)."""

import json
import signal
import threading
from pathlib import Path
from typing import Any

import httpx
from test_drain import serving, until_draining
from tiny import tiny_model

TURN = [{"role": "user", "content": "Encore ?"}]
STREAMS: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/chat/completions", {"messages": TURN, "max_tokens": 1000, "ignore_eos": True}, '"finish_reason":"length"'),
    ("/v1/responses", {"input": "Encore ?", "max_output_tokens": 1000, "ignore_eos": True}, "response.incomplete"),
    ("/v1/messages", {"messages": TURN, "max_tokens": 1000, "temperature": 0}, "event: message_stop"),
    ("/api/chat", {"messages": TURN, "options": {"num_predict": 1000, "temperature": 0}}, '"done":true'),
    ("/completion", {"prompt": "Encore", "n_predict": 1000, "ignore_eos": True}, '"stop_type":"limit"'),
]
"""A path, what is asked, and what stands at the end of a stream that ended well."""

REFUSED = [
    ("/v1/chat/completions", {"messages": TURN}, 503),
    ("/v1/embeddings", {"input": "a"}, 503),
    ("/v1/responses", {"input": "a"}, 503),
    ("/v1/messages", {"messages": TURN, "max_tokens": 2}, 529),
    ("/v1/models/cadran/tiny/predictions", {"input": {"prompt": "a"}}, 503),
    ("/api/chat", {"messages": TURN}, 503),
    ("/infill", {"input_prefix": "a"}, 503),
]


def test_what_is_under_way_ends_well_and_nothing_new_begins(tmp_path: Path) -> None:
    roomy, go = tiny_model(tmp_path / "tiny", context=4000), tmp_path / "go"
    with serving(roomy, "--grace", "600", go=go) as (process, url):
        said: dict[str, str] = {}
        begun = {path: threading.Event() for path, _, _ in STREAMS}

        def read(path: str, body: dict[str, Any]) -> None:
            asked = {"model": "tiny", **body, "stream": True}
            with httpx.stream("POST", url + path, json=asked, timeout=120) as answer:
                text = ""
                for piece in answer.iter_text():
                    text += piece
                    begun[path].set()
            said[path] = text

        threads = [threading.Thread(target=read, args=(path, body)) for path, body, _ in STREAMS]
        for thread in threads:
            thread.start()
        assert all(event.wait(60) for event in begun.values())
        process.send_signal(signal.SIGTERM)
        until_draining(url)
        assert httpx.get(f"{url}/live").status_code == 200
        for path, body, status in REFUSED:
            answer = httpx.post(url + path, json={"model": "tiny", **body}, timeout=60)
            assert answer.status_code == status and int(answer.headers["retry-after"]) >= 1, (path, answer.text)
        assert any(thread.is_alive() for thread in threads), "the answers were too short for this test"
        go.touch()
        for thread in threads:
            thread.join(120)
        for path, _, end in STREAMS:
            assert end in said[path], (path, said[path][-300:])
            assert '"error":{' not in said[path] and '{"error"' not in said[path]
        assert process.wait(60) == 0
        assert json.dumps(said).isascii()
