"""What every request passes first: keys, size, host, origin, names. Asked over real sockets."""

import asyncio
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live import LiveServer
from starlette.responses import PlainTextResponse

from cadran.errors import UserError
from cadran.serve.api_error import ApiError
from cadran.serve.families import families
from cadran.serve.gate import Gate
from cadran.serve.service import Service
from cadran.serve.settings import ServeSettings
from cadran.serve.state import keyring
from cadran.serve.state.api_key import add_key, remove_key
from cadran.serve.watch import Watch

ASKED = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


def make_key(live: LiveServer, name: str, **limits: Any) -> str:
    with live.service.database.session() as session:
        return add_key(session, name, **limits)


@pytest.fixture(scope="module")
def keyed(tiny: Path) -> Iterator[tuple[LiveServer, str]]:
    """A server that wants a key, and the key."""
    live = LiveServer(models=[str(tiny)])
    yield live, make_key(live, "anna")
    live.close()


def test_without_any_key_every_key_opens_on_loopback(server: LiveServer) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": ""}, {"authorization": "Bearer"}):
        assert httpx.get(f"{server.url}/v1/load", headers=headers).status_code == 200, headers


@pytest.mark.parametrize("header", ["Bearer", "Token", "bearer", "x-api-key", "api-key"])
def test_a_key_opens_in_every_form(keyed: tuple[LiveServer, str], header: str) -> None:
    live, key = keyed
    headers = {header: key} if "-" in header else {"authorization": f"{header} {key}"}
    assert httpx.get(f"{live.url}/v1/load", headers=headers).status_code == 200
    wrong = {name: value[:-1] + ("a" if value[-1] != "a" else "b") for name, value in headers.items()}
    assert httpx.get(f"{live.url}/v1/load", headers=wrong).status_code == 401


def test_clients_are_told_that_their_key_is_wrong(keyed: tuple[LiveServer, str]) -> None:
    live, key = keyed
    asked: Any = ASKED
    with pytest.raises(openai.AuthenticationError, match="cadran keys add"):
        openai.OpenAI(base_url=f"{live.url}/v1", api_key="no", max_retries=0).chat.completions.create(**asked)
    assert openai.OpenAI(base_url=f"{live.url}/v1", api_key=key).chat.completions.create(**asked).choices
    with pytest.raises(anthropic.AuthenticationError):
        anthropic.Anthropic(base_url=live.url, api_key="no", max_retries=0).messages.create(**asked)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat", "/v1/predictions", "/infill"])
def test_refusal_is_in_the_family_s_own_words(keyed: tuple[LiveServer, str], path: str) -> None:
    live, _ = keyed
    family = next(family for family in families() if family.paths.match(path))
    answer = httpx.post(live.url + path, json={}, headers={"x-request-id": "r1"})
    expected = family.refuse(ApiError("authentication", "x"), "r1")
    assert answer.status_code == expected.status_code == 401
    assert answer.headers["content-type"] == expected.headers["content-type"]
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json().keys() == json.loads(bytes(expected.body)).keys()


@pytest.mark.parametrize("path", ["/", "/health", "/healthz", "/live", "/ready", "/ping", "/v1/health", "/api/version"])
def test_open_paths_need_no_key(keyed: tuple[LiveServer, str], path: str) -> None:
    assert httpx.get(keyed[0].url + path).status_code != 401
    assert httpx.post(keyed[0].url + path).status_code == 401


@pytest.mark.parametrize(
    "path", ["/metrics", "/openapi.json", "/v1/models", "/v1/load", "//health", "/health/../v1/load"]
)
def test_all_other_paths_do(keyed: tuple[LiveServer, str], path: str) -> None:
    assert httpx.get(keyed[0].url + path).status_code == 401


