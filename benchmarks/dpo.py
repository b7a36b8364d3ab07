"""DPO of SmolLM2 by LoRA: Cadran beside TRL with PEFT, on the same pairs.

    pip install "trl==1.16.0" "peft==0.21.2"
    python benchmarks/dpo.py DATA.json [--rounds 3] [--sides "ours fp32 x2,trl x2"]

DATA.json has preference rows (a prompt, chosen, rejected). Cadran renders and tokenises them for all sides: the same
ids, in the same order, and all of them begin with the same adapter. Rank, rate, optimizer, beta, threads, float32 and
allocator settings are the same; every side is a process of its own, one works at a time, and they take turns.

A side's name says how many pairs are in a step. The reference's log-probabilities are computed beforehand on both
sides, which takes a forward pass once and not in each epoch; what it costs is given apart, and counted in the pairs a
second of a single epoch. "live" is TRL with the adapter switched off in each step instead.

The first losses say whether both sides compute the same: ln 2, and then what the first updates make of it.
"""

import argparse
import gc
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table

from align_peers.bench_files import BETAS, RANK, RATE, BenchFiles, write_files
from align_peers.own_dpo import OwnDpo
from cadran.errors import UserError
from cadran.files import write_json
from cadran.train.machine import restart_with_huge_pages
from interleaved import Result, Spread, interleave, measure_machine
from process_memory import peak
from worker import Worker, WorkerFailed, serve

BETA = 0.1
TURN = 8
"""Pairs of a turn that count; the first so many of the order are for the losses."""
FIRST = 2
"""Steps whose losses are compared."""
FASTER, SMALLER = 1.8, 0.6
"""Least pairs/s against TRL's best, and most memory against TRL with as many pairs in a step."""


@dataclass(frozen=True, slots=True)
class Side:
    """Who computes, and how many pairs at a time."""

    pairs: int
    ours: bool = True
    bits: Literal[8] | None = None
    cached: bool = True


SIDES = {
    "ours fp32 x2": Side(2),
    "ours fp32 x4": Side(4),
    "ours fp32 x8": Side(8),
    "ours int8 x2": Side(2, bits=8),
    "ours int8 x8": Side(8, bits=8),
    "trl x2": Side(2, ours=False),
    "trl x4": Side(4, ours=False),
    "trl x8": Side(8, ours=False),
    "trl x2 live": Side(2, ours=False, cached=False),
}
DEFAULT = tuple(name for name in SIDES if name not in ("ours fp32 x4", "ours int8 x2", "trl x4"))


def open_side(files: BenchFiles, side: Side) -> Any:
    """One of the two kinds."""
    if side.ours:
        return OwnDpo(files, side.pairs, side.bits, BETA)
    from align_peers.trl_dpo import TrlDpo

    return TrlDpo(files, side.pairs, side.cached, BETA)


def work(options: argparse.Namespace) -> Callable[[str], Any]:
    """Answer a worker's requests: ``prepare``, ``turn FIRST``, ``memory``."""
    torch.set_num_threads(options.threads)
    opened: list[Any] = []

    def answer(request: str) -> Any:
        name, *values = request.split()
        if name == "prepare":
            opened.append(open_side(BenchFiles(options.folder, options.tiny), SIDES[options.serve]))
            losses = opened[0].first_losses(FIRST)
            gc.collect()
            return {"losses": losses, "reference": opened[0].reference_seconds}
        return peak() / 2**20 if name == "memory" else opened[0].turn(int(values[0]), TURN)

    return answer


