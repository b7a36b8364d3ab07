"""Speed of the native core beside llama.cpp, OpenVINO GenAI and ONNX Runtime GenAI: same weights and threads, in turn.

    python benchmarks/engine.py [--rounds 5] [--lines decode-8,prefill-8] [--peers llama.cpp] [--build]

The peers are fetched and compiled on the first run, which takes a while (``--build`` does that and ends); models are
random weights of two shapes. A line is one kind of work with one model: each side does it in every round, one at a
time, and the bar is against the best peer of that line. Decode reads every weight for each token, so it is also given
as a share of what the memory allows, measured at the size of the model before and after the line.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

import engine_start
from cadran.errors import UserError
from cadran.files import write_json
from engine_peers import build
from engine_peers.llama_bench import LlamaBench
from engine_peers.models import KINDS, SHAPES, gguf, weight_bytes
from interleaved import Result, interleave, measure_machine
from worker import Worker, WorkerFailed

OURS = "cadran"
HERE = Path(__file__).resolve().parent
REPEATS = 3
"""Measurements of a turn, of which the median counts."""
BOUND = 0.85
"""Least share of the measured read bandwidth in decode."""


@dataclass(frozen=True, slots=True)
class Line:
    """One kind of work with one model.

    Attributes:
        model: one of `SHAPES`.
        kind: of the GGUF file, one of `KINDS`.
        request: what the sides are asked: ``prefill TOKENS`` or ``decode TOKENS DEPTH``.
        least: what ours should reach against the best peer; None where there is no bar.
        against: the only peer that the bar is against; None for the best one.
        bound: whether the share of the read bandwidth has a bar too.
    """

    model: str
    kind: str
    request: str
    least: float | None
    against: str | None = None
    bound: bool = False

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.model} {self.kind}, {self.request.replace(' 0', '')}"


LINES = {
    "decode-8": Line("m135", "q8_0", "decode 128 0", 2.3, bound=True),
    "decode-4": Line("m135", "q4_0", "decode 128 0", 2.5, bound=True),
    "decode-4-pure": Line("m135", "q4_0-pure", "decode 128 0", 2.5, bound=True),
    "small-8": Line("m30", "q8_0", "decode 128 0", 2.2),
    "small-4": Line("m30", "q4_0", "decode 128 0", 2.2),
    "small-4-pure": Line("m30", "q4_0-pure", "decode 128 0", 2.2),
    "prefill-8": Line("m135", "q8_0", "prefill 512", 1.2),
    "prefill-4": Line("m135", "q4_0", "prefill 512", None),
    "small-prefill-8": Line("m30", "q8_0", "prefill 512", None),
    "deep-8": Line("m135", "q8_0", "decode 64 1024", 2.3, "llama.cpp"),
    "deep-4": Line("m135", "q4_0", "decode 64 1024", None),
}
PEERS = ("llama.cpp", "openvino", "onnxruntime")
ONNX_KINDS = {"q8_0": "int8", "q4_0": "int4", "q4_0-pure": "int4"}
"""The builder has no file with a head of 8 bits over matrices of 4: on that line its own 4-bit head reads less."""


class Asked(Protocol):
    """A side: a process, or something that starts one for each question."""

    def ask(self, request: str) -> Any:
        """The figure."""

    def close(self) -> None:
        """End it."""


def start(side: str, line: Line, threads: int) -> Asked:
    """A side that is ready to work on a line.

    Raises:
        UserError: the peer cannot be built.
    """
    path = gguf(line.model, line.kind)
    if side == "llama.cpp":
        return LlamaBench(build.llama_cpp() / "llama-bench", path, threads)
    program, python, model = "ours.py", Path(sys.executable), path
    if side == "openvino":
        program, python = "peer_openvino.py", build.python_of(build.OPENVINO)
    elif side == "onnxruntime":
        program, python = "peer_onnxruntime.py", build.python_of(build.ONNXRUNTIME)
        model = build.onnx_folder(line.model, ONNX_KINDS[line.kind])
    command = [str(python), str(HERE / "engine_peers" / program), str(model), str(threads)]
    return Worker(side, command, {"PYTHONPATH": str(HERE), "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"})


def ready_sides(stack: ExitStack, line: Line, names: list[str], threads: int, console: Console) -> dict[str, Asked]:
    """Start each side and let it work once, uncounted; one that fails is named and left out."""
    sides: dict[str, Asked] = {}
    for name in names:
        try:
            side = start(name, line, threads)
            stack.callback(side.close)
            side.ask(line.request)
        except (UserError, WorkerFailed) as error:
            console.print(f"left out: {error}", highlight=False, soft_wrap=True)
        else:
            sides[name] = side
    return sides


def measure_line(line: Line, names: list[str], rounds: int, threads: int, console: Console) -> dict[str, Any] | None:
    """Run all sides of a line in turn and print it.

    Returns:
        Figures, ratios and bars as plain data; None when no side works.
    """
    size = weight_bytes(gguf(line.model, line.kind))
    with ExitStack() as stack:
        sides = ready_sides(stack, line, names, threads, console)
        if not sides:
            return None

        def turn(side: Asked) -> Callable[[], float]:
            repeats = 1 if isinstance(side, LlamaBench) else REPEATS  # which repeats by itself
            return lambda: statistics.median([float(side.ask(line.request)) for _ in range(repeats)])

        def bandwidth() -> list[float]:
            return [sides[OURS].ask(f"bandwidth {size}")] if OURS in sides else []

        readings = bandwidth()
        result = interleave({name: turn(side) for name, side in sides.items()}, rounds)
        readings += bandwidth()
    best = best_peer(result, line)
    console.print(f"\n[bold]{line.title}[/bold] ({size / 1e6:,.1f} MB)", highlight=False)
    console.print(result.table(best, "tokens/s"))
    found = result.to_json(best, "tokens/s") | {"title": line.title, "weight_bytes": size, "bandwidth": readings}
    bars = found["bars"] = list(bars_of(line, result, best, size, readings))
    for bar in bars:
        verdict = "" if bar["least"] is None else f", bar {bar['least']}: {'met' if bar['met'] else 'MISSED'}"
        console.print(f"{bar['name']}: {bar['figure']:.3f}{verdict}", highlight=False)
    return found


def best_peer(result: Result, line: Line) -> str:
    """The peer of the greatest median, or the one that the line's bar is against."""
    spreads = result.spreads()
    peers = [name for name in spreads if name != OURS] or list(spreads)
    return line.against if line.against in peers else max(peers, key=lambda name: spreads[name].median)


