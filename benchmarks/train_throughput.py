"""Training speed of Cadran beside a plain ``transformers`` loop, ``litgpt`` and a GPT of nanoGPT's shape.

    python benchmarks/train_throughput.py [--rounds 5] [--default-malloc | --one-column] [--sides ours,transformers]

Every side trains the same shape in fp32 on random ids in a process of its own; one process works at a time and they
take turns. Cadran restarts itself with huge pages for its activations, so its process does that here too. The peers are
measured with the allocator as their users have it, and once more with ours: the setting would help them as well.
"""

import argparse
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import own_step
import peer_litgpt
import peer_nanogpt
import peer_transformers
from adamw_step import AdamWStep
from cadran.errors import UserError
from cadran.files import write_json
from cadran.model.config import ModelConfig
from cadran.train.machine import BF16_ADVANTAGE, matmul_speed, restart_with_huge_pages, why_not_compile
from interleaved import Result, Spread, interleave, measure_machine
from worker import Worker, WorkerFailed, serve

TIMED_STEPS = 3
"""Steps of a turn that count, after one that does not."""

HUGE, DEFAULT = "huge pages", "default malloc"
SIDES: dict[str, Callable[[ModelConfig, int, int], AdamWStep]] = {
    "ours": own_step.make_step,
    "ours compile": partial(own_step.make_step, compiled=True),
    "ours bf16": partial(own_step.make_step, precision="bf16"),
    "transformers": peer_transformers.make_step,
    "transformers compile": partial(peer_transformers.make_step, compiled=True),
    "litgpt": peer_litgpt.make_step,
    "litgpt compile": partial(peer_litgpt.make_step, compiled=True),
    "nanogpt": peer_nanogpt.make_step,
    "nanogpt compile": partial(peer_nanogpt.make_step, compiled=True),
}
NOT_BY_DEFAULT = ("ours bf16", "nanogpt compile")
BASELINE = "transformers"
BARS = {"transformers": 1.3, "best peer": 1.05, "gemm": 0.70}


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side did in one turn; ``gemm`` is the greater of the speeds before and after, FLOP/s."""

    tokens_per_second: float
    gemm: float
    memory_mb: float


def work(side: str, shape: ModelConfig, rows: int, threads: int) -> Callable[[str], Any]:
    """Answer a worker's requests: ``prepare`` builds, compiles and warms; ``turn`` measures."""
    steps: list[AdamWStep] = []

    def answer(request: str) -> Any:
        if request == "prepare":
            steps.append(SIDES[side](shape, rows, threads))
            for _ in range(2):
                steps[0]()
            return None
        before = matmul_speed("fp32", 2048, 3)
        steps[0]()  # maps the memory that was given back after the last turn
        seconds = sum(steps[0]() for _ in range(TIMED_STEPS))
        gemm = max(before, matmul_speed("fp32", 2048, 3))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return asdict(Turn(TIMED_STEPS * rows * shape.context / seconds, gemm, memory))

    return answer


def allocators(side: str, default_malloc: bool, one_column: bool) -> list[str]:
    """Under which allocator settings a side runs; the first is the one its bar is measured with."""
    if default_malloc:
        return [DEFAULT]
    own, other = (HUGE, DEFAULT) if side.startswith("ours") else (DEFAULT, HUGE)
    return [own] if one_column else [own, other]


def start(side: str, allocator: str, arguments: list[str]) -> Worker:
    """Start a side's process; it chooses its allocator as ``cadran`` itself does, by restarting once."""
    return Worker(
        f"{side} ({allocator})",
        [sys.executable, str(Path(__file__).resolve()), *arguments, "--serve", side],
        {
            "CADRAN_HUGE_PAGES": "1" if allocator == HUGE else "0",
            "GLIBC_TUNABLES": None,
            "TORCHINDUCTOR_COMPILE_THREADS": "1",  # no pool of idle compiler processes beside the other sides
        },
    )


