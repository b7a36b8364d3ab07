"""What the native core's integer arithmetic costs in quality: perplexity beside PyTorch in float32, same weights.

    python benchmarks/precision.py quickstart/base smollm2 --text FILE [--tokens 12000]

Each model is judged as it is stored; a float one also as the file that ``cadran quantize --int8`` makes of it, which
is compared with PyTorch on the original. Windows of 512 tokens (or the model's context) that do not overlap.
Writes benchmarks/results/precision.json.
"""

import argparse
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cadran.compress.quantize import Choices, quantize
from cadran.compress.texts import read_texts
from cadran.engine.engine import Engine
from cadran.files import write_json
from cadran.library.header import read_header
from cadran.recipe.run import find_model

WINDOW = 512
NATIVE: dict[str, dict[str, str]] = {
    "native, 16-bit activations": {"activations": "int16"},
    "native, 8-bit activations": {"activations": "int8"},
    "native, 16-bit activations, 8-bit keys and values": {"activations": "int16", "kv": "int8"},
}


def perplexity(path: Path, text: str, tokens: int, **options: Any) -> float:
    """Of a text's first tokens."""
    with Engine.load(path, **options) as engine:
        ids = engine.tokenizer.encode(text)[:tokens]
        window = min(WINDOW, engine.context - 1)
        total, count = 0.0, 0
        for first in range(0, len(ids) - 1, window):
            for scored in engine.score(ids[first : first + window]):
                if scored.logprob is not None:
                    total, count = total - scored.logprob, count + 1
    return math.exp(total / count)


def files(name: str, text: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """What of a model is judged."""
    path = find_model(name)
    yield name, path
    if path.is_dir():
        small = folder / f"{name.replace('/', '-')}-int8.gguf"
        quantize(path, small, Choices(bits=8, text=text, most=2048), name=name)
        yield f"{name}, INT8", small


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=12_000)
    asked = parser.parse_args()
    text = "\n\n".join(read_texts(asked.text).documents)
    table = Table("model", "arithmetic", "perplexity", "change")
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        for name in asked.models:
            original = perplexity(find_model(name), text, asked.tokens, runner="torch")
            table.add_row(name, "PyTorch, float32", f"{original:.4f}", "")
            for title, path in files(name, asked.text, Path(work)):
                stored = read_header(path)
                for arithmetic, options in NATIVE.items():
                    found = perplexity(path, text, asked.tokens, runner="native", **options)
                    change = found / original - 1
                    table.add_row(title, arithmetic, f"{found:.4f}", f"{change:+.3%}")
                    results.append({"model": title, "kind": stored.kind, "arithmetic": arithmetic,
                                    "perplexity": found, "float32": original, "change": change})  # fmt: skip
    Console().print(table)
    write_json(Path(__file__).parent / "results" / "precision.json",
               {"text": asked.text.name, "tokens": asked.tokens, "window": WINDOW, "rows": results})  # fmt: skip


if __name__ == "__main__":
    main()
