"""The server beside llama.cpp's own: output tokens/s, time to first token, the price of HTTP, a shared beginning.

    python benchmarks/serve.py [--rounds 3] [--clients 1,4,16,64] [--parts clients,prefix]

Every client asks ``/v1/completions`` for a stream over a prompt of random ids, unlike any other, greedily and to the
same length; all begin at once. Both servers run in processes of their own with two threads and take turns; the client
is the same. The price of HTTP is the processor time of the thread that speaks it over that of the threads that compute.
For the shared beginning, two requests with the same long system prompt follow each other on a server that has not read
it; what counts is the second one's time to the first token over the first one's.
"""

import argparse
import asyncio
import random
import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cadran.errors import UserError
from cadran.files import write_json
from engine_peers.completion_client import Heard, complete
from engine_peers.llama_server import LlamaServer
from engine_peers.models import SHAPES, gguf
from engine_peers.own_server import OwnServer
from interleaved import Result, Spread, interleave, measure_machine
from worker import WorkerFailed

OURS, PEER = "cadran", "llama-server"
THROUGHPUT, FIRST, HTTP, SHARED = 3.5, 1.0, 0.05, 0.15
"""Bars: least ratio of tokens/s and greatest of the p95 time to first token with 16 clients; greatest price of HTTP;
greatest time to first token of the second request with a shared beginning, over the first one's."""
BAR_CLIENTS = 16


@dataclass(frozen=True, slots=True)
class Turn:
    """All clients once: output tokens/s, and the 95th percentile of the seconds to the first text."""

    tokens_per_second: float
    first_p95: float


