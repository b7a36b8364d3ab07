"""Health, readiness, load and the figures for Prometheus."""

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from live import LiveServer
from prometheus_client.parser import text_string_to_metric_families
from replicate_engines import slow
from tiny import tiny_model

from cadran.engine.engine import Engine
from cadran.engine.statistics import Statistics
from cadran.serve.known_model import KnownModel
from cadran.serve.operations.gauges import Gauges
from cadran.serve.rate_limit import RateLimits

RIVER = [{"role": "user", "content": "hi, river"}]
ASKED: dict[str, Any] = {"model": "tiny", "messages": RIVER, "max_tokens": 8, "ignore_eos": True}


def figures(live: LiveServer) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    answer = httpx.get(f"{live.url}/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


@pytest.fixture(scope="module")
def live(tiny: Path) -> Iterator[LiveServer]:
    # Slow enough that an answer comes in several pieces.
    live = LiveServer(slow, models=[str(tiny)], metrics_compat=True)
    yield live
    live.close()


def test_what_was_answered_is_counted(live: LiveServer) -> None:
    tiny = frozenset({("model", "tiny")})
    plain = httpx.post(f"{live.url}/v1/chat/completions", json=ASKED).json()["usage"]
    httpx.post(f"{live.url}/v1/chat/completions", json={**ASKED, "stream": True})
    live.settle()
    found = figures(live)
    assert found["cadran_prompt_tokens_total", tiny] == 2 * plain["prompt_tokens"]
    assert found["cadran_generated_tokens_total", tiny] == 16
    assert 0 < found["cadran_cached_tokens_total", tiny] < plain["prompt_tokens"]
    for name in ("time_to_first_token", "e2e", "queue"):
        assert found[f"cadran_{name}_seconds_count", tiny] == 2, name
    assert found["cadran_inter_token_seconds_count", tiny] >= 2
    first, whole = (found[f"cadran_{name}_seconds_sum", tiny] for name in ("time_to_first_token", "e2e"))
    assert 0 < first < whole < 100
    assert found["cadran_answers_total", frozenset({("model", "tiny"), ("outcome", "done")})] == 2
    nothing: frozenset[tuple[str, str]] = frozenset()
    assert found["cadran_requests_running", nothing] == found["cadran_requests_waiting", nothing] == 0
    assert found["cadran_models_resident", nothing] == 1
    assert found["cadran_resident_memory_bytes", nothing] > 1e7
    assert found["cadran_kv_blocks_used", tiny] == 0 < found["cadran_kv_blocks_total", tiny]
    for name in ("preemptions", "speculative_proposed", "speculative_accepted"):
        assert found[f"cadran_{name}_total", tiny] == 0
    assert found["cadran_rejected_total", frozenset({("reason", "queue")})] == 0


def test_the_same_figures_under_the_names_of_others(live: LiveServer) -> None:
    httpx.post(f"{live.url}/v1/chat/completions", json=ASKED)
    live.settle()
    found = figures(live)
    own, theirs = frozenset({("model", "tiny")}), frozenset({("model_name", "tiny")})
    nothing: frozenset[tuple[str, str]] = frozenset()
    for name, other in {
        "cadran_generated_tokens_total": "generation_tokens_total",
        "cadran_time_to_first_token_seconds_count": "time_to_first_token_seconds_count",
        "cadran_e2e_seconds_sum": "e2e_request_latency_seconds_sum",
    }.items():
        assert found[f"vllm:{other}", theirs] == found[name, own] > 0
    assert found["llamacpp:tokens_predicted_total", nothing] == found["cadran_generated_tokens_total", own]
    assert found["vllm:num_requests_running", nothing] == found["llamacpp:requests_processing", nothing] == 0
    assert found["vllm:kv_cache_usage_perc", theirs] == 0


def test_requests_count_by_route_and_never_by_path(live: LiveServer) -> None:
    with httpx.Client(base_url=live.url) as client:
        for number in range(30):
            client.get(f"/none/{number}")
            client.get(f"/v1/models/none-{number}")
    httpx.request("BREW", f"{live.url}/health")
    httpx.post(f"{live.url}/v1/chat/completions", json={**ASKED, "model": "none"})
    found = {labels: value for (name, labels), value in figures(live).items() if name == "cadran_http_requests_total"}
    routes = {dict(labels)["route"] for labels in found}
    assert "none" in routes and "/v1/chat/completions" in routes
    assert not any("none-" in route or route.startswith("/none/") for route in routes)
    assert found[frozenset({("method", "GET"), ("route", "none"), ("status", "404")})] >= 30
    missing = frozenset({("method", "POST"), ("route", "/v1/chat/completions"), ("status", "404")})
    assert found[missing] == 1
    assert {dict(labels)["method"] for labels in found} <= {"GET", "POST", "other"}


def test_a_client_that_leaves_is_counted_as_cancelled(tmp_path: Path) -> None:
    live = LiveServer(slow, models=[str(tiny_model(tmp_path / "slow", context=2048))])
    asked = {**ASKED, "model": "slow", "max_tokens": 1900, "stream": True, "ignore_eos": True, "n": 8}
    nothing: frozenset[tuple[str, str]] = frozenset()
    of_it = frozenset({("model", "slow")})
    try:
        with httpx.stream("POST", f"{live.url}/v1/chat/completions", json=asked) as answer:
            lines = answer.iter_lines()  # kept: the connection goes with it
            while '"content":"' not in next(lines).replace('"content":""', ""):
                pass
            found = figures(live)
            assert found["cadran_requests_running", nothing] == 1
            assert 0 < found["cadran_kv_blocks_used", of_it] <= found["cadran_kv_blocks_total", of_it]
        live.settle()
        found = figures(live)
        assert found["cadran_cancelled_total", of_it] == 1
        assert found["cadran_answers_total", of_it | {("outcome", "cancelled")}] == 1
        assert 0 < found["cadran_generated_tokens_total", of_it] < 8 * 1900
    finally:
        live.close()


def test_the_engine_s_figures_have_their_names() -> None:
    engine = SimpleNamespace(statistics=Statistics(90, 7, 5, 30, 20))
    served = SimpleNamespace(engine=engine, known=SimpleNamespace(name="x"))
    admission = SimpleNamespace(running=2, waiting=3, rejected=4)
    service: Any = SimpleNamespace(shelf=SimpleNamespace(served=[served]), admission=admission)
    limits = RateLimits(None, None)
    limits.refused = 6
    found = {family.name: [sample.value for sample in family.samples] for family in Gauges(service, limits).collect()}
    del found["cadran_resident_memory_bytes"]
    assert found == {
        "cadran_requests_running": [2], "cadran_requests_waiting": [3], "cadran_models_resident": [1],
        "cadran_rejected": [4, 6], "cadran_kv_blocks_used": [7], "cadran_kv_blocks_total": [90],
        "cadran_preemptions": [5], "cadran_speculative_proposed": [30], "cadran_speculative_accepted": [20],
    }  # fmt: skip


def test_a_full_queue_is_counted(tiny: Path) -> None:
    go_on = threading.Event()

    def slowly(known: KnownModel) -> Engine:
        assert go_on.wait(120)
        return Engine.load(known.path)

    live = LiveServer(slowly, models=[str(tiny)], parallel=1, queue=0)
    url = f"{live.url}/v1/chat/completions"
    asking = threading.Thread(target=httpx.post, args=(url,), kwargs={"json": ASKED, "timeout": 120})
    try:
        asking.start()
        while not live.call(lambda: live.service.admission.running):
            pass
        assert httpx.post(url, json=ASKED).status_code == 429
        go_on.set()
        asking.join()
        found = figures(live)
        assert found["cadran_rejected_total", frozenset({("reason", "queue")})] == 1
    finally:
        go_on.set()
        live.close()


def test_two_applications_count_apart(live: LiveServer, server: LiveServer) -> None:
    httpx.post(f"{live.url}/v1/chat/completions", json=ASKED)
    names = {name for name, _ in figures(server)}
    assert not any(name.startswith(("vllm:", "llamacpp:")) for name in names)
    assert live.service.listeners != server.service.listeners


@pytest.mark.parametrize("path", ["/health", "/healthz", "/v1/health", "/ping", "/live", "/ready"])
def test_a_server_without_an_open_model_is_well(server: LiveServer, path: str) -> None:
    answer = httpx.get(server.url + path)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_balancers_may_ask_for_the_head_only(server: LiveServer) -> None:
    assert httpx.head(f"{server.url}/health").status_code == 200


def test_health_waits_for_the_first_model_only(tiny: Path) -> None:
    opening, go_on = threading.Event(), threading.Event()

    def slowly(known: KnownModel) -> Engine:
        opening.set()
        assert go_on.wait(120)
        return Engine.load(known.path)

    live = LiveServer(slowly, models=[str(tiny)])
    url = f"{live.url}/v1/chat/completions"
    asking = threading.Thread(target=httpx.post, args=(url,), kwargs={"json": ASKED, "timeout": 120})
    try:
        asking.start()
        assert opening.wait(60)
        loading = httpx.get(f"{live.url}/health")
        assert loading.status_code == 503
        assert loading.json()["error"] == {"code": 503, "message": "Loading model", "type": "unavailable_error"}
        assert httpx.get(f"{live.url}/live").status_code == httpx.get(f"{live.url}/ready").status_code == 200
        load = httpx.get(f"{live.url}/v1/load").json()
        assert (load["running"], load["waiting"], load["models"]) == (1, 0, [])
        go_on.set()
        asking.join()
        assert httpx.get(f"{live.url}/health").status_code == 200
        assert httpx.get(f"{live.url}/v1/load").json()["models"] == [{"name": "tiny", "running": 0}]
    finally:
        go_on.set()
        live.close()


def test_not_ready_while_it_is_about_to_stop(tiny: Path) -> None:
    live = LiveServer(models=[str(tiny)])
    try:
        live.call(live.service.admission.drain)
        stopping = httpx.get(f"{live.url}/ready")
        assert stopping.status_code == 503 and int(stopping.headers["retry-after"]) > 0
        assert httpx.get(f"{live.url}/live").status_code == httpx.get(f"{live.url}/health").status_code == 200
    finally:
        live.close()
