"""llama.cpp's own HTTP server as one side of a benchmark, and the little of HTTP that reading a stream of it takes."""

import asyncio
import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

from engine_peers.build import llama_cpp
from worker import PATIENCE, WorkerFailed

_HOST = "127.0.0.1"
_STARTING = 120.0  # seconds
_SPARE = 64  # positions of a sequence beyond those that are asked for


class LlamaServer:
    """A server with one slot for each client, so that nobody waits for another.

    Args:
        path: a GGUF file.
        threads: of the processor, for prompts and for answers.
        clients: how many requests run together.
        positions: most tokens of a prompt and its answer.

    Raises:
        UserError: it cannot be built.
        WorkerFailed: it does not start.
    """

    def __init__(self, path: Path, threads: int, clients: int, positions: int) -> None:
        with socket.socket() as probe:
            probe.bind((_HOST, 0))
            self.port = probe.getsockname()[1]
        command = [str(llama_cpp() / "llama-server"), "-m", str(path), "--host", _HOST, "--port", str(self.port)]
        command += ["-t", str(threads), "-tb", str(threads), "-np", str(clients), "--cont-batching", "-fa", "on"]
        command += ["-c", str(clients * (positions + _SPARE)), "--no-webui", "--log-disable"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    async def stream(self, prompt: list[int], tokens: int) -> AsyncIterator[tuple[str, int]]:
        """Text and number of tokens of each event; the numbers are told at the end, all in one.

        Raises:
            WorkerFailed: it answered with an error.
        """
        asked = {"prompt": prompt, "n_predict": tokens, "stream": True, "ignore_eos": True, "cache_prompt": False}
        # The one filter that is needed for greedy answers, and no text looked up for each token.
        body = json.dumps(asked | {"temperature": 0, "samplers": ["temperature"]}).encode()
        reader, writer = await asyncio.open_connection(_HOST, self.port)
        head = f"POST /completion HTTP/1.1\r\nHost: {_HOST}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
        status = await reader.readline()
        if b" 200 " not in status:
            raise WorkerFailed(f"llama-server: {status.decode().strip()}")
        while line := await reader.readline():
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                yield event.get("content", ""), event.get("tokens_predicted", 0) if event.get("stop") else 0
        writer.close()
        await writer.wait_closed()

    def close(self) -> None:
        """End the server: first politely, then by force."""
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait(self) -> None:
        """Until it says that the model is loaded."""
        end = time.monotonic() + _STARTING
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise WorkerFailed(f"llama-server ended with status {self._process.returncode}")
            try:
                with urllib.request.urlopen(f"http://{_HOST}:{self.port}/health", timeout=1):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise WorkerFailed(f"llama-server was not ready after {_STARTING:.0f} seconds")