def percentile_95(values: list[float]) -> float:
    """The value that 95 % do not exceed."""
    return sorted(values)[min(len(values) - 1, -(-95 * len(values) // 100) - 1)]


async def all_clients(port: int, model: str, prompts: list[list[int]], tokens: int) -> Turn:
    """All requests at once.

    Raises:
        WorkerFailed: an answer had another length.
    """
    asked = {"model": model, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    loop = asyncio.get_running_loop()
    begun = loop.time()
    heard: list[Heard] = await asyncio.gather(*(complete(port, asked | {"prompt": prompt}) for prompt in prompts))
    seconds = loop.time() - begun
    if short := [one.tokens for one in heard if one.tokens != tokens]:
        raise WorkerFailed(f"{len(short)} answers of {len(heard)} were not {tokens} tokens long but {short[0]}")
    return Turn(len(heard) * tokens / seconds, percentile_95([one.first for one in heard]))


def measure_clients(path: Path, clients: int, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Both sides in turn with so many clients; figures, ratios and bars as plain data."""
    turns: dict[str, list[Turn]] = {OURS: [], PEER: []}
    draw = random.Random(0)
    vocabulary = SHAPES[options.model].vocabulary
    spent: list[tuple[float, float]] = []
    with ExitStack() as stack:
        own = OwnServer(path, options.threads, clients)
        stack.callback(own.close)
        peer = LlamaServer(path, options.threads, clients, options.prompt + options.answer)
        stack.callback(peer.close)
        ports = {OURS: own.port, PEER: peer.port}

        def turn(name: str) -> Turn:
            prompts = [[draw.randrange(3, vocabulary) for _ in range(options.prompt)] for _ in range(clients)]
            before = own.cpu()
            made = asyncio.run(all_clients(ports[name], own.model, prompts, options.answer))
            if name == OURS:
                after = own.cpu()
                spent.append((after[0] - before[0], after[1] - before[1]))
            return made

        def counted(name: str) -> Callable[[], float]:
            def run() -> float:
                turns[name].append(turn(name))
                return turns[name][-1].tokens_per_second

            return run

        for name in ports:
            turn(name)  # the first one maps memory
        spent.clear()
        result = interleave({name: counted(name) for name in ports}, options.rounds)
    firsts = Result({name: tuple(turn.first_p95 for turn in made) for name, made in turns.items()})
    price = [speaking / computing for speaking, computing in spent]
    console.print(f"\n[bold]{path.stem}, {clients} clients, {options.prompt} in, {options.answer} out[/bold]")
    console.print(result.table(PEER, "output tokens/s"))
    console.print(firsts.table(PEER, "s to the first text, p95"))
    console.print(f"HTTP and JSON: {statistics.median(price):.1%} of the time of computing", highlight=False)
    found = {
        "throughput": result.to_json(PEER, "output tokens/s"),
        "first_p95": firsts.to_json(PEER, "s to the first text"),
        "http": asdict(Spread.of(price)),
    }
    if clients == BAR_CLIENTS:
        throughput, first = result.ratios(PEER)[OURS].median, firsts.ratios(PEER)[OURS].median
        found["bars"] = told(
            console,
            ("throughput", throughput, throughput >= THROUGHPUT, f"at least {THROUGHPUT}"),
            ("time to first token, p95", first, first <= FIRST, f"at most {FIRST}"),
            ("HTTP and JSON", statistics.median(price), statistics.median(price) < HTTP, f"less than {HTTP}"),
        )
    return found


def measure_prefix(path: Path, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """The second request with a shared beginning over the first, on a fresh server each time."""
    draw = random.Random(1)
    vocabulary = SHAPES[options.model].vocabulary
    firsts: dict[str, list[tuple[float, float]]] = {OURS: [], PEER: []}

    def pair(port: int, model: str) -> tuple[float, float]:
        system = [draw.randrange(3, vocabulary) for _ in range(600)]
        asked = {"model": model, "max_tokens": 4, "temperature": 0, "ignore_eos": True, "cache_prompt": True}

        async def both() -> tuple[float, float]:
            questions = [[draw.randrange(3, vocabulary) for _ in range(12)] for _ in range(2)]
            heard = [await complete(port, asked | {"prompt": [*system, *question]}) for question in questions]
            return heard[0].first, heard[1].first

        return asyncio.run(both())

    with ExitStack() as stack:
        own = OwnServer(path, options.threads, BAR_CLIENTS)
        stack.callback(own.close)
        peer = LlamaServer(path, options.threads, 1, 700)
        stack.callback(peer.close)
        for _ in range(options.rounds + 1):
            firsts[OURS].append(pair(own.port, own.model))
            firsts[PEER].append(pair(peer.port, own.model))
    ratios = {name: Spread.of([second / first for first, second in made[1:]]) for name, made in firsts.items()}
    console.print("\n[bold]600 tokens shared[/bold]: the second request's time to first token over the first one's")
    for name, ratio in ratios.items():
        console.print(f"{name}: {ratio.median:.3f} ({ratio.min:.3f} .. {ratio.max:.3f})", highlight=False)
    bars = told(console, ("shared beginning", ratios[OURS].median, ratios[OURS].median <= SHARED, f"at most {SHARED}"))
    return {"ratios": {name: asdict(ratio) for name, ratio in ratios.items()}, "bars": bars}


def told(console: Console, *bars: tuple[str, float, bool, str]) -> dict[str, bool]:
    """Print each bar; whether it was met, by name."""
    for name, figure, met, bar in bars:
        console.print(f"{name}: {figure:.3f}, {bar}: {'met' if met else 'MISSED'}", highlight=False)
    return {name: met for name, _, met, _ in bars}


def measure(options: argparse.Namespace, console: Console) -> None:
    """Every part; prints, and writes the JSON."""
    path = gguf(options.model, "q8_0")
    before = measure_machine(options.threads)
    console.print(f"before: {before.line()}", highlight=False)
    found: dict[str, Any] = {}
    if "clients" in options.parts:
        found["clients"] = {str(n): measure_clients(path, n, options, console) for n in options.clients}
    if "prefix" in options.parts:
        found["prefix"] = measure_prefix(path, options, console)
    after = measure_machine(options.threads)
    console.print(f"after:  {after.line()}", highlight=False)
    shape = {"prompt": options.prompt, "answer": options.answer, "threads": options.threads}
    write_json(options.out, found | shape | {"machine": {"before": asdict(before), "after": asdict(after)}})


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description="The server, beside llama-server.")
    result.add_argument("--rounds", type=int, default=3)
    result.add_argument("--threads", type=int, default=2)
    result.add_argument("--clients", type=lambda text: [int(one) for one in text.split(",")], default=[1, 4, 16, 64])
    result.add_argument("--parts", type=lambda text: text.split(","), default=["clients", "prefix"])
    result.add_argument("--model", choices=SHAPES, default="m135")
    result.add_argument("--prompt", type=int, default=128, help="tokens of each prompt")
    result.add_argument("--answer", type=int, default=128, help="tokens of each answer")
    result.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "serve.json")
    return result


def main(arguments: list[str]) -> int:
    """Measure."""
    options = parser().parse_args(arguments)
    try:
        measure(options, Console(width=None if sys.stdout.isatty() else 120))
    except (UserError, WorkerFailed) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
