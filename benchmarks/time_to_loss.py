"""Wall-clock to the same held-out bits per byte: Cadran's training against a tuned GPT of nanoGPT's shape.

    python benchmarks/time_to_loss.py --run runs/quickstart [--minutes 2] [--seeds 3]

Both read the same shards of one tokenizer with the same context and tokens a step, in fp32 in one process, with the
same allocator setting, one after the other, seed by seed. The baseline (AdamW, cosine) first has its peak learning rate
chosen by short runs. Each run's length in steps comes from its own measured speed, so that its schedule ends with its
budget; ours gets ``--ours-share`` of the baseline's. The clock stands still during evaluation.
"""

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console

from cadran.corpus.shards import TokenShard
from cadran.errors import UserError
from cadran.files import write_json
from cadran.model.config import ModelConfig
from cadran.model.transformer import Transformer
from cadran.train.estimate import tokens_per_second
from cadran.train.loader import TokenLoader
from cadran.train.machine import restart_with_huge_pages
from cadran.train.next_token import NextToken
from cadran.train.optimizers import OptimizerConfig
from cadran.train.schedule import Schedule
from cadran.train.trainer import Trainer, TrainingPlan
from curve import Curve, Point, seconds_to
from held_out import bits_per_byte
from interleaved import Spread, measure_machine
from peer_nanogpt import NanoGPT, NanoPlan, NanoShape, NanoTrainer, token_stream

RATES = (1e-3, 2e-3, 3e-3, 4e-3, 6e-3, 1e-2)
BAR = 1.5


