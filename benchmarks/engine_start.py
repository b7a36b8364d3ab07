"""From the command to the first token, and the memory of an open model: `cadran generate` as typed, weights repacked.

The command is a whole process. Memory is counted in a process that has its imports, as in ``load.py``: what it has at
most beyond them after it opened the model and read a prompt, mapped pages included.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from interleaved import Spread
from load import command_seconds
from worker import Worker

LINE = "start"
SECONDS = 0.6
"""At most, for the whole command."""
MEMORY = 1.2
"""At most, times the size of the file."""


def measure(path: Path, rounds: int, threads: int, console: Console) -> dict[str, Any]:
    """Measure both, print them, and return them as plain data.

    Raises:
        WorkerFailed: a process ended with an error.
    """
    command = ["generate", str(path), "Hello", "--max-tokens", "1", "--temperature", "0"]
    seconds = Spread.of([command_seconds(command) for _ in range(rounds + 1)][1:])  # the first one repacks
    peaks = [_peak(path, threads) / path.stat().st_size for _ in range(rounds)]
    bars = [
        {"name": "seconds to the first token", **asdict(seconds), "most": SECONDS},
        {"name": "memory / size of the file", **asdict(Spread.of(peaks)), "most": MEMORY},
    ]
    console.print(f"\n[bold]start, {path.name}[/bold]", highlight=False)
    for bar in bars:
        bar["met"] = bar["median"] <= bar["most"]
        line = f"{bar['name']}: {bar['median']:.3f} ({bar['min']:.3f} .. {bar['max']:.3f}), at most {bar['most']}"
        console.print(f"{line}: {'met' if bar['met'] else 'MISSED'}", highlight=False)
    return {"title": f"start, {path.name}", "bars": bars}


def _peak(path: Path, threads: int) -> int:
    here = Path(__file__).resolve().parent
    command = [sys.executable, str(here / "engine_peers" / "ours.py"), str(path), str(threads)]
    with Worker("cadran", command, {"PYTHONPATH": str(here)}) as worker:
        return int(worker.ask("memory"))
