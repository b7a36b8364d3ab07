"""``cadran tokenizer``."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Look at a tokenizer.", no_args_is_help=True)

EXAMPLES = {
    "en": "In 1867, the explorers crossed the river; they hadn't eaten for 12 days.",
    "fr": "En 1867, les explorateurs traversèrent la rivière ; ils n'avaient rien mangé depuis 12 jours.",
}


@app.command("show")
def show(
    model: Annotated[str, typer.Argument(help="A run, a stage of one, or a model folder.")],
    text: Annotated[str | None, typer.Argument(help="Text to cut; an example in each language by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Ids and pieces for a program.")] = False,
) -> None:
    """Print how a text is cut into tokens, in colours, and bytes per token for each language."""
    import json

    from rich.console import Console

    from cadran.recipe.run import runs_folder
    from cadran.tokenizer.segmentation import bytes_per_token, coloured, segment
    from cadran.tokenizer.tokenizer import Tokenizer

    folders = [Path(model), runs_folder() / model / "tokenizer", runs_folder() / model]
    folder = next((f for f in folders if (f / "tokenizer.json").is_file()), folders[1])
    tokenizer = Tokenizer.load(folder)
    texts = EXAMPLES if text is None else {"text": text}
    rates = bytes_per_token(tokenizer, {name: [content] for name, content in texts.items()})
    measured = folder / "results.json"
    if text is None and measured.is_file():
        from cadran.files import read_json

        rates |= read_json(measured).get("bytes_per_token", {})
    if as_json:
        pieces = {n: [{"id": p.id, "text": p.printable} for p in segment(tokenizer, t)] for n, t in texts.items()}
        print(json.dumps({"pieces": pieces, "bytes_per_token": rates}, ensure_ascii=False))
        return
    console = Console()
    for name, content in texts.items():
        console.print(coloured(tokenizer, content))
        console.print(f"{name}: {len(tokenizer.encode(content))} tokens\n", highlight=False)
    where = "held-out text" if text is None and measured.is_file() else "this text"
    shown = ", ".join(f"{name} {value:.2f}" for name, value in sorted(rates.items()))
    console.print(f"bytes per token of {where}: {shown}; vocabulary {tokenizer.vocabulary_size}", highlight=False)
