"""What goes over the wire: types, bodies of any type, the root, refusals; and nothing that a client sends is a 5xx."""

import json
from typing import Any

import httpx
import pytest
from live import LiveServer

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "a"}], "options": {"num_predict": 3, "seed": 1}}


@pytest.fixture(scope="module")
def http(server: LiveServer) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=60)


def test_programs_are_told_that_ollama_is_running(http: httpx.Client) -> None:
    assert http.get("/", headers={"accept": "*/*"}).text == "Ollama is running"
    head = http.head("/", headers={"accept": "*/*"})
    assert (head.status_code, head.text) == (200, "")


def test_version_is_three_whole_numbers(http: httpx.Client) -> None:
    assert [int(part) >= 0 for part in http.get("/api/version").json()["version"].split(".")] == [True] * 3
    assert http.head("/api/version").status_code == 200


@pytest.mark.parametrize("type", [None, "application/x-www-form-urlencoded", "text/plain; charset=utf-8"])
def test_a_body_is_json_whatever_its_type(http: httpx.Client, type: str | None) -> None:
    headers = {} if type is None else {"content-type": type}
    response = http.post("/api/chat", content=json.dumps(CHAT), headers=headers)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/x-ndjson"
    lines = response.content.split(b"\n")
    assert lines.pop() == b"" and all(lines)
    assert [json.loads(line)["done"] for line in lines][-1] is True


def test_a_stream_is_the_default_and_can_be_turned_off(http: httpx.Client) -> None:
    response = http.post("/api/chat", json=CHAT | {"stream": False})
    assert response.headers["content-type"] == "application/json"
    assert response.json()["done_reason"] in ("stop", "length")


def test_truncate_drops_the_oldest_turns_and_keeps_the_system_message(server: LiveServer, http: httpx.Client) -> None:
    talk = [{"role": "system", "content": "brief"}]
    talk += [{"role": role, "content": f"{n} " * 40} for n in range(20) for role in ("user", "assistant")]
    body = CHAT | {"messages": [*talk, {"role": "user", "content": "the end"}], "stream": False}
    refused = http.post("/api/chat", json=body)
    assert refused.status_code == 400 and "512" in refused.json()["error"]
    told = http.post("/api/chat", json=body | {"truncate": True}).raise_for_status().json()
    assert 300 < told["prompt_eval_count"] <= 512
    for prompt in ({"prompt": "a b " * 500}, {"prompt": "a b " * 500, "raw": True}):
        asked = {"model": "tiny", "stream": False, "options": {"num_predict": 3, "num_ctx": 200}, **prompt}
        assert http.post("/api/generate", json=asked).status_code == 400
        told = http.post("/api/generate", json=asked | {"truncate": True}).raise_for_status().json()
        assert 150 < told["prompt_eval_count"] <= 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("POST", "/api/chat", {"model": "nobody", "messages": CHAT["messages"]}, 404, "tiny"),
        ("POST", "/api/chat", CHAT | {"think": "a lot"}, 400, "think"),
        ("POST", "/api/chat", CHAT | {"format": "yaml"}, 400, "format"),
        ("POST", "/api/chat", CHAT | {"options": {"num_predict": 2, "temperature": -1e999}}, 200, ""),
        ("POST", "/api/chat", CHAT | {"options": {"top_p": 7}}, 400, "top-p"),
        ("POST", "/api/chat", CHAT | {"options": {"mirostat": 1}}, 400, "mirostat"),
        ("POST", "/api/chat", CHAT | {"options": {"num_predict": "many"}}, 400, "num_predict"),
        ("POST", "/api/chat", CHAT | {"messages": [{"role": "judge", "content": ""}]}, 400, "role"),
        ("POST", "/api/chat", CHAT | {"messages": [{"role": "user", "images": ["x"]}]}, 400, "images"),
        ("POST", "/api/chat", CHAT | {"messages": [{"role": "user", "content": "\ud800"}]}, 400, "surrogate"),
        ("POST", "/api/chat", CHAT | {"tools": [{"type": "function"}]}, 400, "tools"),
        ("POST", "/api/chat", CHAT | {"format": {"type": "nothing"}}, 400, ""),
        ("POST", "/api/chat", "no object", 400, ""),
        ("POST", "/api/generate", {"model": "tiny", "prompt": "a", "context": [-5]}, 400, "ids"),
        ("POST", "/api/generate", {"model": "tiny", "prompt": "a", "raw": True, "system": "b"}, 400, "raw"),
        ("POST", "/api/generate", {"model": "tiny", "prompt": "a", "template": "{{ .Prompt }}"}, 400, "template"),
        ("POST", "/api/embed", {"model": "tiny", "input": ["a", ""]}, 400, "empty"),
        ("POST", "/api/embed", {"model": "tiny", "input": ""}, 200, ""),
        ("POST", "/api/show", {}, 400, "model"),
        ("POST", "/api/pull", {"model": ""}, 400, "model"),
        ("POST", "/api/push", {"model": "tiny"}, 501, "export"),
        ("POST", "/api/blobs/sha256:00", {}, 501, "pull"),
        ("GET", "/api/nothing", None, 404, "/api/nothing"),
    ],
)
def test_refusals_are_one_sentence(
    http: httpx.Client, method: str, path: str, body: Any, status: int, said: str
) -> None:
    content = None if body is None else json.dumps(body)
    response = http.request(method, path, content=content)
    assert response.status_code == status, response.text
    if status != 200:
        assert set(response.json()) == {"error"}
        assert said in response.json()["error"] and "\n" not in response.json()["error"]


def test_there_are_no_blobs(http: httpx.Client) -> None:
    assert http.head("/api/blobs/sha256:00").status_code == 404


def test_a_body_that_is_no_json_is_refused(http: httpx.Client) -> None:
    for content in (b"{", b"\xff", b"[" * 100_000):
        response = http.post("/api/chat", content=content)
        assert response.status_code == 400 and response.json()["error"]
