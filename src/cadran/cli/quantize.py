"""``cadran quantize``."""

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cadran.errors import UserError

if TYPE_CHECKING:
    from cadran.compress.quantize import Report


class How(StrEnum):
    """Ways of choosing 4-bit weights."""

    round = "round"
    awq = "awq"
    gptq = "gptq"
    both = "awq+gptq"


class Four(StrEnum):
    """Kinds of 4-bit blocks."""

    q4_0 = "q4_0"
    q4_1 = "q4_1"


def quantize(
    model: Annotated[str, typer.Argument(help="A run or a stage of one, a folder, a .gguf file; not quantised yet.")],
    int8: Annotated[bool, typer.Option("--int8", help="8 bits for each weight: next to no loss.")] = False,
    int4: Annotated[bool, typer.Option("--int4", help="4 bits; embedding and output head keep 8.")] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="Text, folder or JSON lines to learn the rounding from: less loss, some minutes."),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="Text to measure the loss on; by default a part of --calibrate is held out.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="File (.gguf) or folder; a run's own folder by default, else this one.")
    ] = None,
    method: Annotated[How | None, typer.Option(help="With --calibrate: what to do with the text.")] = None,
    kind: Annotated[
        Four, typer.Option(help="4-bit blocks: q4_1 has minima too, half a bit a weight more and less loss.")
    ] = Four.q4_0,
    pure: Annotated[
        bool, typer.Option("--pure", help="4 bits for attention's values and outputs too: smaller, more loss.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The report for a program.")] = False,
) -> None:
    """Make a model smaller and faster, write it as a GGUF file, and measure what it lost."""
    if int8 == int4:
        raise UserError("choose how small: --int8 or --int4")
    if int8 and (pure or kind is not Four.q4_0):
        raise UserError("--kind and --pure are for --int4")

    import json
    import sys
    import warnings

    from cadran.cli.bar import steps
    from cadran.compress.quantize import KEPT, Choices, quantize
    from cadran.library.export import model_label
    from cadran.recipe.run import find_model

    path, name, size = find_model(model), model_label(model), "int8" if int8 else "int4"
    target = _target(path, output, f"{name}-{size}.gguf", size)
    choices = Choices(
        bits=8 if int8 else 4,
        four="Q4_0" if kind is Four.q4_0 else "Q4_1",
        method=None if method is None else method.value,
        calibrate=calibrate,
        text=text,
        kept="" if pure or int8 else KEPT,
    )
    with warnings.catch_warnings(record=True) as said, steps() as bar:
        warnings.simplefilter("always", UserWarning)
        report = quantize(path, target, choices, name=name, force=force, progress=bar.progress)
        bar.progress("measuring the speed", 0, 1)
        speed, why_not = _speed(path, target)
    for warning in said:
        print(f"note: {warning.message}", file=sys.stderr)
    if as_json:
        print(json.dumps({"model": model} | report.to_json() | {"speed": speed}))
        return
    print("\n".join(_lines(report, speed, why_not)))


def _target(path: Path, output: Path | None, file: str, size: str) -> Path:
    """The file to write; the folder of a run, and one that ``--output`` names, is made."""
    if output is None:
        if not (path.is_dir() and (path.parent / "recipe.yaml").is_file()):
            return Path(file)
        folder = path.parent / size
        folder.mkdir(exist_ok=True)
        return folder / file
    if output.suffix == ".gguf" and not output.is_dir():
        return output
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is neither a folder nor a .gguf file; choose another with --output")
    output.mkdir(exist_ok=True)
    return output / file


def _speed(before: Path, after: Path) -> tuple[dict[str, Any] | None, str]:
    """Tokens a second of both on the native core, or why there are none."""
    try:
        from cadran.engine.bench import bench
        from cadran.engine.native.library import available, why_not
        from cadran.library.header import read_header
    except ImportError:
        return None, "this installation has no native core"
    if not available():
        return None, why_not() or "there is no native core"
    header = read_header(before)
    context = header.context or 256
    prompt, new = min(256, context // 2), min(64, context // 4)
    try:
        found = [bench(path, "native", prompt_tokens=prompt, new_tokens=new, rounds=3) for path in (before, after)]
    except UserError as error:
        return None, str(error)
    keys = ("before", "after")
    return {
        "prefill": {key: one.prefill.median for key, one in zip(keys, found, strict=True)},
        "decode": {key: one.decode.median for key, one in zip(keys, found, strict=True)},
    }, ""


def _lines(report: "Report", speed: dict[str, Any] | None, why_not: str) -> Iterator[str]:
    from cadran.cli.readable import bytes_of

    fidelity = report.fidelity
    learnt = (
        f", calibrated on {report.calibration_tokens:,} tokens of {report.calibration}" if report.calibration else ""
    )
    yield f"{report.file} is written: {report.kind} by {report.method}{learnt}"
    yield ""
    yield f"{'':<28}{'before':>12}{'after':>12}"
    yield f"{'weights':<28}{bytes_of(report.bytes_before):>12}{bytes_of(report.bytes_after):>12}"
    yield f"{'bits a weight':<28}{report.bits_before:>12.2f}{report.bits_after:>12.2f}"
    yield f"{'perplexity':<28}{fidelity.before:>12.4f}{fidelity.after:>12.4f}   {fidelity.change:+.2%}"
    if speed is not None:
        for what in ("prefill", "decode"):
            yield f"{what + ', tokens/s':<28}{speed[what]['before']:>12,.0f}{speed[what]['after']:>12,.0f}"
    yield ""
    yield (
        f"mean KL divergence from the original {fidelity.divergence:.5f} nats a token (99 % below "
        f"{fidelity.divergence_99:.4f}); the same first choice for {fidelity.agreement:.2%} of the tokens"
    )
    yield (
        f"measured on {fidelity.tokens:,} tokens: {report.text}, windows of {fidelity.window} tokens, each target with "
        "at least half a window before it"
    )
    if speed is None:
        yield f"tokens/s are not measured: {why_not}"
    yield f'try it: cadran generate {report.file} "Hello"'