def ready_workers(
    stack: ExitStack, names: list[str], options: argparse.Namespace, arguments: list[str], console: Console
) -> Iterator[tuple[tuple[str, str], Worker]]:
    """Start and prepare one process for each side and allocator; a side that fails is named and left out."""
    for side in names:
        reason = why_not_compile() if side.endswith("compile") else None
        if reason is not None:
            console.print(f"left out: {side}: {reason}", highlight=False)
            continue
        for allocator in allocators(side, options.default_malloc, options.one_column):
            worker = stack.enter_context(start(side, allocator, arguments))
            try:
                worker.ask("prepare")
            except WorkerFailed as error:
                console.print(f"left out: {error}", highlight=False)
                worker.close()
            else:
                yield (side, allocator), worker


@dataclass(frozen=True)
class Bar:
    """A ratio that should reach ``least``; None where it is for information."""

    name: str
    ratio: Spread
    least: float | None

    def line(self) -> str:
        """One line for people."""
        line = f"{self.name}: {self.ratio.median:.3f} ({self.ratio.min:.3f} .. {self.ratio.max:.3f})"
        if self.least is None:
            return line
        return f"{line}, bar {self.least:.2f} {'met' if self.ratio.median >= self.least else 'MISSED'}"


def bars(speeds: dict[tuple[str, str], tuple[float, ...]], shares: dict[tuple[str, str], Spread]) -> list[Bar]:
    """Compare the best of ours with ``transformers`` and the best peer, each with the allocator its users have.

    Args:
        speeds: tokens/s by (side, allocator), one figure a round.
        shares: share of the matrix-multiply speed by the same key.
    """

    def best(keys: list[tuple[str, str]]) -> tuple[str, str] | None:
        return max(keys, key=lambda key: Spread.of(speeds[key]).median, default=None)

    def ratio(over: tuple[str, str], under: tuple[str, str]) -> Spread:
        return Spread.of([a / b for a, b in zip(speeds[over], speeds[under], strict=True)])

    own = [key for key in speeds if key[0] in ("ours", "ours compile")]
    ours = best([key for key in own if key[1] == HUGE]) or best(own)
    if ours is None:
        return []
    found = [Bar(f"share of the fp32 GEMM speed, {' / '.join(ours)}", shares[ours], BARS["gemm"])]
    if (BASELINE, DEFAULT) in speeds:
        found.append(Bar(f"{ours[0]} / {BASELINE} eager", ratio(ours, (BASELINE, DEFAULT)), BARS["transformers"]))
    for allocator, least in ((DEFAULT, BARS["best peer"]), (HUGE, None)):
        peer = best([key for key in speeds if not key[0].startswith("ours") and key[1] == allocator])
        if peer is not None:
            found.append(Bar(f"{ours[0]} / best peer with {allocator} ({peer[0]})", ratio(ours, peer), least))
    return found


def table(speeds: dict[tuple[str, str], tuple[float, ...]], shares: dict[tuple[str, str], Spread]) -> Table:
    """One row a side: tokens/s under each allocator, and the share of the matrix-multiply speed under its own."""
    result = Table("side", f"tokens/s, {DEFAULT}", f"tokens/s, {HUGE}", "of GEMM speed")
    for side in dict.fromkeys(side for side, _ in speeds):
        cells = []
        for allocator in (DEFAULT, HUGE):
            figures = speeds.get((side, allocator))
            spread = Spread.of(figures) if figures else None
            cells.append(f"{spread.median:,.0f} ({spread.min:,.0f} .. {spread.max:,.0f})" if spread else "-")
        own = next(spread for key, spread in shares.items() if key[0] == side)  # its own allocator comes first
        result.add_row(side, *cells, f"{own.median:.0%}")
    return result