@dataclass(frozen=True)
class Race:
    """What both sides share: data, sizes, how to evaluate."""

    train: TokenShard
    validation: TokenShard
    shape: ModelConfig
    nano: NanoShape
    rows: int
    evaluations: int
    documents: int

    def evaluate(self, model: Callable[[torch.Tensor], torch.Tensor]) -> float:
        """Bits per byte of a model on the first held-out documents of each language."""
        return bits_per_byte(model, self.validation, self.shape.context, self.documents)

    def every(self, steps: int) -> int:
        """Steps between two evaluations."""
        return max(1, steps // self.evaluations)


def train_baseline(race: Race, steps: int, rate: float, seed: int) -> list[Point]:
    """Train the GPT of nanoGPT's shape with AdamW and a cosine.

    Args:
        race: data and sizes.
        steps: length of the schedule.
        rate: peak learning rate.
        seed: of weights and windows.
    """
    stream, model = token_stream(race.train), NanoGPT(race.nano, seed)
    curve = Curve(lambda: race.evaluate(model))
    NanoTrainer(model, stream, NanoPlan(steps, race.rows, rate, seed)).run(curve.observe, race.every(steps))
    return curve.points


def own_plan(race: Race, steps: int) -> TrainingPlan:
    """Cadran's defaults: Muon for the blocks' matrices, AdamW for the rest, warm-up, plateau and decay."""
    return TrainingPlan(
        steps=steps,
        micro_rows=race.rows,
        precision="fp32",
        optimizer=OptimizerConfig(),
        schedule=Schedule(steps),
        observe_every=race.every(steps),
        checkpoint_seconds=float("inf"),  # the baseline writes none either
    )


def train_ours(race: Race, steps: int, seed: int) -> list[Point]:
    """Train Cadran's Transformer with Cadran's Trainer; packing the epoch is on the clock.

    Args:
        race: data and sizes.
        steps: length of the schedule.
        seed: of weights and data order.
    """
    model = Transformer(race.shape, seed)
    curve = Curve(lambda: race.evaluate(model))
    loader = TokenLoader(race.train, race.shape.context, race.rows, seed)
    with TemporaryDirectory() as folder:
        plan = own_plan(race, steps)
        objective = NextToken(model, loader, plan.micro_rows)
        Trainer(model, objective, plan, Path(folder), {}, lambda event: None, curve.observe).run()
    return curve.points


def lengths(race: Race, seconds: float, ours_share: float) -> tuple[int, int]:
    """Steps that the baseline does in its time, and ours in its share of it.

    Both speeds are measured here, in turn, the median of three measurements each.
    """
    trainer = NanoTrainer(NanoGPT(race.nano, 0), token_stream(race.train), NanoPlan(12, race.rows, 1e-4, 0))
    context, theirs, ours = race.shape.context, [], []
    for turn in range(3):
        trainer.step(4 * turn)
        start = time.perf_counter()
        for number in range(4 * turn + 1, 4 * turn + 4):
            trainer.step(number)
        theirs.append((time.perf_counter() - start) / 3)
        speed = tokens_per_second(race.shape, own_plan(race, 8), race.train, race.rows, context, steps=3)
        ours.append(race.rows * context / speed)
    return (
        max(2, int(seconds / statistics.median(theirs))),
        max(2, int(seconds * ours_share / statistics.median(ours))),
    )


def choose_rate(race: Race, steps: int, rates: list[float], console: Console) -> tuple[float, dict[str, float | None]]:
    """Train the baseline briefly at each peak rate, each with its whole cosine, and take the lowest bits per byte.

    Returns:
        The rate, and the figure of each rate by its text; a single rate is taken untried.
    """
    if len(rates) == 1:
        return rates[0], {}
    at_the_end = replace(race, evaluations=1)
    figures = {rate: train_baseline(at_the_end, steps, rate, seed=0)[-1].bits_per_byte for rate in rates}
    figures = {rate: figure if math.isfinite(figure) else math.inf for rate, figure in figures.items()}  # diverged
    chosen = min(figures, key=lambda rate: figures[rate])
    tried = ", ".join(f"{rate:g}: {figure:.4f}" for rate, figure in figures.items())
    console.print(f"baseline's peak rate {chosen:g} (bits per byte after {steps} steps: {tried})", highlight=False)
    if len(rates) > 2 and chosen in (min(rates), max(rates)):
        console.print(f"the best rate {chosen:g} is at the edge of the grid: widen --rates", highlight=False)
    return chosen, {f"{rate:g}": figure if figure < math.inf else None for rate, figure in figures.items()}


def compare(baseline: list[Point], ours: list[Point]) -> dict[str, Any]:
    """One seed's result: both times to the baseline's last bits per byte, their ratio, and the curves."""
    target = baseline[-1].bits_per_byte
    theirs, own = seconds_to(baseline, target), seconds_to(ours, target)
    return {
        "target_bits_per_byte": target,
        "baseline_seconds": theirs,
        "ours_seconds": own,
        "ratio": theirs / own if theirs and own else None,
        "ours_last_bits_per_byte": ours[-1].bits_per_byte,
        "curves": {"baseline": [asdict(p) for p in baseline], "ours": [asdict(p) for p in ours]},
    }


def open_race(options: argparse.Namespace) -> Race:
    """Open the shards and size both models.

    Raises:
        UserError: the run has no shards, or no GPT has as many parameters.
    """
    folder = options.run / "tokenizer" / "tokens"
    train, validation = TokenShard.open(folder / "train"), TokenShard.open(folder / "validation")
    width, heads = options.width, options.heads or max(1, options.width // 64)
    hidden = -(-8 * width // 3 // 32) * 32  # a SwiGLU with the parameters of a 4x MLP
    shape = ModelConfig(
        train.vocabulary, options.layers, width, heads, heads, width // heads, hidden, options.context
    )  # fmt: skip
    nano = NanoShape.matching(shape)
    return Race(train, validation, shape, nano, options.rows, options.evaluations, options.documents)


def measure(options: argparse.Namespace, console: Console) -> None:
    """Choose the baseline's rate, race seed by seed, print, and write what is known after each seed."""
    torch.set_num_threads(options.threads)
    race = open_race(options)
    before = measure_machine(options.threads)
    console.print(f"before: {before.line()}", highlight=False)
    console.print(
        f"parameters: ours {race.shape.parameters:,}, baseline {race.nano.parameters:,} "
        f"({race.nano.parameters / race.shape.parameters:.3f})",
        highlight=False,
    )
    steps, ours_steps = options.steps or lengths(race, 60 * options.minutes, options.ours_share)
    rate, search = choose_rate(race, max(2, int(steps * options.search_share)), options.rates, console)
    result: dict[str, Any] = {
        "minutes": options.minutes, "ours_share": options.ours_share, "steps": {"baseline": steps, "ours": ours_steps},
        "baseline_rate": rate, "rate_search": search, "rate_search_share": options.search_share,
        "shape": asdict(race.shape), "baseline_shape": asdict(race.nano), "rows": race.rows,
        "parameters": {"baseline": race.nano.parameters, "ours": race.shape.parameters},
        "plan": asdict(own_plan(race, ours_steps)) | {"checkpoint_seconds": None},
        "huge_pages": "GLIBC_TUNABLES" in os.environ, "seeds": {}, "machine": {"before": asdict(before)},
        "corpus": {"train": race.train.fingerprint, "validation": race.validation.fingerprint},
    }  # fmt: skip
    for seed in range(options.seeds):
        baseline = partial(train_baseline, race, steps, rate, seed)
        ours = partial(train_ours, race, ours_steps, seed)
        turns = {side: side() for side in ((ours, baseline) if seed % 2 else (baseline, ours))}
        one = result["seeds"][str(seed)] = compare(turns[baseline], turns[ours])
        console.print(_line(seed, one), highlight=False, soft_wrap=True)
        write_json(options.out, result)
    ratios = [one["ratio"] for one in result["seeds"].values()]
    result["machine"]["after"] = asdict(measure_machine(options.threads))
    if None not in ratios:
        spread = Spread.of(ratios)
        result["ratio"] = asdict(spread)
        verdict = "met" if spread.median >= BAR else "MISSED"
        console.print(f"ratio {spread.median:.3f} ({spread.min:.3f} .. {spread.max:.3f}), bar {BAR} {verdict}")
    else:
        console.print("ours did not reach the baseline's figure on every seed: no ratio; give a larger --ours-share")
    write_json(options.out, result)


def _line(seed: int, one: dict[str, Any]) -> str:
    reached = f"{one['ours_seconds']:.1f} s, ratio {one['ratio']:.3f}" if one["ratio"] else "not reached"
    return (
        f"seed {seed}: {one['target_bits_per_byte']:.4f} bits per byte after {one['baseline_seconds']:.1f} s of the "
        f"baseline; ours {reached}, ends at {one['ours_last_bits_per_byte']:.4f}"
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description="Wall-clock to the same held-out bits per byte.")
    result.add_argument("--run", type=Path, default=Path("runs/quickstart"))
    result.add_argument("--minutes", type=float, default=2.0, help="the baseline's training time a seed")
    result.add_argument("--ours-share", type=float, default=0.6, help="our training time, as a share of that")
    result.add_argument("--steps", type=lambda text: tuple(map(int, text.split(","))), help="BASELINE,OURS: no timing")
    result.add_argument("--seeds", type=int, default=3)
    result.add_argument("--rates", type=lambda text: [float(rate) for rate in text.split(",")], default=list(RATES))
    result.add_argument("--search-share", type=float, default=0.25, help="length of a run that tries a rate")
    for name, value in (("layers", 3), ("width", 192), ("heads", 0), ("context", 256), ("rows", 8)):
        result.add_argument(f"--{name}", type=int, default=value)
    result.add_argument("--evaluations", type=int, default=16, help="a run")
    result.add_argument("--documents", type=int, default=100, help="held-out documents of each language")
    result.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    result.add_argument("--default-malloc", action="store_true", help="neither side has huge pages")
    result.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "time_to_loss.json")
    return result


def main(arguments: list[str]) -> int:
    """Measure; exit status 2 for what the user can mend."""
    try:
        measure(parser().parse_args(arguments), Console())
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    if "--default-malloc" not in sys.argv:
        restart_with_huge_pages()
    sys.exit(main(sys.argv[1:]))
