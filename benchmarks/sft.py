"""Fine-tuning SmolLM2 by LoRA: Cadran beside TRL with PEFT, on the same rows.

    pip install "trl==1.16.0" "peft==0.21.2"
    python benchmarks/sft.py DATA.json [--rounds 3] [--steps 48] [--sides "ours fp32,trl padded"]

DATA.json has rows of ``instruction``, ``input`` and ``output``. Cadran renders and tokenises them for all sides: the
same ids, the loss on the answer and its stop token. Rank, learning rate, optimizer, threads, float32 and allocator
settings are the same; every side is a process of its own, one works at a time, and they take turns. What counts are
real tokens a second, padding apart. A prefix that all rows have in common is read once a row by the sides called
"shared"; their tokens are counted as if it were read each time, because the result is the same.

Afterwards Cadran trains so many steps with the base in float32 and in 8 bits, and the loss of held-out rows says what
the rounding costs.
"""

import argparse
import gc
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from cadran.errors import UserError
from cadran.files import write_json
from cadran.library.export import export_folder
from cadran.recipe.run import find_model
from cadran.train.machine import restart_with_huge_pages
from interleaved import Spread, interleave, measure_machine
from process_memory import peak
from sft_peers.own_side import OwnSide
from sft_peers.rows import Row, read_rows
from worker import Worker, WorkerFailed, serve

RANK, RATE = 16, 2e-4
HELD_OUT = 100
"""Rows at the end of the file that no side learns from."""

TURN_STEPS = {"ours": 4, "trl padded": 8, "trl packed": 2}
"""Steps of a turn that count: about as many tokens each."""

OWN: dict[str, dict[str, Any]] = {
    "ours fp32": {"bits": None, "shared": False},
    "ours int8": {"bits": 8, "shared": False},
    "ours int4": {"bits": 4, "shared": False},
    "ours fp32 shared": {"bits": None, "shared": True},
    "ours int8 shared": {"bits": 8, "shared": True},
}
PEERS = ("trl padded", "trl packed")
BARS = {"ours fp32": (1.6, 0.5), "ours int8": (2.5, None)}
"""Least speed against the best peer, and most memory against the packed one."""


def rows_of(options: argparse.Namespace) -> tuple[list[Row], list[Row]]:
    """What is learnt from, and what is held out."""
    rows = read_rows(find_model(options.model), options.data)
    return rows[:-HELD_OUT], rows[-HELD_OUT:]


def work(options: argparse.Namespace, stack: ExitStack) -> Callable[[str], Any]:
    """Answer a worker's requests: ``prepare``, ``turn``, ``memory``, ``held out``, ``learn STEPS``."""
    torch.set_num_threads(options.threads)
    side: list[Any] = []
    rows, held_out = rows_of(options)

    def prepare() -> None:
        name = options.serve
        if name in OWN:
            side.append(OwnSide(find_model(options.model), rows, rank=RANK, rate=RATE, **OWN[name]))
        else:
            from sft_peers.trl_side import TrlSide

            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            side.append(TrlSide(options.folder, rows, name == "trl packed", RANK, RATE, scratch))
        gc.collect()

    def answer(request: str) -> Any:
        words = request.split()
        match words[0]:
            case "prepare":
                prepare()
                return None
            case "turn":
                return side[0].turn(int(words[1]))
            case "learn":
                return [side[0].step() for _ in range(int(words[1]))]
            case "held":
                return side[0].held_out(held_out)
            case _:
                return peak()

    return answer