def measure(options: argparse.Namespace, shape: ModelConfig, arguments: list[str], console: Console) -> None:
    """Run all sides in turn, print and write the result."""
    before = measure_machine(options.threads)
    console.print(f"before: {before.line()}", highlight=False)
    names = options.sides or [side for side in SIDES if side not in NOT_BY_DEFAULT]
    if not options.sides and before.bf16_gflops > BF16_ADVANTAGE * before.fp32_gflops:
        names.insert(1, "ours bf16")
    turns: dict[tuple[str, str], list[Turn]] = {}
    with ExitStack() as stack:
        workers = dict(ready_workers(stack, names, options, arguments, console))

        def side(key: tuple[str, str]) -> Callable[[], float]:
            def turn() -> float:
                turns.setdefault(key, []).append(Turn(**workers[key].ask("turn")))
                return turns[key][-1].tokens_per_second

            return turn

        result = interleave({", ".join(key): side(key) for key in workers}, options.rounds)
    after = measure_machine(options.threads)
    speeds = {key: tuple(turn.tokens_per_second for turn in turns[key]) for key in workers}
    flops = shape.training_flops_per_token()
    shares = {key: Spread.of([t.tokens_per_second * flops / t.gemm for t in turns[key]]) for key in workers}
    console.print(table(speeds, shares))
    found = bars(speeds, shares)
    for bar in found:
        console.print(bar.line(), highlight=False, soft_wrap=True)
    gemms = [turn.gemm / 1e9 for one in turns.values() for turn in one]
    console.print(f"GEMM beside the turns: {min(gemms):,.0f} .. {max(gemms):,.0f} GFLOP/s", highlight=False)
    console.print(f"after:  {after.line()}", highlight=False)
    write_json(options.out, {
        **_json_of(result),
        "bars": [asdict(bar) for bar in found],
        "gemm_gflops": {", ".join(key): [turn.gemm / 1e9 for turn in turns[key]] for key in workers},
        "gemm_share": {", ".join(key): asdict(share) for key, share in shares.items()},
        "memory_mb": {", ".join(key): max(turn.memory_mb for turn in turns[key]) for key in workers},
        "shape": asdict(shape),
        "rows": options.rows,
        "flops_per_token": flops,
        "machine": {"before": asdict(before), "after": asdict(after)},
    })  # fmt: skip


def _json_of(result: Result) -> dict[str, Any]:
    baseline = f"{BASELINE}, {DEFAULT}"
    return result.to_json(baseline if baseline in result.figures else next(iter(result.figures)), "tokens/s")


def parser() -> argparse.ArgumentParser:
    """The command line; the shape defaults to 12 M parameters."""
    result = argparse.ArgumentParser(description="Training speed of Cadran and its peers, in turn.")
    result.add_argument("--rounds", type=int, default=5)
    result.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    result.add_argument("--rows", type=int, default=32, help="rows of a batch")
    for name, value in (("layers", 6), ("width", 384), ("heads", 6), ("hidden", 1024), ("vocabulary", 4096)):
        result.add_argument(f"--{name}", type=int, default=value)
    result.add_argument("--context", type=int, default=256)
    group = result.add_mutually_exclusive_group()
    group.add_argument("--default-malloc", action="store_true", help="no side has huge pages, ours neither")
    group.add_argument("--one-column", action="store_true", help="each side with its own users' allocator only")
    result.add_argument("--sides", type=lambda text: text.split(","), help=f"among: {', '.join(SIDES)}")
    result.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "train_throughput.json")
    result.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    return result


def main(arguments: list[str]) -> int:
    """Measure, or be one side's process."""
    options = parser().parse_args(arguments)
    if unknown := set(options.sides or []) - SIDES.keys():
        print(f"no side is called {min(unknown)!r}; choose among: {', '.join(SIDES)}", file=sys.stderr)
        return 2
    o = options
    try:
        shape = ModelConfig(o.vocabulary, o.layers, o.width, o.heads, o.heads, o.width // o.heads, o.hidden, o.context)
        if options.serve:
            restart_with_huge_pages()
            serve(work(options.serve, shape, options.rows, options.threads))
        else:
            measure(options, shape, arguments, Console())
    except (UserError, WorkerFailed) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
