"""Run the sides of a benchmark in turn, so that a slow minute of the machine hits all of them, and print the ratios.

A benchmark imports this file and calls :func:`benchmark`, or :func:`interleave` when it prints in its own way. The
matrix-multiply speed measured before and after says whether the machine was quiet: a run that starts at 350 GFLOP/s
and ends at 150 proves nothing.
"""

import math
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cadran.files import write_json


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest of the rounds."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> "Spread":
        """Spread of at least one figure."""
        return cls(statistics.median(figures), min(figures), max(figures))


@dataclass(frozen=True)
class Result:
    """One figure a side a round: ``figures[side][round]``, all finite and above 0."""

    figures: Mapping[str, tuple[float, ...]]

    def spreads(self) -> dict[str, Spread]:
        """Spread of each side's own figures."""
        return {side: Spread.of(figures) for side, figures in self.figures.items()}

    def ratios(self, baseline: str) -> dict[str, Spread]:
        """Spread of figure / baseline's figure of the same round, for each side (exactly 1 for the baseline).

        Raises:
            ValueError: no side has the baseline's name.
        """
        if baseline not in self.figures:
            raise ValueError(f"no side is called {baseline!r}: the sides are {', '.join(self.figures)}")
        return {
            side: Spread.of([figure / base for figure, base in zip(figures, self.figures[baseline], strict=True)])
            for side, figures in self.figures.items()
        }

    def table(self, baseline: str, unit: str) -> Table:
        """The result as a rich table, one row a side."""
        ratios = self.ratios(baseline)
        table = Table("side", f"{unit}, median", "min .. max", f"/ {baseline}, median", "min .. max")
        for column in table.columns[1:]:
            column.justify = "right"
        for side, own in self.spreads().items():
            ratio = ratios[side]
            table.add_row(
                side,
                f"{own.median:,.4g}",
                f"{own.min:,.4g} .. {own.max:,.4g}",
                f"{ratio.median:.3f}",
                f"{ratio.min:.3f} .. {ratio.max:.3f}",
            )
        return table

    def to_json(self, baseline: str, unit: str) -> dict[str, Any]:
        """The result as plain data: every figure, the spreads and the ratios."""
        return {
            "unit": unit,
            "baseline": baseline,
            "figures": {side: list(figures) for side, figures in self.figures.items()},
            "spreads": {side: asdict(spread) for side, spread in self.spreads().items()},
            "ratios": {side: asdict(spread) for side, spread in self.ratios(baseline).items()},
        }


@dataclass(frozen=True)
class Machine:
    """What the figures were measured on; speeds in GFLOP/s of a square matrix product (2 n^3 operations)."""

    cpu: str
    threads: int
    torch: str
    fp32_gflops: float
    bf16_gflops: float

    def line(self) -> str:
        """One line for people."""
        return (
            f"{self.cpu}, {self.threads} threads, torch {self.torch}, "
            f"GEMM fp32 {self.fp32_gflops:,.0f} and bf16 {self.bf16_gflops:,.0f} GFLOP/s"
        )


def interleave(sides: dict[str, Callable[[], float]], rounds: int) -> Result:
    """Call every side once a round; round r begins with side r, r + 1, ... so that no side always goes first.

    Args:
        sides: name -> function that does the work and returns its figure (tokens/s, seconds, ...).
        rounds: how many times each side runs, at least 1.

    Returns:
        The figures, sides in the given order.

    Raises:
        ValueError: nothing to run, or a figure that is not finite and above 0 (no ratio could be made of it).
    """
    if not sides or rounds < 1:
        raise ValueError(f"{len(sides)} sides in {rounds} rounds: at least one of each is needed")
    names = list(sides)
    figures: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(rounds):
        first = round_ % len(names)
        for name in names[first:] + names[:first]:
            figure = float(sides[name]())
            if not (math.isfinite(figure) and figure > 0):
                raise ValueError(f"side {name!r} returned {figure} in round {round_}: a figure must be above 0")
            figures[name].append(figure)
    return Result({name: tuple(figures[name]) for name in names})


def measure_machine(threads: int = 2, size: int = 2048, repeats: int = 3) -> Machine:
    """Name the machine and time ``size``^3 products of its fp32 and bf16, best of ``repeats`` after a warm-up.

    torch's thread count is set for the measurement only.
    """
    import torch

    def gflops(dtype: torch.dtype) -> float:
        a = torch.ones(size, size, dtype=dtype)
        seconds = math.inf
        for attempt in range(repeats + 1):
            start = time.perf_counter()
            a @ a
            if attempt:  # the first call plans and allocates
                seconds = min(seconds, time.perf_counter() - start)
        return 2 * size**3 / seconds / 1e9

    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return Machine(_cpu_name(), threads, torch.__version__, gflops(torch.float32), gflops(torch.bfloat16))
    finally:
        torch.set_num_threads(threads_before)


def benchmark(
    sides: dict[str, Callable[[], float]],
    rounds: int,
    *,
    baseline: str,
    unit: str,
    path: Path,
    machine: Callable[[], Machine] = measure_machine,
    console: Console | None = None,
) -> Result:
    """Interleave the sides between two measurements of the machine, print the table and write everything as JSON.

    Args:
        sides: name -> function that returns one figure, as for :func:`interleave`.
        rounds: how many times each side runs.
        baseline: the side which the ratios are against.
        unit: what a figure is, such as "tokens/s".
        path: the JSON file; it is replaced atomically.
        machine: how to measure the machine, for another number of threads.
        console: where to print; standard output by default.

    Returns:
        The figures.

    Raises:
        ValueError: see :func:`interleave`; an unknown baseline is found before anything runs.
    """
    if baseline not in sides:
        raise ValueError(f"no side is called {baseline!r}: the sides are {', '.join(sides)}")
    console = console or Console()
    before = machine()
    console.print(f"before: {before.line()}", highlight=False)
    result = interleave(sides, rounds)
    after = machine()
    console.print(result.table(baseline, unit))
    console.print(f"after:  {after.line()}", highlight=False)
    write_json(path, {**result.to_json(baseline, unit), "machine": {"before": asdict(before), "after": asdict(after)}})
    return result


def _cpu_name() -> str:
    """The processor's marketing name, or what Python knows of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
