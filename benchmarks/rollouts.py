"""Answers drawn from SmolLM2 and a step of GRPO upon them: Cadran beside ``transformers`` and TRL.

    pip install "trl==1.16.0" "peft==0.21.2"
    python benchmarks/rollouts.py DATA.json [--rounds 3] [--parts draw,step]

DATA.json has preference rows, of which the prompts are answered: 4 of them, 4 answers to each, 64 tokens to an answer,
drawn at temperature 1. Nothing ends an answer earlier, so that all sides do the same work. Ids, first adapter (LoRA of
rank 16), rate, optimizer, threads, float32 and allocator settings are the same; every side is a process of its own,
one works at a time, and they take turns.

``draw``: tokens a second of ``transformers.generate`` on the plain model, all 16 rows in one batch, and of Cadran's
rollouts with an adapter that has changed since the last time; the frozen base was laid out before.
``step``: drawing, a reward that costs nothing, log-probabilities, gradients and update. TRL passes its 16 rows at once
or in 4 pieces; Cadran reads a prompt once for its 4 answers, and passes prompts one at a time or all at once, with the
frozen base in float32 or (``base``) in INT8 in both directions.
"""

import argparse
import gc
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from align_peers.bench_files import RANK, RATE, BenchFiles, write_files
from align_peers.own_rollouts import OwnGrpo, OwnRollouts, Work
from cadran.errors import UserError
from cadran.files import write_json
from cadran.train.machine import restart_with_huge_pages
from interleaved import Result, Spread, interleave, measure_machine
from process_memory import peak
from worker import Worker, WorkerFailed, serve

WORK = Work()
TINY_WORK = Work(prompts=2, answers=2, tokens=6)
STEPS = 1
"""Steps of GRPO in a turn that count, after one that does not."""
Opened = Callable[[], dict[str, float]]
"""A turn: ``seconds`` of the work, and what of them went where."""


def own_draw(source: Any, files: BenchFiles, work: Work, threads: int) -> Opened:
    """Cadran's rollouts."""
    return OwnRollouts(files, source, work, threads).draw


def hf_draw(static: bool, files: BenchFiles, work: Work, threads: int) -> Opened:
    """``transformers.generate``."""
    from align_peers.hf_generate import HfGenerate

    return HfGenerate(files, static, work).draw


def own_step(source: Any, micro: int, integers: bool, files: BenchFiles, work: Work, threads: int) -> Opened:
    """Cadran's GRPO."""
    return OwnGrpo(files, source, micro, work, STEPS, threads, integers).turn


def trl_step(passes: int, files: BenchFiles, work: Work, threads: int) -> Opened:
    """TRL's."""
    from align_peers.trl_grpo import TrlGrpo

    return TrlGrpo(files, passes, work, STEPS).turn


