"""Clients that behave badly, and what must hold of a server whatever they do."""

import asyncio
import ctypes
import gc
import json
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil
from live import LiveServer

PROMPTS = [f"Numéro {number} : la rivière est calme, et après ?" for number in range(12)]
GARBAGE = [b"", b"{", b"[]", b"null", b'{"messages": 3}', b"\xff\xfe\x00", b'{"messages": []}', b"a=1&b=2"]
PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses", "/api/chat", "/api/generate",
         "/infill", "/v1/embeddings", "/tokenize"]  # fmt: skip
FEW = 4


def question(number: int) -> dict[str, Any]:
    """A request whose answer is always the same."""
    return {
        "model": "tiny",
        "messages": [{"role": "user", "content": PROMPTS[number]}],
        "max_tokens": 6 + number,
        "seed": number,
        "temperature": 0.9,
    }


@dataclass
class Soak:
    """What was done and seen.

    Attributes:
        done: how often each kind of client came to its end.
        wrong: answers that were not the right ones, and statuses that may never be.
    """

    url: str
    right: dict[int, str] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    async def learn(self, http: httpx.AsyncClient) -> None:
        """Ask every question alone first."""
        for number in range(len(PROMPTS)):
            body = (await http.post("/v1/chat/completions", json=question(number))).json()
            self.right[number] = body["choices"][0]["message"]["content"]

    async def client(self, http: httpx.AsyncClient, seed: int, end: float) -> None:
        """One client until the end, or longer: a machine that stands still until then is asked a few things, too."""
        draw = random.Random(seed)
        acts = [self._plain, self._streamed, self._leaves, self._garbage, self._huge, self._cancels]
        loop, begun = asyncio.get_running_loop(), 0
        while loop.time() < end or begun < FEW:
            begun += 1
            act = draw.choices(acts, [4, 4, 4, 2, 1, 1])[0]
            try:
                await act(http, draw)
            except (httpx.TransportError, OSError) as error:
                self.wrong.append(f"{act.__name__}: {type(error).__name__} {error}")
            self.done[act.__name__] += 1

    async def _plain(self, http: httpx.AsyncClient, draw: random.Random) -> None:
        number = draw.randrange(len(PROMPTS))
        answer = await http.post("/v1/chat/completions", json=question(number))
        if answer.status_code == 200:
            self._compare(number, answer.json()["choices"][0]["message"]["content"])
        else:
            self._refused(answer)

    async def _streamed(self, http: httpx.AsyncClient, draw: random.Random) -> None:
        number, said, ended = draw.randrange(len(PROMPTS)), "", False
        body = question(number) | {"stream": True}
        async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            if answer.status_code != 200:
                await answer.aread()
                self._refused(answer)
                return
            async for line in answer.aiter_lines():
                if line == "data: [DONE]":
                    ended = True
                elif line.startswith("data: "):
                    said += json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
        if ended:
            self._compare(number, said)
        else:
            self.wrong.append("a stream ended without its end")

    async def _leaves(self, http: httpx.AsyncClient, draw: random.Random) -> None:
        """Goes away: before the answer, at its beginning, or in the middle."""
        body = question(draw.randrange(len(PROMPTS))) | {
            "max_tokens": 300,
            "ignore_eos": True,
            "n": draw.choice([1, 3]),
        }
        if draw.random() < 0.5:
            work = asyncio.ensure_future(http.post("/v1/chat/completions", json=body))
            await asyncio.sleep(draw.random() * 0.2)
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            return
        async with http.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as answer:
            left = draw.randrange(8)
            async for _ in answer.aiter_lines():
                if (left := left - 1) < 0:
                    return

    async def _garbage(self, http: httpx.AsyncClient, draw: random.Random) -> None:
        content = draw.choice(GARBAGE)
        if draw.random() < 0.3:
            content = draw.randbytes(draw.randrange(200))
        answer = await http.post(
            draw.choice(PATHS),
            content=content,
            headers={"content-type": draw.choice(["application/json", "text/plain"])},
        )
        self._refused(answer)

    async def _huge(self, http: httpx.AsyncClient, draw: random.Random) -> None:
        body = question(0) | {"messages": [{"role": "user", "content": "calme " * draw.choice([2000, 200_000])}]}
        answer = await http.post(draw.choice(["/v1/chat/completions", "/v1/messages"]), json=body)
        if answer.status_code not in (400, 413, 429, 529):
            self.wrong.append(f"a huge prompt was answered with {answer.status_code}")

    async def _cancels(self, http: httpx.AsyncClient, draw: random.Random) -> None:
        body = {"input": {"prompt": draw.choice(PROMPTS), "max_tokens": 400}, "stream": True}
        made = await http.post("/v1/models/cadran/tiny/predictions", json=body)
        if made.status_code == 201:
            await asyncio.sleep(draw.random() * 0.1)
            await http.post(f"/v1/predictions/{made.json()['id']}/cancel")
        else:
            self._refused(made)

    def _compare(self, number: int, said: str) -> None:
        if said != self.right[number]:
            self.wrong.append(f"question {number} was answered {said!r} and not {self.right[number]!r}")

    def _refused(self, answer: httpx.Response) -> None:
        if answer.status_code >= 500 and answer.status_code not in (503, 529):
            self.wrong.append(f"{answer.request.url.path} answered {answer.status_code}: {answer.text[:200]}")


async def run_soak(url: str, seconds: float, clients: int) -> Soak:
    """So many clients for so long."""
    limits = httpx.Limits(max_connections=clients + 8)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as http:
        soak = Soak(url)
        await soak.learn(http)
        end = asyncio.get_running_loop().time() + seconds
        await asyncio.gather(*(soak.client(http, seed, end) for seed in range(clients)))
    return soak


def leaked_blocks(server: LiveServer) -> int:
    """Blocks of all open engines that somebody uses although nothing is under way."""

    def look(scheduler: Any) -> Any:
        yield
        return scheduler.residents.pool.free + scheduler.residents.pool.idle, len(scheduler.residents.pool.users)

    leaked = 0
    for served in server.call(lambda: server.service.shelf.served):
        available, all_there_are = served.engine._compute.run(look).result(60)
        leaked += all_there_are - available
    return leaked


def resident_megabytes() -> float:
    """Of this process, in which the server runs, once what it has freed was given back to the system.

    Where the C library cannot be asked to do that, what it keeps counts too.
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return float(psutil.Process().memory_info().rss / 1e6)
