"""Many requests at once: our engine beside llama.cpp's own server, both driven by the same client.

    python benchmarks/serving.py [--rounds 5] [--clients 16] [--kinds q8_0] [--prompt 128] [--answer 128]

Each client sends one prompt of random ids, unlike any other, and reads the greedy answer token by token; all begin at
once. The figures are the output tokens of all clients per second, from the first request to the last token, and the
median time to the first text. llama-server is asked over HTTP on this machine. The engine runs in the client's own
process, with no HTTP between: its interpreter shares the two threads with the client.
"""

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from cadran.errors import UserError
from cadran.files import write_json
from engine_peers.llama_server import LlamaServer
from engine_peers.models import KINDS, SHAPES, gguf
from interleaved import Result, Spread, interleave, measure_machine
from worker import WorkerFailed

OURS, PEER = "cadran", "llama-server"
THROUGHPUT = 4.0
"""Least ratio of output tokens/s, with 16 clients."""
FIRST = 1.0
"""Greatest ratio of the time to the first text, with 16 clients."""
BAR_CLIENTS = 16


@dataclass(frozen=True, slots=True)
class Turn:
    """All clients once: output tokens/s, and the median and greatest seconds to the first text."""

    tokens_per_second: float
    first_median: float
    first_worst: float


class Server(Protocol):
    """A side that answers."""

    def stream(self, prompt: list[int], tokens: int) -> AsyncIterator[tuple[str, int]]:
        """Text and number of tokens of each piece of an answer of exactly ``tokens`` tokens."""

    def close(self) -> None:
        """End it."""


class Ours:
    """The engine in this process."""

    def __init__(self, path: Path, threads: int) -> None:
        from cadran.engine.engine import Engine

        self._engine = Engine.load(path, runner="native", threads=threads, activations="int8")

    async def stream(self, prompt: list[int], tokens: int) -> AsyncIterator[tuple[str, int]]:
        """Text and number of tokens of each event."""
        async for event in self._engine.stream(prompt, stop_ids=(), temperature=0, max_tokens=tokens):
            yield event.text, int(event.token is not None)

    def close(self) -> None:
        """End its threads."""
        self._engine.close()


async def client(server: Server, prompt: list[int], tokens: int) -> tuple[int, float]:
    """One request: tokens that came, and seconds to the first text (to the end, if there was none)."""
    start, first, count = time.perf_counter(), None, 0
    async for text, brought in server.stream(prompt, tokens):
        count += brought
        if text and first is None:
            first = time.perf_counter() - start
    return count, time.perf_counter() - start if first is None else first


async def all_clients(server: Server, prompts: list[list[int]], tokens: int) -> Turn:
    """All requests at once.

    Raises:
        WorkerFailed: an answer had another length.
    """
    start = time.perf_counter()
    done = await asyncio.gather(*(client(server, prompt, tokens) for prompt in prompts))
    seconds = time.perf_counter() - start
    if short := [count for count, _ in done if count != tokens]:
        raise WorkerFailed(f"{len(short)} answers of {len(done)} were not {tokens} tokens long but {short[0]}")
    firsts = [first for _, first in done]
    return Turn(len(done) * tokens / seconds, statistics.median(firsts), max(firsts))


def measure_clients(path: Path, clients: int, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Both sides in turn with so many clients; figures, ratios and bars as plain data.

    Raises:
        UserError: a side cannot be built or opened.
        WorkerFailed: a side did not answer as asked.
    """
    turns: dict[str, list[Turn]] = {}
    draw = random.Random(0)
    vocabulary = SHAPES[options.model].vocabulary
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for name in options.sides:
            if name == PEER:
                servers[name] = LlamaServer(path, options.threads, clients, options.prompt + options.answer)
            else:
                servers[name] = Ours(path, options.threads)
            stack.callback(servers[name].close)

        def turn(name: str) -> Turn:
            prompts = [[draw.randrange(3, vocabulary) for _ in range(options.prompt)] for _ in range(clients)]
            return asyncio.run(all_clients(servers[name], prompts, options.answer))

        def counted(name: str) -> Callable[[], float]:
            def run() -> float:
                turns.setdefault(name, []).append(turn(name))
                return turns[name][-1].tokens_per_second

            return run

        for name in servers:
            turn(name)  # the first one maps memory
        result = interleave({name: counted(name) for name in servers}, options.rounds)
    firsts = Result({name: tuple(turn.first_median for turn in made) for name, made in turns.items()})
    baseline = PEER if PEER in turns else next(iter(turns))
    console.print(f"\n[bold]{path.stem}, {clients} clients, {options.prompt} in, {options.answer} out[/bold]")
    console.print(result.table(baseline, "output tokens/s"))
    console.print(firsts.table(baseline, "s to the first text"))
    found = {
        "throughput": result.to_json(baseline, "output tokens/s"),
        "first": firsts.to_json(baseline, "s to the first text"),
        "first_worst": {name: asdict(Spread.of([turn.first_worst for turn in made])) for name, made in turns.items()},
    }
    if OURS in turns and PEER in turns and clients == BAR_CLIENTS and options.prompt == options.answer == 128:
        ratio, first = result.ratios(PEER)[OURS].median, firsts.ratios(PEER)[OURS].median
        for name, figure, met, bar in (
            ("throughput", ratio, ratio >= THROUGHPUT, f"at least {THROUGHPUT}"),
            ("time to the first text", first, first <= FIRST, f"at most {FIRST}"),
        ):
            console.print(f"{name}: {figure:.3f}, {bar}: {'met' if met else 'MISSED'}", highlight=False)
        found["bars"] = {"throughput": ratio >= THROUGHPUT, "first": first <= FIRST}
    return found


def measure(options: argparse.Namespace, console: Console) -> None:
    """Every number of clients with every kind of weights; prints, and writes the JSON."""
    before = measure_machine(options.threads)
    console.print(f"before: {before.line()}", highlight=False)
    found = {
        f"{options.model}-{kind}, {clients} clients": measure_clients(
            gguf(options.model, kind), clients, options, console
        )
        for kind in options.kinds
        for clients in options.clients
    }
    after = measure_machine(options.threads)
    console.print(f"after:  {after.line()}", highlight=False)
    shape = {"prompt": options.prompt, "answer": options.answer, "threads": options.threads}
    machine = {"before": asdict(before), "after": asdict(after)}
    write_json(options.out, {"lines": found, **shape, "machine": machine})


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description="Many requests at once, beside llama-server.")
    result.add_argument("--rounds", type=int, default=5)
    result.add_argument("--threads", type=int, default=2)
    result.add_argument("--clients", type=lambda text: [int(one) for one in text.split(",")], default=[BAR_CLIENTS])
    result.add_argument("--kinds", type=lambda text: text.split(","), default=["q8_0"], help=f"among: {KINDS}")
    result.add_argument("--model", choices=SHAPES, default="m135")
    result.add_argument("--sides", type=lambda text: text.split(","), default=[OURS, PEER])
    result.add_argument("--prompt", type=int, default=128, help="tokens of each prompt")
    result.add_argument("--answer", type=int, default=128, help="tokens of each answer")
    result.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "serving.json")
    return result


def main(arguments: list[str]) -> int:
    """Measure."""
    options = parser().parse_args(arguments)
    if unknown := (set(options.kinds) - {*KINDS}) | (set(options.sides) - {OURS, PEER}):
        print(f"there is no {min(unknown)!r}: see --help", file=sys.stderr)
        return 2
    try:
        measure(options, Console(width=None if sys.stdout.isatty() else 120))
    except (UserError, WorkerFailed) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