def start(name: str, arguments: list[str]) -> Worker:
    """A side's process; all of them have the same allocator settings."""
    command = [sys.executable, str(Path(__file__).resolve()), *arguments, "--serve", name]
    return Worker(name, command, {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"})


def measure_speed(options: argparse.Namespace, arguments: list[str], console: Console) -> dict[str, Any]:
    """Every side's real tokens a second in turn, and its peak of memory."""
    names = options.sides
    memory: dict[str, float] = {}
    before: dict[str, float] = {}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name in names:
            workers[name] = stack.enter_context(start(name, arguments))
            workers[name].ask("prepare")
            before[name] = workers[name].ask("held out")

        def turn(name: str) -> Callable[[], float]:
            steps = TURN_STEPS[name if name in PEERS else "ours"]
            return lambda: float(workers[name].ask(f"turn {steps}"))

        result = interleave({name: turn(name) for name in names}, options.rounds)
        for name in names:
            memory[name] = workers[name].ask("memory") / 2**20
    spreads = result.spreads()
    table = Table("side", "real tokens/s", "min .. max", "peak memory, MB", "held-out loss before")
    for name in names:
        own = spreads[name]
        table.add_row(
            name,
            f"{own.median:,.0f}",
            f"{own.min:,.0f} .. {own.max:,.0f}",
            f"{memory[name]:,.0f}",
            f"{before[name]:.4f}",
        )
    console.print(table)
    peers = [name for name in names if name in PEERS]
    best = max(peers, key=lambda name: spreads[name].median, default=names[0])
    ratios = result.ratios(best)
    comparisons = []
    for name in (name for name in names if name not in PEERS and peers):
        least, most = BARS.get(name, (None, None))
        ratio = ratios[name]
        line = f"{name} / {best}: {ratio.median:.2f} ({ratio.min:.2f} .. {ratio.max:.2f}){_verdict(ratio, least)}"
        share = memory[name] / memory["trl packed"] if "trl packed" in memory else None
        if share is not None:
            kept = "" if most is None else f", bar {most:.2f} {'met' if share <= most else 'MISSED'}"
            line += f"; memory / trl packed: {share:.2f}{kept}"
        console.print(line, highlight=False, soft_wrap=True)
        comparisons.append({"side": name, "peer": best, "speed": asdict(ratio), "least": least, "memory": share})
    return {
        "figures": {name: list(figures) for name, figures in result.figures.items()},
        "memory_mb": memory,
        "held_out_before": before,
        "comparisons": comparisons,
    }


def _verdict(ratio: Spread, least: float | None) -> str:
    return "" if least is None else f", bar {least:.1f} {'met' if ratio.median >= least else 'MISSED'}"


def measure_loss(options: argparse.Namespace, arguments: list[str], console: Console) -> dict[str, Any]:
    """Held-out loss after the same steps on the same batches, with the base in float32 and in 8 bits."""
    figures: dict[str, Any] = {}
    for name in ("ours fp32", "ours int8"):
        with start(name, arguments) as worker:
            worker.ask("prepare")
            before = worker.ask("held out")
            learnt = worker.ask(f"learn {options.steps}")
            figures[name] = {"before": before, "after": worker.ask("held out"), "training": learnt}
        own = figures[name]
        console.print(f"{name}: held-out loss {before:.4f}, after {options.steps} steps {own['after']:.4f}")
    change = figures["ours int8"]["after"] / figures["ours fp32"]["after"] - 1
    console.print(f"int8 / fp32 - 1: {change:+.2%}, bar 1 % {'met' if change <= 0.01 else 'MISSED'}", highlight=False)
    return {"steps": options.steps, "change": change, **figures}


def measure(options: argparse.Namespace, arguments: list[str], console: Console) -> None:
    """Run everything, print it and write it."""
    machine = measure_machine(options.threads)
    console.print(f"before: {machine.line()}", highlight=False)
    path = find_model(options.model)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = [*arguments, "--folder", str(Path(scratch, "model"))]
        if set(options.sides) & set(PEERS):
            export_folder(path, Path(scratch, "model"), "f32", name=options.model)
        content: dict[str, Any] = {"speed": measure_speed(options, arguments, console)}
        if options.steps:
            content["loss"] = measure_loss(options, arguments, console)
    after = measure_machine(options.threads)
    console.print(f"after:  {after.line()}", highlight=False)
    write_json(options.out, {**content, "unit": "real tokens/s", "rank": RANK, "rate": RATE, "model": options.model,
                             "machine": {"before": asdict(machine), "after": asdict(after)}})  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description="LoRA fine-tuning of Cadran and of TRL, in turn.")
    result.add_argument("data", type=Path, help="JSON: rows of instruction, input, output")
    result.add_argument("--model", default="smollm2")
    result.add_argument("--rounds", type=int, default=3)
    result.add_argument("--steps", type=int, default=48, help="of the comparison of losses; 0 leaves it out")
    result.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    sides = [*PEERS, *OWN]
    result.add_argument("--sides", type=lambda text: text.split(","), default=sides, help=f"among: {', '.join(sides)}")
    result.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "sft.json")
    result.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    result.add_argument("--serve", choices=sides, help=argparse.SUPPRESS)
    return result


def main(arguments: list[str]) -> int:
    """Measure, or be one side's process."""
    options = parser().parse_args(arguments)
    if unknown := set(options.sides) - {*PEERS, *OWN}:
        print(f"no side is called {min(unknown)!r}; choose among: {', '.join((*PEERS, *OWN))}", file=sys.stderr)
        return 2
    restart_with_huge_pages()
    try:
        if options.serve:
            with ExitStack() as stack:
                serve(work(options, stack))
        else:
            measure(options, arguments, Console())
    except (UserError, WorkerFailed) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