def test_keys_come_and_go_without_a_restart(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live, passed = LiveServer(models=[str(tiny)]), 0.0
    monkeypatch.setattr(keyring, "monotonic", lambda: time.monotonic() + passed)
    monkeypatch.setattr(keyring, "time", lambda: time.time() + passed)

    def status(key: str) -> int:
        return httpx.get(f"{live.url}/v1/load", headers={"x-api-key": key}).status_code

    try:
        assert status("any") == 200
        first, brief = make_key(live, "first"), make_key(live, "brief", expires=time.time() + 1000)
        passed += 1.1
        assert (status(first), status(brief), status("any")) == (200, 200, 401)
        passed += 1000
        assert status(brief) == 401
        with live.service.database.session() as session:
            remove_key(session, "first")
        passed += 1.1
        assert status(first) == 401
    finally:
        live.close()


def test_beyond_loopback_nobody_gets_in_without_a_key(tiny: Path, tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'state.db'}"
    with pytest.raises(UserError, match="cadran keys add"):
        LiveServer(models=[str(tiny)], host="0.0.0.0", database=database)
    service = Service(ServeSettings(models=[str(tiny)], database=database))
    with service.database.session() as session:
        key = add_key(session, "anna")
    live = LiveServer(models=[str(tiny)], host="0.0.0.0", database=database)
    try:
        url = live.url.replace("0.0.0.0", "127.0.0.1") + "/v1/load"
        assert httpx.get(url, headers={"x-api-key": key, "host": "any.name"}).status_code == 200
        with service.database.session() as session:
            remove_key(session, "anna")
        time.sleep(1.1)
        assert httpx.get(url, headers={"x-api-key": key}).status_code == 401
        assert httpx.get(url).status_code == 401
    finally:
        service.database.close()
        live.close()


def test_a_body_that_is_too_large_is_413_announced_or_not(tiny: Path) -> None:
    live = LiveServer(models=[str(tiny)], body_limit=2000)
    url = f"{live.url}/v1/chat/completions"

    def pieces(size: int) -> Iterator[bytes]:
        for _ in range(size // 100):
            yield b" " * 100

    try:
        announced = httpx.post(url, content=b" " * 2001)
        streamed = httpx.post(url, content=pieces(300_000))
        assert announced.status_code == streamed.status_code == 413
        assert "2000 bytes" in announced.json()["error"]["message"] == streamed.json()["error"]["message"]
        fits = httpx.post(url, content=b'{"model":"tiny","messages":[],"max_tokens":1}'.ljust(2000))
        assert fits.status_code != 413
        assert httpx.get(f"{live.url}/health").status_code == 200
    finally:
        live.close()


def test_a_foreign_host_name_is_refused_on_loopback(tiny: Path) -> None:
    live = LiveServer(models=[str(tiny)], hosts=["cadran.test"])
    try:
        for host, status in {
            "evil.example": 403,
            "evil.example:8000": 403,
            "localhost.evil.example": 403,
            "127.0.0.1.evil.example": 403,
            "localhost": 200,
            "LOCALHOST:80": 200,
            "x.localhost": 200,
            "127.0.0.1": 200,
            "[::1]:8000": 200,
            "192.168.1.5": 200,
            "cadran.test:8000": 200,
        }.items():
            assert httpx.get(f"{live.url}/v1/load", headers={"host": host}).status_code == status, host
    finally:
        live.close()


@pytest.mark.parametrize(
    "origin", ["http://localhost:5173", "https://127.0.0.1", "vscode-webview://abc", "app://obsidian"]
)
def test_preflight_from_an_allowed_origin(server: LiveServer, origin: str) -> None:
    wanted = "authorization, x-stainless-os, content-type"
    answer = httpx.options(
        f"{server.url}/v1/chat/completions",
        headers={
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": wanted,
            "access-control-request-private-network": "true",
        },
    )
    assert answer.status_code == 204 and not answer.content
    assert answer.headers["access-control-allow-origin"] == origin
    assert answer.headers["access-control-allow-headers"] == wanted
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-private-network"] == "true"
    assert answer.headers["vary"] == "Origin"


def test_refused_origin_gets_no_cors_headers_and_starts_nothing(server: LiveServer) -> None:
    headers = {"origin": "https://evil.example", "access-control-request-headers": "x"}
    preflight = httpx.options(f"{server.url}/v1/models", headers=headers)
    asked = httpx.post(f"{server.url}/v1/chat/completions", json=ASKED, headers=headers)
    read = httpx.get(f"{server.url}/v1/load", headers=headers)
    assert (preflight.status_code, asked.status_code, read.status_code) == (204, 403, 200)
    for answer in (preflight, asked, read):
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_the_server_s_own_page_may_ask_and_a_configured_origin_too(tiny: Path) -> None:
    live = LiveServer(models=[str(tiny)], origins=["https://chat.example", "https://*.team.example"])
    try:
        for origin in (live.url, "https://chat.example", "https://a.team.example"):
            answer = httpx.post(f"{live.url}/v1/chat/completions", json=ASKED, headers={"origin": origin})
            assert answer.status_code == 200, origin
        for origin in ("https://chat.example.evil", "https://evil.example/.team.example", "null"):
            answer = httpx.post(f"{live.url}/v1/chat/completions", json=ASKED, headers={"origin": origin})
            assert answer.status_code == 403, origin
    finally:
        live.close()


def test_a_page_reads_why_its_key_was_refused(keyed: tuple[LiveServer, str]) -> None:
    answer = httpx.get(f"{keyed[0].url}/v1/models", headers={"origin": "http://localhost:3000"})
    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"


def test_requests_have_names_and_times(server: LiveServer) -> None:
    url = f"{server.url}/v1/chat/completions"
    answer = httpx.post(url, json=ASKED, headers={"x-request-id": "mine-1"})
    assert answer.headers.get_list("x-request-id") == ["mine-1"]
    assert answer.headers["openai-processing-ms"].isdigit()
    parts = re.fullmatch(
        r"queue;dur=([\d.]+), prefill;dur=([\d.]+), decode;dur=([\d.]+)", answer.headers["server-timing"]
    )
    assert parts is not None and float(parts[2]) > 0
    names = {httpx.get(f"{server.url}/v1/load").headers["x-request-id"] for _ in range(3)}
    assert len(names) == 3
    for hostile in ("a" * 129, "a b", "é", "<script >"):
        told = httpx.get(f"{server.url}/v1/load", headers={"x-request-id": hostile.encode("latin-1")}).headers
        assert told["x-request-id"].startswith("req_")


def test_garbage_on_the_wire_leaves_the_server_whole(server: LiveServer) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    for sent in (
        b"\x00\xff\xfe\r\n\r\n",
        b"GET /%ff%fe\xff HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: \xff\xfe\r\norigin: \x80\r\nauthorization: \xe9\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999999999999\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"BREW / HTTP/1.1\r\nhost: localhost\r\n\r\n",
    ):
        with socket.create_connection((host, int(port)), 60) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            said = connection.recv(1000)
        assert not re.match(rb"HTTP/1.1 5", said), (sent, said)
    assert httpx.get(f"{server.url}/health").status_code == 200


NAMES = [b"host", b"origin", b"authorization", b"x-api-key", b"api-key", b"content-length", b"x-request-id",
         b"access-control-request-headers", b"accept", b"cookie"]  # fmt: skip


@pytest.mark.parametrize("with_key", [False, True])
def test_no_header_makes_the_gate_fail(with_key: bool, tiny: Path, tmp_path: Path) -> None:
    service = Service(ServeSettings(models=[str(tiny)], database=f"sqlite:///{tmp_path / 'state.db'}"))
    if with_key:
        with service.database.session() as session:
            add_key(session, "anna")
    gate = Gate(PlainTextResponse("through"), service, families(), Watch(service))

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        headers=st.lists(st.tuples(st.sampled_from(NAMES), st.binary(max_size=60)), max_size=8),
        method=st.sampled_from(["GET", "POST", "OPTIONS", "HEAD", "X"]),
        path=st.sampled_from(["/", "/v1/messages", "/api/chat", "/v1/predictions", "/v1/responses", "/é\u2028\x00"]),
    )
    def never_fails(headers: list[tuple[bytes, bytes]], method: str, path: str) -> None:
        said: list[Any] = []

        async def ask() -> None:
            async def receive() -> Any:
                return {"type": "http.request", "body": b"", "more_body": False}

            async def send(message: Any) -> None:
                said.append(message)

            scope = {"type": "http", "method": method, "path": path, "headers": headers, "query_string": b""}
            await gate(scope, receive, send)

        asyncio.run(ask())
        assert said[0]["status"] in (200, 204, 401, 403, 413)
        for name, value in said[0]["headers"]:
            assert re.fullmatch(rb"[!-~]+", name) and not re.search(rb"[\r\n\x00]", value)

    never_fails()
    service.database.close()