PARTS: dict[str, dict[str, Callable[[BenchFiles, Work, int], Opened]]] = {
    "draw": {
        "ours int8": partial(own_draw, "int8"),
        "ours f32": partial(own_draw, "f32"),
        "ours torch": partial(own_draw, "torch"),
        "transformers": partial(hf_draw, False),
        "transformers static": partial(hf_draw, True),
    },
    "step": {
        "ours int8": partial(own_step, "int8", 1, False),
        "ours int8 at once": partial(own_step, "int8", WORK.prompts, False),
        "ours int8 base": partial(own_step, "int8", 1, True),
        "ours int8 base in 2": partial(own_step, "int8", WORK.prompts // 2, True),
        "ours int8 base at once": partial(own_step, "int8", WORK.prompts, True),
        "ours f32": partial(own_step, "f32", 1, False),
        "trl": partial(trl_step, 1),
        "trl in 4": partial(trl_step, 4),
    },
}
BARS: dict[str, tuple[float, float | None]] = {"draw": (5.0, None), "step": (3.0, 1 / 3)}
"""Least speed against the best peer, and most memory against the peer that passes all rows at once."""
MEASURED = {"draw": "transformers", "step": "trl"}
"""The peer that memory is compared with."""


def work(options: argparse.Namespace) -> Callable[[str], Any]:
    """Answer a worker's requests: ``prepare``, ``turn``, ``memory``."""
    torch.set_num_threads(options.threads)
    part, name = options.serve.split("/")
    opened: list[Opened] = []

    def answer(request: str) -> Any:
        if request == "prepare":
            files = BenchFiles(options.folder, options.tiny)
            opened.append(PARTS[part][name](files, TINY_WORK if options.tiny else WORK, options.threads))
            gc.collect()
            return None
        return opened[0]() if request == "turn" else peak() / 2**20

    return answer


def start(part: str, name: str, arguments: list[str]) -> Worker:
    """A side's process; all of them have the same allocator settings."""
    command = [sys.executable, str(Path(__file__).resolve()), *arguments, "--serve", f"{part}/{name}"]
    return Worker(name, command, {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"})


def is_ours(name: str) -> bool:
    """Whether a side is Cadran's."""
    return name.startswith("ours")


def measure_part(
    part: str, names: Sequence[str], options: argparse.Namespace, arguments: list[str], console: Console
) -> dict[str, Any]:
    """All sides of a part in turn: prints, and gives plain data. A side that fails is named and left out."""
    turns: dict[str, list[dict[str, float]]] = {}
    memory: dict[str, float] = {}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name in names:
            worker = stack.enter_context(start(part, name, arguments))
            try:
                worker.ask("prepare")
            except WorkerFailed as error:
                console.print(f"left out: {error}", highlight=False)
            else:
                workers[name] = worker
                console.print(f"ready: {part}, {name}", highlight=False)

        def turn(name: str) -> float:
            turns.setdefault(name, []).append(workers[name].ask("turn"))
            seconds = float(turns[name][-1]["seconds"])
            console.print(f"round {len(turns[name])}: {part}, {name}, {seconds:.2f} s", highlight=False)
            return seconds

        result = interleave({name: partial(turn, name) for name in workers}, options.rounds)
        for name, worker in workers.items():
            memory[name] = float(worker.ask("memory"))
    done = WORK if not options.tiny else TINY_WORK
    means = {name: {key: sum(one[key] for one in made) / len(made) for key in made[0]} for name, made in turns.items()}
    table = Table(part, "seconds", "min .. max", "tokens drawn/s", "of it drawing", "laying out", "peak memory, MB")
    for name, own in result.spreads().items():
        mean = means[name]
        drawing = f"{mean['drawing']:.2f}" if "drawing" in mean else ""
        table.add_row(
            name, f"{own.median:.2f}", f"{own.min:.2f} .. {own.max:.2f}", f"{done.drawn / own.median:,.0f}", drawing,
            f"{mean['packing']:.2f}", f"{memory[name]:,.0f}",
        )  # fmt: skip
    console.print(table)
    comparisons = compare(part, result, memory)
    for row in comparisons:
        console.print(line(row), highlight=False, soft_wrap=True)
    return {
        "seconds": {name: list(figures) for name, figures in result.figures.items()},
        "means": means,
        "memory_mb": memory,
        "comparisons": comparisons,
    }


def compare(part: str, result: Result, memory: dict[str, float]) -> list[dict[str, Any]]:
    """How much faster each of our sides is than the fastest peer, and its share of a peer's memory."""
    spreads = result.spreads()
    peers = [name for name in spreads if not is_ours(name)]
    if not peers:
        return []
    best = min(peers, key=lambda name: spreads[name].median)
    least, most = BARS[part]
    return [
        {
            "side": name,
            "peer": best,
            "speed": asdict(result.ratios(name)[best]),
            "least": least,
            "memory": memory[name] / memory[MEASURED[part]] if MEASURED[part] in memory else None,
            "most": most,
        }
        for name in spreads
        if is_ours(name)
    ]


def line(row: dict[str, Any]) -> str:
    """A comparison in words."""
    speed = Spread(**row["speed"])
    text = (
        f"{row['side']} / {row['peer']}: {speed.median:.2f} ({speed.min:.2f} .. {speed.max:.2f}), bar {row['least']} "
    )
    text += "met" if speed.median >= row["least"] else "MISSED"
    if row["memory"] is not None:
        text += f"; memory {row['memory']:.2f}"
        if row["most"] is not None:
            text += f", bar {row['most']:.2f} {'met' if row['memory'] <= row['most'] else 'MISSED'}"
    return text


def measure(options: argparse.Namespace, arguments: list[str], console: Console) -> None:
    """Run the parts, print them and write them."""
    machine = measure_machine(options.threads)
    console.print(f"before: {machine.line()}", highlight=False)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder), options.model, None if options.tiny else options.data, WORK.prompts * (STEPS + 1))
        for part in options.parts:
            names = [name for name in PARTS[part] if options.sides is None or name in options.sides]
            found[part] = measure_part(part, names, options, [*arguments, "--folder", folder], console)
    after = measure_machine(options.threads)
    console.print(f"after:  {after.line()}", highlight=False)
    write_json(options.out, {
        **found,
        "work": asdict(TINY_WORK if options.tiny else WORK),
        "settings": {"rank": RANK, "rate": RATE, "steps": STEPS, "model": "tiny" if options.tiny else options.model},
        "machine": {"before": asdict(machine), "after": asdict(after)},
    })  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description="Rollouts and GRPO steps of Cadran and of its peers, in turn.")
    result.add_argument("data", type=Path, nargs="?", help="preference rows, of which the prompts are answered")
    result.add_argument("--tiny", action="store_true", help="a random model and random ids, to try the benchmark")
    result.add_argument("--model", default="smollm2")
    result.add_argument("--rounds", type=int, default=3)
    result.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    result.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS), help="draw, step")
    result.add_argument("--sides", type=lambda text: text.split(","), help="only these")
    result.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "rollouts.json")
    result.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    result.add_argument("--serve", help=argparse.SUPPRESS)
    return result


def main(arguments: list[str]) -> int:
    """Measure, or be one side's process."""
    options = parser().parse_args(arguments)
    known = {name for sides in PARTS.values() for name in sides}
    if unknown := (set(options.parts) - PARTS.keys()) | (set(options.sides or []) - known):
        print(f"there is no {min(unknown)!r}; parts: {', '.join(PARTS)}; sides: {', '.join(known)}", file=sys.stderr)
        return 2
    if options.data is None and not options.tiny:
        print("name a file with preference rows (or --tiny): python benchmarks/rollouts.py DATA.json", file=sys.stderr)
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
