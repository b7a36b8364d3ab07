"""What those who run the server see and do: what is under way, models opened and closed, the server's description."""

import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import LiveServer
from replicate_engines import slow
from tiny import tiny_model

from cadran.serve.application import make_application
from cadran.serve.service import Service
from cadran.serve.settings import ServeSettings

LONG: dict[str, Any] = {
    "model": "tiny",
    "prompt": "the river",
    "max_tokens": 90_000,
    "ignore_eos": True,
    "stream": True,
}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A model whose answers take long, so that they are under way when somebody looks."""
    live = LiveServer(
        slow,
        models=[str(tiny_model(tmp_path_factory.mktemp("slow") / "tiny", context=100_000))],
        alias={"river": "tiny"},
        slots=True,
        parallel=3,
    )
    yield live
    live.close()


def test_the_description_names_each_operation_once(tmp_path: Path) -> None:
    service = Service(ServeSettings(models=[], database=f"sqlite:///{tmp_path / 'state.db'}", web=False))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        description = make_application(service).openapi()
    ids = [operation["operationId"] for path in description["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids)) > 30


def test_ollamas_clients_may_ask_for_the_head_only(live: LiveServer) -> None:
    for path in ("/", "/api/tags", "/api/version"):
        head = httpx.head(live.url + path)
        assert (head.status_code, head.content) == (200, b"") and httpx.get(live.url + path).status_code == 200


def test_slots_show_what_is_under_way(live: LiveServer) -> None:
    live.settle()
    idle = httpx.get(f"{live.url}/slots").json()
    assert idle == [{"id": number, "is_processing": False} for number in range(3)]
    with httpx.stream("POST", f"{live.url}/v1/completions", json=LONG) as answer:
        lines = answer.iter_lines()  # held, or the answer would be closed with it
        next(lines)
        busy, *free = httpx.get(f"{live.url}/slots?fail_on_no_slot=1").json()
        assert busy["is_processing"] and busy["prompt"].endswith("the river") and busy["model"] == "tiny"
        decoded, left = busy["next_token"][0]["n_decoded"], busy["next_token"][0]["n_remain"]
        assert decoded >= 1 and decoded + left == busy["params"]["n_predict"] == 90_000
        assert [slot["is_processing"] for slot in free] == [False] * 2
    live.settle()
    assert not any(slot["is_processing"] for slot in httpx.get(f"{live.url}/slots").json())


def test_no_free_slot_is_503_where_that_is_asked_for(live: LiveServer) -> None:
    go_on = threading.Event()

    def ask() -> None:
        with httpx.stream("POST", f"{live.url}/v1/completions", json=LONG) as answer:
            lines = answer.iter_lines()
            next(lines)
            go_on.wait(120)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        deadline = time.monotonic() + 60
        while httpx.get(f"{live.url}/slots?fail_on_no_slot=1").status_code != 503:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert len(httpx.get(f"{live.url}/slots").json()) == 3
        assert httpx.get(f"{live.url}/v1/load").json()["running"] == 3
    finally:
        go_on.set()
        for thread in threads:
            thread.join(60)
    live.settle()


def test_without_the_setting_prompts_are_shown_to_nobody_and_counts_are(server: LiveServer) -> None:
    refused = httpx.get(f"{server.url}/slots")
    assert refused.status_code == 501 and refused.json()["error"]["type"] == "not_supported_error"
    server.settle()
    assert httpx.get(f"{server.url}/v1/load").json()["running"] == 0


def status(live: LiveServer) -> str:
    listed = httpx.get(f"{live.url}/models").json()["data"]
    (found,) = {model["status"]["value"] for model in listed}
    return str(found)


def test_a_model_is_opened_and_closed_when_somebody_says_so(live: LiveServer) -> None:
    live.settle()
    for name in ("tiny", "river", "tiny"):
        for _ in range(2):  # said twice, it is as when said once
            assert httpx.post(f"{live.url}/models/load", json={"model": name}).json() == {"success": True}
            assert status(live) == "loaded"
        for _ in range(2):
            assert httpx.post(f"{live.url}/models/unload", json={"model": name}).json() == {"success": True}
            assert status(live) == "unloaded"
    for wrong, code in (({"model": "none"}, 404), ({"model": ""}, 400), ({}, 400), ({"model": 3}, 400)):
        for path in ("/models/load", "/models/unload"):
            assert httpx.post(live.url + path, json=wrong).status_code == code


def test_a_model_in_use_is_closed_after_its_last_request(live: LiveServer) -> None:
    short = {**LONG, "max_tokens": 60}
    with httpx.stream("POST", f"{live.url}/v1/completions", json=short) as answer:
        lines = answer.iter_lines()
        next(lines)
        assert httpx.post(f"{live.url}/models/unload", json={"model": "tiny"}).json() == {"success": True}
        assert [line for line in lines if line][-1] == "data: [DONE]"
    deadline = time.monotonic() + 60
    while status(live) == "loaded":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # Opened again on purpose, it stays.
    assert httpx.post(f"{live.url}/models/load", json={"model": "tiny"}).json() == {"success": True}
    time.sleep(0.7)
    assert status(live) == "loaded"