def start(name: str, arguments: list[str]) -> Worker:
    """A side's process; all of them have the same allocator settings."""
    command = [sys.executable, str(Path(__file__).resolve()), *arguments, "--serve", name]
    return Worker(name, command, {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"})


@dataclass(frozen=True, slots=True)
class Found:
    """What the sides did: pairs/s by round, and by name the peak of memory (MB), first losses and seconds a pair for
    the reference."""

    speed: Result
    memory: dict[str, float]
    losses: dict[str, list[float]]
    reference: dict[str, float]

    def epoch(self, name: str) -> float:
        """Pairs/s of a single epoch, the reference's log-probabilities included."""
        return 1 / (1 / self.speed.spreads()[name].median + self.reference[name])

    def agreement(self, ours: str, peer: str) -> float:
        """Greatest difference between the first losses of two sides, nats."""
        return max(abs(a - b) for a, b in zip(self.losses[ours], self.losses[peer], strict=True))


def run_sides(options: argparse.Namespace, arguments: list[str], console: Console) -> Found:
    """All sides in turn.

    Raises:
        WorkerFailed: one of them fails.
    """
    found = Found(Result({}), {}, {}, {})
    rounds: dict[str, int] = dict.fromkeys(options.sides, 0)
    with ExitStack() as stack:
        workers = {name: stack.enter_context(start(name, arguments)) for name in options.sides}
        for name, worker in workers.items():
            prepared = worker.ask("prepare")
            found.losses[name], found.reference[name] = prepared["losses"], prepared["reference"]
            console.print(f"ready: {name}", highlight=False)

        def turn(name: str) -> Callable[[], float]:
            def run() -> float:
                rounds[name] += 1
                speed = float(workers[name].ask(f"turn {FIRST_PAIRS + TURN * (rounds[name] - 1)}"))
                console.print(f"round {rounds[name]}: {name}, {speed:.2f} pairs/s", highlight=False)
                return speed

            return run

        speed = interleave({name: turn(name) for name in workers}, options.rounds)
        found.memory.update((name, float(worker.ask("memory"))) for name, worker in workers.items())
    return Found(speed, found.memory, found.losses, found.reference)


FIRST_PAIRS = FIRST * 8
"""Pairs that the first losses come from, with most pairs in a step."""


def compare(found: Found) -> list[dict[str, Any]]:
    """Each of our sides against TRL's fastest, its memory against TRL with as many pairs in a step."""
    spreads = found.speed.spreads()
    peers = [name for name in spreads if not SIDES[name].ours]
    if not peers:
        return []
    best = max(peers, key=lambda name: spreads[name].median)
    epoch = max(peers, key=found.epoch)
    rows = []
    for name in (name for name in spreads if SIDES[name].ours):
        alike = [peer for peer in peers if SIDES[peer].pairs == SIDES[name].pairs and SIDES[peer].cached]
        rows.append(
            {
                "side": name,
                "peer": best,
                "speed": asdict(found.speed.ratios(best)[name]),
                "least": FASTER,
                "epoch peer": epoch,
                "epoch": found.epoch(name) / found.epoch(epoch),
                "memory": found.memory[name] / found.memory[alike[0]] if alike else None,
                "most": SMALLER,
                "losses differ by": found.agreement(name, alike[0]) if alike else None,
            }
        )
    return rows


def show(found: Found, console: Console) -> None:
    """The table, and a line for each comparison."""
    table = Table(
        "side", "pairs/s", "min .. max", "reference, s a pair", "pairs/s, one epoch", "peak memory, MB", "loss"
    )
    for name, own in found.speed.spreads().items():
        table.add_row(
            name, f"{own.median:.2f}", f"{own.min:.2f} .. {own.max:.2f}", f"{found.reference[name]:.3f}",
            f"{found.epoch(name):.2f}", f"{found.memory[name]:,.0f}",
            " ".join(f"{loss:.5f}" for loss in found.losses[name]),
        )  # fmt: skip
    console.print(table)
    for row in compare(found):
        speed, memory = Spread(**row["speed"]), row["memory"]
        text = f"{row['side']} / {row['peer']}: {speed.median:.2f} ({speed.min:.2f} .. {speed.max:.2f}), bar {FASTER} "
        text += "met" if speed.median >= FASTER else "MISSED"
        text += f"; one epoch / {row['epoch peer']}: {row['epoch']:.2f}"
        if memory is not None:
            text += f"; memory {memory:.2f}, bar {SMALLER} {'met' if memory <= SMALLER else 'MISSED'}"
            text += f"; first losses within {row['losses differ by']:.1e}"
        console.print(text, highlight=False, soft_wrap=True)


def measure(options: argparse.Namespace, arguments: list[str], console: Console) -> None:
    """Run everything, print it and write it."""
    machine = measure_machine(options.threads)
    console.print(f"before: {machine.line()}", highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        count = FIRST_PAIRS + TURN * options.rounds
        files = write_files(Path(folder), options.model, None if options.tiny else options.data, count)
        items = files.items()
        console.print(
            f"{len(items)} pairs, mean {sum(len(item.prompt) for item in items) / len(items):.1f} tokens of prompt and "
            f"{sum(len(answer) for item in items for answer in item.answers) / len(items):.1f} of both answers",
            highlight=False,
        )
        found = run_sides(options, [*arguments, "--folder", folder], console)
    show(found, console)
    after = measure_machine(options.threads)
    console.print(f"after:  {after.line()}", highlight=False)
    write_json(options.out, {
        "unit": "pairs/s",
        "figures": {name: list(figures) for name, figures in found.speed.figures.items()},
        "memory_mb": found.memory,
        "reference_seconds_a_pair": found.reference,
        "epoch": {name: found.epoch(name) for name in found.speed.figures},
        "first_losses": found.losses,
        "comparisons": compare(found),
        "settings": {"rank": RANK, "rate": RATE, "betas": list(BETAS), "beta": BETA, "turn": TURN,
                     "model": "tiny" if options.tiny else options.model},
        "machine": {"before": asdict(machine), "after": asdict(after)},
    })  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description="DPO of Cadran and of TRL, in turn.")
    result.add_argument("data", type=Path, nargs="?", help="preference rows: a prompt, chosen, rejected")
    result.add_argument("--tiny", action="store_true", help="a random model and random ids, to try the benchmark")
    result.add_argument("--model", default="smollm2")
    result.add_argument("--rounds", type=int, default=3)
    result.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    sides = ", ".join(SIDES)
    result.add_argument("--sides", type=lambda text: text.split(","), default=list(DEFAULT), help=f"among: {sides}")
    result.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "dpo.json")
    result.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    result.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    return result


def main(arguments: list[str]) -> int:
    """Measure, or be one side's process."""
    options = parser().parse_args(arguments)
    if unknown := set(options.sides) - SIDES.keys():
        print(f"no side is called {min(unknown)!r}; choose among: {', '.join(SIDES)}", file=sys.stderr)
        return 2
    if options.data is None and not options.tiny:
        print("name a file with preference rows (or --tiny): python benchmarks/dpo.py DATA.json", file=sys.stderr)
        return 2
    restart_with_huge_pages()
    try:
        if options.serve:
            serve(work(options))
        else:
            measure(options, arguments, Console(width=None if sys.stdout.isatty() else 120))
    except (UserError, WorkerFailed) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
