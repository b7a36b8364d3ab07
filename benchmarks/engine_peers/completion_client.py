"""The little of HTTP that reading a stream of ``/v1/completions`` takes, the same for every server."""

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any

from worker import WorkerFailed

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Heard:
    """One answer.

    Attributes:
        tokens: generated, as the server counts them.
        first: seconds from the request to the first text.
        seconds: from the request to the end.
    """

    tokens: int
    first: float
    seconds: float


async def complete(port: int, body: dict[str, Any], path: str = "/v1/completions") -> Heard:
    """Ask and read to the end.

    Raises:
        WorkerFailed: it answered with an error, or told no usage.
    """
    content = json.dumps(body | {"stream": True, "stream_options": {"include_usage": True}}).encode()
    begun = time.perf_counter()
    reader, writer = await asyncio.open_connection(HOST, port)
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode() + content)
    status = await reader.readline()
    if b" 200 " not in status:
        raise WorkerFailed(f"{status.decode().strip()}: {(await reader.read()).decode()[-300:]}")
    first, tokens = None, None
    while line := await reader.readline():
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if first is None and event.get("choices") and (event["choices"][0].get("text") or _said(event)):
            first = time.perf_counter() - begun
        if usage := event.get("usage"):
            tokens = usage["completion_tokens"]
    writer.close()
    await writer.wait_closed()
    seconds = time.perf_counter() - begun
    if tokens is None:
        raise WorkerFailed("a stream ended without usage")
    return Heard(tokens, seconds if first is None else first, seconds)


def _said(event: dict[str, Any]) -> str:
    return (event["choices"][0].get("delta") or {}).get("content") or ""
