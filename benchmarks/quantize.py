"""What quantisation costs in quality: the plain Q4_0 of every GGUF exporter beside ours, on the same text.

    python benchmarks/quantize.py quickstart/base quickstart-60/base [--wikitext FOLDER] [--threads 2]

Each model is judged by the held-out documents of its run and calibrated on the others; with ``--wikitext`` also by
``test.txt`` of that folder, calibrated on ``valid.txt`` (a model that is no run is judged by nothing else). Perplexity
is of the weights in the file, read back. Writes benchmarks/results/quantize.json.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cadran.compress.fidelity import Fidelity, compare
from cadran.compress.quantize import KEPT, Choices, quantize
from cadran.compress.texts import open_tokenizer, read_texts, thinned, tokens_of
from cadran.corpus.document import read_documents
from cadran.errors import UserError
from cadran.files import write_json
from cadran.library.export import export_gguf_file
from cadran.library.header import read_header
from cadran.model.checkpoint import load_model
from cadran.recipe.run import find_model

LIMIT = 0.001
"""Bar: most that the perplexity of INT8 may change."""
PLAIN = "Q4_0, plain export"
METHODS = ("round", "awq", "gptq", "awq+gptq")


@dataclass(frozen=True, slots=True)
class Text:
    """What a model is calibrated on and judged by."""

    name: str
    learnt: Path
    judged: Path


def texts_of(model: Path, wikitext: Path | None, work: Path) -> Iterator[Text]:
    """The texts for one model; those of a run are written to a folder of this process."""
    corpus = model.parent / "corpus" / "documents.jsonl"
    if corpus.is_file():
        files = {split: work / f"{split}.jsonl" for split in ("train", "validation")}
        rows: dict[str, list[str]] = {"train": [], "validation": []}
        for document, split in read_documents(corpus):
            rows[split].append(json.dumps({"text": document.text}) + "\n")
        for split, path in files.items():
            path.write_text("".join(rows[split]), encoding="utf-8")
        yield Text("held-out documents", files["train"], files["validation"])
    if wikitext is not None:
        yield Text("WikiText-2", wikitext / "valid.txt", wikitext / "test.txt")


def plain(path: Path, output: Path, text: Text, most: int) -> tuple[float, Fidelity]:
    """Bits a weight and loss of ``cadran export --gguf q4_0``, whose bytes are those of llama.cpp's rule."""
    export_gguf_file(path, output, "q4_0", name="model", force=True)
    tokenizer, header = open_tokenizer(path), read_header(output)
    documents = tokens_of(tokenizer, thinned(read_texts(text.judged), most))
    length = min(512, header.context or 512)
    import torch

    fidelity = compare(
        load_model(path, torch.float32), load_model(output), documents, length, tokenizer.vocabulary_size, most
    )
    return 8 * header.bytes / header.parameters, fidelity


def measure(
    path: Path, text: Text, work: Path, options: argparse.Namespace
) -> Iterator[tuple[str, float, Fidelity, float]]:
    """Name, bits a weight, loss and seconds of every way."""
    output, most = work / "model.gguf", options.tokens
    start = time.perf_counter()
    yield PLAIN, *plain(path, output, text, most), time.perf_counter() - start
    eight = Choices(8, text=text.judged, most=most, kept="")
    learnt = replace(eight, calibrate=text.learnt, windows=options.windows)
    ways: list[tuple[str, Choices]] = [("INT8, no text", eight), ("INT8, gptq", replace(learnt, method="gptq"))]
    for kind, kept in (("Q4_0", ""), ("Q4_1", ""), ("Q4_0", KEPT)):
        four = replace(eight, bits=4, four=kind, kept=kept)
        label = kind + (" V/O 8" if kept else "")
        ways.append((f"{label}, no text", four))
        taught = replace(four, calibrate=text.learnt, windows=options.windows)
        ways += [(f"{label}, {method}", replace(taught, method=method)) for method in options.methods]
    for name, choices in ways:
        start = time.perf_counter()
        report = quantize(path, output, choices, name="model", force=True)
        yield name, report.bits_after, report.fidelity, time.perf_counter() - start


def main(arguments: list[str]) -> int:
    """Measure, print, write; exit status 2 for what the user can mend."""
    parser = argparse.ArgumentParser(description="Quality of quantised models.")
    parser.add_argument("models", nargs="*", default=["quickstart/base"])
    parser.add_argument("--wikitext", type=Path, help="folder with valid.txt and test.txt")
    parser.add_argument("--tokens", type=int, default=32_768, help="to judge by, about")
    parser.add_argument("--windows", type=int, default=64, help="to calibrate on, of up to 512 tokens")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=METHODS)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "quantize.json")
    options = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", UserWarning)
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    results: dict[str, Any] = {}
    try:
        for model in options.models:
            path = find_model(model)
            with tempfile.TemporaryDirectory() as folder:
                for text in texts_of(path, options.wikitext, Path(folder)):
                    found = list(measure(path, text, Path(folder), options))
                    console.print(table(model, text.name, found))
                    bars = verdicts(found)
                    for bar, met in bars.items():
                        console.print(f"{bar}: {'met' if met else 'MISSED'}")
                    results.setdefault(model, {})[text.name] = {
                        "bars": bars,
                        "ways": {
                            name: asdict(fidelity) | {"change": fidelity.change, "bits": bits, "seconds": seconds}
                            for name, bits, fidelity, seconds in found
                        },
                    }
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    write_json(options.out, {"models": results, "threads": options.threads})
    return 0


def table(model: str, text: str, found: list[tuple[str, float, Fidelity, float]]) -> Table:
    """One line a way."""
    first = found[0][2]
    title = f"{model} on {text}: perplexity {first.before:.4f} in float32, {first.tokens:,} tokens"
    result = Table(*("", "bits a weight", "perplexity", "change", "KL, nats", "same choice", "s"), title=title)
    for name, bits, fidelity, seconds in found:
        result.add_row(
            name, f"{bits:.2f}", f"{fidelity.after:.4f}", f"{fidelity.change:+.3%}", f"{fidelity.divergence:.5f}",
            f"{fidelity.agreement:.2%}", f"{seconds:.0f}",
        )  # fmt: skip
    return result


def verdicts(found: list[tuple[str, float, Fidelity, float]]) -> dict[str, bool]:
    """The bars: INT8 within a thousandth, INT4 no worse than the plain export, and better with calibration."""
    by_name = {name: fidelity for name, _, fidelity, _ in found}
    usual = by_name[PLAIN]
    bars = {f"{name}: within {LIMIT:.1%}": abs(by_name[name].change) <= LIMIT for name in by_name if "INT8" in name}
    for name, fidelity in by_name.items():
        if name.endswith("no text") and "Q4_0" in name:
            bars[f"{name}: no more divergence than the plain export"] = fidelity.divergence <= usual.divergence
        if name.endswith("gptq") and "Q4_0" in name:
            less = fidelity.divergence < usual.divergence and fidelity.after < usual.after
            bars[f"{name}: less divergence and perplexity than the plain export"] = less
    return bars


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
