"""The orderly end of the real command: what was accepted is finished, nothing hangs, the status is 0."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tiny import tiny_model


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with room for some thousand tokens."""
    return tiny_model(tmp_path_factory.mktemp("roomy") / "tiny", context=6000)


@pytest.fixture
def go(tmp_path: Path) -> Path:
    """A file that is not there: until it is, each token takes its time (``paced_command``)."""
    return tmp_path / "go"


QUESTION = {"model": "tiny", "messages": [{"role": "user", "content": "Encore ?"}], "ignore_eos": True, "stream": True}


@contextmanager
def serving(tiny: Path, *options: str, go: Path | None = None) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """``cadran serve`` in a process of its own, and its address.

    Args:
        tiny: the model.
        options: further ones.
        go: lets the engine go on at its own speed once it is there; None for always.
    """
    command = [str(Path(sys.executable).parent / "cadran")]
    if go is not None:
        command = [sys.executable, str(Path(__file__).parent / "paced_command.py"), str(go)]
    command += ["serve", str(tiny), "--port", "0", *options]
    environment = os.environ | {"XDG_DATA_HOME": str(tiny.parent / "data"), "OMP_NUM_THREADS": "1"}
    # A file: a pipe that nobody reads is full after some hundred requests, and the server stands still.
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
        try:
            assert process.stdout is not None
            url = next((line.strip() for line in process.stdout if line.startswith("http://")), None)
            if url is None:
                log.seek(0)
                pytest.fail(log.read())
            yield process, url
        finally:
            process.kill()
            process.communicate()


def until_draining(url: str) -> None:
    """Wait until nobody new is let in."""
    deadline = time.monotonic() + 60
    while httpx.get(f"{url}/ready", timeout=60).status_code != 503:
        assert time.monotonic() < deadline, "the signal had no effect"
        time.sleep(0.02)


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
    assert all(event.wait(60) for event in begun)
    return threads


def test_sigterm_lets_three_open_streams_finish(roomy: Path, go: Path) -> None:
    with serving(roomy, "--grace", "600", go=go) as (process, url):
        ends: list[str] = []
        threads = start_streams(url, 3, 1000, ends)
        process.send_signal(signal.SIGTERM)
        until_draining(url)
        refused = [httpx.post(f"{url}/v1/chat/completions", json=QUESTION, timeout=60).status_code]
        assert not ends, "the streams were over before the end began"
        go.touch()
        while process.poll() is None:
            try:
                refused.append(httpx.post(f"{url}/v1/chat/completions", json=QUESTION, timeout=60).status_code)
            except httpx.TransportError:
                break
            time.sleep(0.02)
        for thread in threads:
            thread.join(60)
        assert ends == ["length"] * 3
        assert set(refused) == {503}
        assert process.wait(60) == 0


def test_what_outlives_the_grace_ends_with_an_error_event(roomy: Path, go: Path) -> None:
    with serving(roomy, "--grace", "0", go=go) as (process, url):
        ends: list[str] = []
        threads = start_streams(url, 2, 100_000, ends)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        assert ends == ["error", "error"]
        assert process.wait(60) == 0


def test_a_second_signal_ends_at_once(roomy: Path, go: Path) -> None:
    with serving(roomy, "--grace", "600", go=go) as (process, url):
        ends: list[str] = []
        threads = start_streams(url, 1, 100_000, ends)
        process.send_signal(signal.SIGINT)
        until_draining(url)  # signals that are too close become one
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        for thread in threads:
            thread.join(60)
        assert ends != ["length"], "it was waited for"


def test_an_address_that_is_taken_is_one_sentence(tiny: Path) -> None:
    with serving(tiny) as (_, url):
        port = url.rsplit(":", 1)[1]
        command = [str(Path(sys.executable).parent / "cadran"), "serve", str(tiny), "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith(f"cadran: 127.0.0.1:{port} cannot be listened at")
        assert len(done.stderr.splitlines()) == 1