def bars_of(line: Line, result: Result, best: str, size: int, readings: list[float]) -> list[Mapping[str, Any]]:
    """What ours reached against the line's bars; nothing when ours did not run."""
    if OURS not in result.figures:
        return []
    found: list[Mapping[str, Any]] = []
    if best != OURS:
        ratio = result.ratios(best)[OURS].median
        found.append({"name": f"{OURS} / {best}", "figure": ratio, "least": line.least})
    if line.request.endswith(" 0") and readings:  # deeper, keys and values are read too
        share = result.spreads()[OURS].median * size / statistics.median(readings)
        name = f"of the read bandwidth ({statistics.median(readings) / 1e9:.1f} GB/s)"
        found.append({"name": name, "figure": share, "least": BOUND if line.bound else None})
    return [bar | {"met": bar["least"] is None or bar["figure"] >= bar["least"]} for bar in found]


def measure(options: argparse.Namespace, console: Console) -> None:
    """Measure the chosen lines and write them beside those that a former run wrote."""
    before = measure_machine(options.threads)
    console.print(f"before: {before.line()}", highlight=False)
    written = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
    lines: dict[str, Any] = written.get("lines", {})
    versions = {"llama.cpp": build.LLAMA_CPP, "openvino": build.OPENVINO, "onnxruntime": build.ONNXRUNTIME}
    for name in options.lines:
        if name == engine_start.LINE:
            found = engine_start.measure(gguf("m135", "q8_0"), options.rounds, options.threads, console)
        else:
            found = measure_line(LINES[name], [OURS, *options.peers], options.rounds, options.threads, console)
        if found is not None:  # written at once: an hour's run may be broken off
            lines[name] = found | {"machine": asdict(before)}
            ordered = {name: lines[name] for name in [*LINES, engine_start.LINE] if name in lines}
            write_json(options.out, {"lines": ordered, "versions": versions})
    console.print(f"after:  {measure_machine(options.threads).line()}", highlight=False)


def build_all(console: Console) -> None:
    """Fetch, compile and convert everything that a run needs.

    Raises:
        UserError: something of it fails.
    """
    for name in SHAPES:
        for kind in KINDS:
            console.print(f"{gguf(name, kind).name} is there", highlight=False)
    for what, make in (
        ("llama.cpp", build.llama_cpp),
        ("openvino", lambda: build.python_of(build.OPENVINO)),
        ("onnxruntime", lambda: [build.onnx_folder(name, kind) for name in SHAPES for kind in ("int8", "int4")]),
    ):
        make()
        console.print(f"{what} is there", highlight=False)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description="Speed of the native core and of its peers, in turn.")
    result.add_argument("--rounds", type=int, default=5)
    result.add_argument("--threads", type=int, default=2)
    every = [*LINES, engine_start.LINE]
    result.add_argument("--lines", type=lambda text: text.split(","), default=every, help=f"among: {', '.join(every)}")
    result.add_argument("--peers", type=lambda text: text.split(","), default=PEERS, help=f"among: {', '.join(PEERS)}")
    result.add_argument("--build", action="store_true", help="only make the peers and the models")
    result.add_argument("--out", type=Path, default=HERE / "results" / "engine.json")
    return result


def main(arguments: list[str]) -> int:
    """Measure, or only build."""
    options = parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    unknown = (set(options.lines) - {*LINES, engine_start.LINE}) | (set(options.peers) - {*PEERS})
    if unknown:
        print(f"there is no {min(unknown)!r}: see --help for the lines and peers", file=sys.stderr)
        return 2
    try:
        if options.build:
            build_all(console)
        else:
            measure(options, console)
    except (UserError, WorkerFailed, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
