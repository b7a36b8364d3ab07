"""``python -m cadran.serve.cluster``: it tells where it is, answers there, and ends without cutting an answer."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))

from tiny import tiny_model

pytest.importorskip("ray", reason="Ray is not installed: pip install 'cadran[cluster]'")
pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cadran.serve.cluster", *arguments],
        cwd=folder,
        env={**os.environ, "CADRAN_HOME": str(folder / "home")},
        stdout=subprocess.PIPE,
        stderr=(folder / "log").open("w"),  # a pipe that nobody reads would fill
        text=True,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """With a model in it, and settings that say which core counts."""
    tiny_model(tmp_path / "tiny", context=2048)
    (tmp_path / "cadran.toml").write_text("[serve]\nthreads = 1\n[serve.alias]\nmine = 'tiny'\n")
    yield tmp_path


def test_the_command_tells_its_address_and_ends_when_the_answers_have(folder: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    place = ["--cores", "0.5", "--port", url.rpartition(":")[2], "--database", "sqlite:///shared.db"]
    running = command(folder, "./tiny", "--replicas", "2", *place)
    try:
        assert running.stdout is not None
        said = [running.stdout.readline().strip() for _ in range(2)]
        assert said == ["serving tiny with 2 replicas", url]
        asked = {"model": "mine", "messages": [{"role": "user", "content": "Ça va ?"}], "max_tokens": 1500}
        with httpx.stream(
            "POST", f"{url}/v1/chat/completions", json={**asked, "stream": True, "ignore_eos": True}, timeout=120
        ) as answer:
            lines = answer.iter_lines()
            next(lines)
            running.send_signal(signal.SIGINT)
            told = [line for line in lines if line]
        assert told[-1] == "data: [DONE]" and '"finish_reason":"length"' in told[-2]
        assert running.wait(60) == 0
        assert (folder / "shared.db").is_file()
    finally:
        if running.poll() is None:  # killed, it would leave Ray's processes behind
            running.terminate()
            running.wait(60)


@pytest.mark.parametrize("arguments", [["--replicas", "999"], ["nosuch"]], ids=["too many", "no model"])
def test_what_cannot_be_served_is_told_in_one_sentence(folder: Path, arguments: list[str]) -> None:
    models = [] if "nosuch" in arguments else ["./tiny"]
    running = command(folder, *models, *arguments, "--port", str(free_port()))
    assert running.wait(120) == 2
    said = (folder / "log").read_text()
    told = [line for line in said.splitlines() if line.startswith("cadran: ")]
    assert len(told) == 1 and "Traceback" not in said


def test_a_port_that_is_taken_is_told_before_ray_is_started(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        running = command(folder, "./tiny", "--port", str(taken.getsockname()[1]))
        assert running.wait(60) == 2
    said = (folder / "log").read_text()
    assert "cannot be listened at" in said and "ray" not in said.lower()
