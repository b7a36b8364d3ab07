"""The orderly end of the real command: what was accepted is finished, nothing hangs, the status is 0."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tiny import tiny_model


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes seconds to fill its context."""
    return tiny_model(tmp_path_factory.mktemp("slow") / "tiny", layers=6, context=6000)


QUESTION = {"model": "tiny", "messages": [{"role": "user", "content": "Encore ?"}], "ignore_eos": True, "stream": True}


@contextmanager
def serving(tiny: Path, *options: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """``cadran serve`` in a process of its own, and its address."""
    command = [str(Path(sys.executable).parent / "cadran"), "serve", str(tiny), "--port", "0", *options]
    environment = os.environ | {"XDG_DATA_HOME": str(tiny.parent / "data"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        url = next((line.strip() for line in process.stdout if line.startswith("http://")), None)
        assert url is not None, process.stderr and process.stderr.read()
        yield process, url
    finally:
        process.kill()
        process.communicate()


def read_stream(url: str, tokens: int, ends: list[str], begun: threading.Event) -> None:
    with httpx.stream(
        "POST", f"{url}/v1/chat/completions", json=QUESTION | {"max_tokens": tokens}, timeout=60
    ) as answer:
        finish = "cut"
        for line in answer.iter_lines():
            begun.set()
            if line.startswith("data: {"):
                content = json.loads(line[6:])
                finish = "error" if "error" in content else content["choices"][0]["finish_reason"] or finish
        ends.append(finish)


def start_streams(url: str, number: int, tokens: int, ends: list[str]) -> list[threading.Thread]:
    begun = [threading.Event() for _ in range(number)]
    threads = [threading.Thread(target=read_stream, args=(url, tokens, ends, event)) for event in begun]
    for thread in threads:
        thread.start()
    assert all(event.wait(30) for event in begun)
    return threads


def test_sigterm_lets_three_open_streams_finish(slow: Path) -> None:
    with serving(slow, "--grace", "30") as (process, url):
        ends: list[str] = []
        threads = start_streams(url, 3, 2500, ends)
        process.send_signal(signal.SIGTERM)
        refused = []
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            try:
                refused.append(httpx.post(f"{url}/v1/chat/completions", json=QUESTION, timeout=60).status_code)
            except httpx.TransportError:
                break
            time.sleep(0.02)
        for thread in threads:
            thread.join(30)
        assert ends == ["length"] * 3
        assert refused and set(refused) == {503}
        assert process.wait(20) == 0


def test_what_outlives_the_grace_ends_with_an_error_event(slow: Path) -> None:
    with serving(slow, "--grace", "0") as (process, url):
        ends: list[str] = []
        threads = start_streams(url, 2, 100_000, ends)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(30)
        assert ends == ["error", "error"]
        assert process.wait(20) == 0


def test_a_second_signal_ends_at_once(slow: Path) -> None:
    with serving(slow, "--grace", "600") as (process, url):
        ends: list[str] = []
        threads = start_streams(url, 1, 100_000, ends)
        process.send_signal(signal.SIGINT)
        while httpx.get(f"{url}/ready", timeout=30).status_code != 503:  # signals that are too close become one
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        for thread in threads:
            thread.join(10)


def test_an_address_that_is_taken_is_one_sentence(tiny: Path) -> None:
    with serving(tiny) as (_, url):
        port = url.rsplit(":", 1)[1]
        command = [str(Path(sys.executable).parent / "cadran"), "serve", str(tiny), "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith(f"cadran: 127.0.0.1:{port} cannot be listened at")
        assert len(done.stderr.splitlines()) == 1
