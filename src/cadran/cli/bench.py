"""``cadran bench``."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cadran.engine.bench import BenchResult, Figure


def bench(
    model: Annotated[str, typer.Argument(help="A run (quickstart), a pulled model (smollm2), a folder, a file.")],
    prompt_tokens: Annotated[int, typer.Option(help="Length of the prompt.")] = 512,
    new_tokens: Annotated[int, typer.Option(help="Tokens decoded after it.")] = 128,
    rounds: Annotated[int, typer.Option(help="Measurements of each; their median is shown.")] = 5,
    runner: Annotated[str | None, typer.Option(help="native or torch; else the faster one that can run it.")] = None,
    threads: Annotated[int | None, typer.Option(help="Of the computation; else what the machine gives.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For a program.")] = False,
) -> None:
    """Measure how fast a model reads and writes on this machine."""
    import json

    from rich.console import Console
    from rich.table import Table

    from cadran.engine.bench import bench as measure
    from cadran.engine.loading import asked_runner
    from cadran.recipe.run import find_model

    path, choice = find_model(model), asked_runner(runner)
    console = Console(stderr=True, highlight=False, markup=False)
    with console.status("") as status:
        result = measure(
            path, choice, prompt_tokens=prompt_tokens, new_tokens=new_tokens, rounds=rounds, threads=threads,
            progress=lambda words: status.update(words),
        )  # fmt: skip
    if as_json:
        print(json.dumps({"model": model} | result.to_json()))
        return
    table = Table("", "median", "spread", box=None, pad_edge=False)
    for row in _rows(result):
        table.add_row(*row)
    out = Console(highlight=False, markup=False)
    out.print(f"{model}: {result.runner} runner, {result.threads} threads, {result.rounds} rounds", soft_wrap=True)
    if result.reason:
        out.print(f"not the native core: {result.reason}", soft_wrap=True)
    out.print(table)
    if result.bandwidth.by == "numpy":
        out.print(
            "the bandwidth was measured with numpy, for want of the native core, and may be more than that",
            soft_wrap=True,
        )


def _rows(result: "BenchResult") -> "Iterator[tuple[str, str, str]]":
    from cadran.cli.readable import bytes_of

    yield f"prefill of {result.prompt_tokens} tokens", *_speed(result.prefill)
    first = result.first_token
    yield "time to first token", f"{first.median * 1e3:,.1f} ms", f"{first.low * 1e3:,.1f} to {first.high * 1e3:,.1f}"
    yield f"decode of {result.new_tokens} tokens", *_speed(result.decode)
    yield f"decode, {result.together} sequences together", *_speed(result.decode_together)
    yield "load", f"{result.load_seconds:.2f} s", ""
    yield (
        "memory",
        bytes_of(result.memory_bytes),
        f"{result.memory_ratio:.2f} x the weights ({bytes_of(result.weight_bytes)})",
    )
    read = result.decode.median * result.token_bytes
    yield (
        "memory read by decode",
        f"{bytes_of(int(read))}/s",
        f"{result.bandwidth_fraction:.0%} of the measured {bytes_of(int(result.bandwidth.bytes_per_second))}/s",
    )


def _speed(figure: "Figure") -> tuple[str, str]:
    return f"{figure.median:,.1f} tokens/s", f"{figure.low:,.1f} to {figure.high:,.1f}"
