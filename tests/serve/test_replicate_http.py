"""Predictions over bare HTTP: headers, errors, streams that are taken up again, the end of the server."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import LiveServer, asking
from paced import Paced
from replicate_engines import saying, slow

PATH = "/v1/models/cadran/tiny/predictions"


@pytest.fixture(scope="module")
def spoken(tiny: Path) -> Iterator[LiveServer]:
    live = LiveServer(saying, models=[str(tiny)])
    yield live
    live.close()


@pytest.fixture
def http(spoken: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=spoken.url, timeout=60) as client:
        yield client


def asked(**input: Any) -> dict[str, Any]:
    return {"input": {"prompt": "Ça va ?", "max_tokens": 20, **input}}


def endless(tokens: int = 300) -> dict[str, Any]:
    return asked(max_tokens=tokens, min_tokens=tokens)


def finished(http: httpx.Client, id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while (body := http.get(f"/v1/predictions/{id}").json())["status"] in ("starting", "processing"):
        assert time.monotonic() < deadline, "it did not end"
        time.sleep(0.02)
    return dict(body)


def test_creation_answers_201_with_absolute_addresses(http: httpx.Client, spoken: LiveServer) -> None:
    answer = http.post(PATH, json=asked(), headers={"prefer": "wait"})
    body = answer.json()
    assert answer.status_code == 201 and body["status"] == "succeeded"
    assert body["urls"]["get"] == f"{spoken.url}/v1/predictions/{body['id']}"
    proxied = http.get(
        f"/v1/predictions/{body['id']}", headers={"x-forwarded-proto": "https", "x-forwarded-host": "models.example"}
    ).json()
    assert proxied["urls"]["cancel"] == f"https://models.example/v1/predictions/{body['id']}/cancel"
    assert body.keys() == {
        "id", "model", "version", "status", "input", "output", "logs", "error", "metrics", "created_at", "started_at",
        "completed_at", "data_removed", "source", "urls",
    }  # fmt: skip


def test_bodies_are_ascii(http: httpx.Client) -> None:
    answer = http.post(PATH, json=asked(seed=3, max_tokens=200), headers={"prefer": "wait"})
    assert answer.content.isascii()


def test_a_stream_is_of_the_bare_type_and_is_taken_up_again(tiny: Path) -> None:
    live = LiveServer(slow, models=[str(tiny)])  # what comes faster may come in one piece
    try:
        with httpx.Client(base_url=live.url, timeout=60) as http:
            body = http.post(PATH, json=endless(60) | {"stream": True}).json()
            assert (body["status"], body["output"]) == ("starting", None)
            whole = http.get(body["urls"]["stream"])
            assert whole.headers["content-type"] == "text/event-stream"
            assert whole.headers["cache-control"] == "no-cache" and whole.headers["x-accel-buffering"] == "no"
            events = whole.content.split(b"\n\n")[:-1]
            assert all(b"\nid: " in event for event in events) and len(events) >= 3
            second = next(line for line in events[1].decode().split("\n") if line.startswith("id: "))[4:]
            rest = http.get(body["urls"]["stream"], headers={"last-event-id": second})
            assert rest.content.split(b"\n\n")[:-1] == events[2:]
            assert http.get(body["urls"]["stream"]).content == whole.content
    finally:
        live.close()


def test_a_version_is_taken_in_three_ways(http: httpx.Client) -> None:
    (version,) = http.get("/v1/models/cadran/tiny/versions").json()["results"]
    for wanted in (version["id"], f"cadran/tiny:{version['id']}", "cadran/tiny"):
        body = http.post("/v1/predictions", json=asked() | {"version": wanted}, headers={"prefer": "wait"}).json()
        assert (body["status"], body["version"], body["model"]) == ("succeeded", version["id"], "cadran/tiny")
    assert http.get(f"/v1/models/cadran%2Ftiny/versions/{version['id']}").json() == version


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (PATH, b"{", 400),
        (PATH, b"[]", 400),
        (PATH, b"{}", 422),
        (PATH, b'{"input": 3}', 422),
        (PATH, b'{"input": {"prompt": "x", "temperature": NaN}}', 422),
        (PATH, b'{"input": {"prompt": "x", "temperature": 1e999}}', 422),
        (PATH, b'{"input": {"prompt": "\\ud800"}}', 422),
        (PATH, b'{"input": {"prompt": "x"}, "webhook": "http://127.0.0.1/"}', 422),
        (PATH, b'{"input": {"prompt": "x"}, "stream": "perhaps"}', 422),
        ("/v1/predictions", b'{"input": {"prompt": "x"}}', 422),
        ("/v1/predictions", b'{"input": {"prompt": "x"}, "version": "x:y"}', 404),
        ("/v1/predictions", b'{"input": {"prompt": "x"}, "version": ""}', 422),
        ("/v1/models/a/b/predictions", b'{"input": {"prompt": "x"}}', 404),
        ("/v1/predictions/x/cancel", b"", 404),
        ("/v1/trainings", b"{}", 404),
    ],
)
def test_what_is_wrong_is_told_as_problem_details(http: httpx.Client, path: str, body: bytes, status: int) -> None:
    answer = http.post(path, content=body, headers={"prefer": "wait", "content-type": "application/json"})
    problem = answer.json()
    assert (answer.status_code, problem["status"]) == (status, status)
    assert problem["title"] and problem["detail"]
    assert ("invalid_fields" in problem) == (status == 422)


def test_unknown_numbers_that_json_cannot_hold_do_no_harm(http: httpx.Client) -> None:
    odd = f'"odd": NaN, "far": 1e999, "deep": {"[" * 90}1{"]" * 90}'
    content = f'{{"input": {{"prompt": "x", "max_tokens": 1, {odd}}}}}'
    body = http.post(PATH, content=content, headers={"prefer": "wait"}).json()
    assert body["status"] == "succeeded" and body["input"] == {"prompt": "x", "max_tokens": 1}


@pytest.mark.parametrize("name", ["top_k", "max_tokens", "seed", "length_penalty"])
def test_huge_numbers_do_no_harm(http: httpx.Client, name: str) -> None:
    body = http.post(PATH, json=asked(**{name: 10**30, "stop_sequences": ""}), headers={"prefer": "wait"}).json()
    assert body["status"] == "succeeded" and body["input"][name] == 10**30


def test_surrogates_in_what_is_ignored_do_no_harm(http: httpx.Client) -> None:
    content = b'{"input": {"prompt": "x", "max_tokens": 1, "odd": "\\ud800"}}'
    body = http.post(PATH, content=content, headers={"prefer": "wait"}).json()
    assert body["input"]["odd"] == "\ud800"


def test_the_list_has_pages(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cadran.serve.replicate.predictions.PAGE", 3)
    live = LiveServer(models=[str(tiny)])
    try:
        with httpx.Client(base_url=live.url, timeout=60) as http:
            made = [http.post(PATH, json=asked(max_tokens=1), headers={"prefer": "wait"}).json() for _ in range(5)]
            ids = [body["id"] for body in reversed(made)]
            first = http.get("/v1/predictions").json()
            assert [body["id"] for body in first["results"]] == ids[:3] and first["previous"] is None
            second = http.get(first["next"]).json()
            assert [body["id"] for body in second["results"]] == ids[3:] and second["next"] is None
            assert http.get(second["previous"]).json() == first
            assert http.get("/v1/predictions", params={"cursor": "x1"}).status_code == 400
    finally:
        live.close()


def test_a_prediction_outlives_the_connection_that_made_it(tiny: Path) -> None:
    paced = Paced()
    paced.hold.clear()
    live = LiveServer(paced, models=[str(tiny)])
    try:
        with httpx.Client(base_url=live.url, timeout=60) as http:
            with asking(live, PATH, endless(60), prefer="wait"):
                deadline = time.monotonic() + 60
                while not (made := http.get("/v1/predictions").json()["results"]):
                    assert time.monotonic() < deadline, "it was not made"
                    time.sleep(0.02)
            (body,) = made
            assert http.get("/health").status_code  # the server has seen by then that the other connection is closed
            paced.hold.set()
            with http.stream("GET", body["urls"]["stream"]) as stream:
                next(stream.iter_raw())
            body = finished(http, body["id"])
            assert body["status"] == "succeeded" and body["metrics"]["output_token_count"] == 60
    finally:
        paced.hold.set()
        live.close()


def test_cancel_after_ends_a_prediction(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cadran.serve.replicate.routes.lifetime_seconds", lambda _: 0.3)
    live = LiveServer(slow, models=[str(tiny)])
    try:
        with httpx.Client(base_url=live.url, timeout=60) as http:
            body = http.post(PATH, json=endless(), headers={"prefer": "wait", "cancel-after": "5s"}).json()
            assert body["status"] == "canceled" and len(body["output"] or []) < 300
            live.settle()
    finally:
        live.close()


def test_a_deadline_fails_a_prediction(tiny: Path) -> None:
    live = LiveServer(slow, models=[str(tiny)], deadline=0.4)
    try:
        with httpx.Client(base_url=live.url, timeout=60) as http:
            body = http.post(PATH, json=endless(), headers={"prefer": "wait"}).json()
            assert body["status"] == "failed" and "0.4 s" in body["error"]
            live.settle()
    finally:
        live.close()


def test_a_full_queue_is_429_and_a_waiting_prediction_can_be_cancelled(tiny: Path) -> None:
    paced = Paced()
    paced.hold.clear()
    live = LiveServer(paced, models=[str(tiny)], parallel=1, queue=1)
    try:
        with httpx.Client(base_url=live.url, timeout=60) as http:
            running = http.post(PATH, json=endless()).json()
            waiting = http.post(PATH, json=endless()).json()
            refused = http.post(PATH, json=endless())
            assert refused.status_code == 429 and refused.json()["status"] == 429 and refused.headers["retry-after"]
            assert len(http.get("/v1/predictions").json()["results"]) == 2
            assert http.get(waiting["urls"]["get"]).json()["status"] == "starting"
            assert http.post(waiting["urls"]["cancel"]).json()["output"] is None
            assert http.post(running["urls"]["cancel"]).json()["status"] == "canceled"
            assert live.call(lambda: (live.service.admission.running, live.service.admission.waiting)) == (0, 0)
            live.settle()
    finally:
        paced.hold.set()
        live.close()


def test_the_end_of_the_server_waits_for_predictions(tiny: Path) -> None:
    live = LiveServer(slow, models=[str(tiny)], grace=60)
    with httpx.Client(base_url=live.url, timeout=60) as http:
        body = http.post(PATH, json=endless(150)).json()
        with http.stream("GET", body["urls"]["stream"]) as stream:
            events = stream.iter_raw()
            next(events)
            live.stop()
            rest = b"".join(events)
    assert rest.startswith(b"event: output") and rest.endswith(b"data: {}\n\n")
    assert live.join()


def test_what_is_left_after_the_grace_ends_with_an_error(tiny: Path) -> None:
    paced = Paced()
    paced.hold.clear()
    live = LiveServer(paced, models=[str(tiny)], grace=0.3, parallel=1)
    with httpx.Client(base_url=live.url, timeout=60) as http:
        http.post(PATH, json=endless())
        body = http.post(PATH, json=endless()).json()  # has no place yet
        with http.stream("GET", body["urls"]["stream"]) as stream:
            live.stop()
            said = stream.read()
    paced.hold.set()
    assert said.count(b"event: ") == 2 and b"event: error" in said and json.loads(said.split(b"data: ")[-1])
    assert live.join()
    assert live.service.admission.running == 0
