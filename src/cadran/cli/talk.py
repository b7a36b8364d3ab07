"""``cadran generate`` and ``cadran chat``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cadran.errors import UserError

if TYPE_CHECKING:
    from cadran.engine.sampler import SamplingParams

Temperature = Annotated[float, typer.Option(help="0 takes the likeliest token; higher is more varied.")]
TopP = Annotated[float, typer.Option(help="Keep the likeliest tokens up to this share of probability.")]
TopK = Annotated[int, typer.Option(help="Keep this many of the likeliest tokens; 0 keeps all.")]
MinP = Annotated[float, typer.Option(help="Drop tokens less likely than this share of the likeliest one; 0 keeps all.")]
RepeatPenalty = Annotated[float, typer.Option(help="Make what was said before less likely; 1 does not.")]
Seed = Annotated[int, typer.Option(help="Of the random numbers: the same seed gives the same text.")]
MaxTokens = Annotated[int, typer.Option(help="Most tokens of an answer.")]
Stop = Annotated[list[str] | None, typer.Option(help="A text that ends the answer; may be given several times.")]
Threads = Annotated[int | None, typer.Option(help="Of the computation; by default what the machine gives.")]
Template = Annotated[str | None, typer.Option(help="Chat format to use instead of the model's own, e.g. chatml.")]
Adapter = Annotated[Path | None, typer.Option(help="Folder of a LoRA adapter (PEFT's format) to put on the model.")]
Model = Annotated[
    str, typer.Argument(help="A run (quickstart) or a stage of it, a pulled model (smollm2), a folder, a file.")
]


def generate(
    model: Model,
    prompt: Annotated[str, typer.Argument(help="The text to answer or continue; - reads standard input.")],
    max_tokens: MaxTokens = 200,
    temperature: Temperature = 0.7,
    top_p: TopP = 0.95,
    top_k: TopK = 0,
    min_p: MinP = 0.0,
    repeat_penalty: RepeatPenalty = 1.0,
    seed: Seed = 0,
    stop: Stop = None,
    json_schema: Annotated[
        Path | None, typer.Option(help="Answer with JSON that fits the schema in this file.")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="No chat template: continue the text, print only that.")] = False,
    template: Template = None,
    adapter: Adapter = None,
    threads: Threads = None,
) -> None:
    """Print one answer, as it is made."""
    import cadran

    params = _params(max_tokens, temperature, top_p, top_k, min_p, repeat_penalty, seed)
    grammar = None if json_schema is None else {"json_schema": _text_of(json_schema)}
    with cadran.load(model, template=template, adapter=adapter, threads=threads) as engine:
        text = sys.stdin.read() if prompt == "-" else prompt
        # A base model of ours knows no turns: it continues, asked for or not. Of others, a missing template may be an
        # accident, and nothing is guessed.
        if not raw and (engine.chats or not engine.tokenizer.is_ours):
            answer = engine.chat([{"role": "user", "content": text}], params, stop=stop or (), grammar=grammar)
        else:
            answer = engine.generate(text, params, stop=stop or (), grammar=grammar)
        for event in answer:
            print(event.text, end="", flush=True)
        print()


def chat(
    model: Annotated[
        str | None,
        typer.Argument(help="A run (quickstart) or a stage of it, a pulled model (smollm2), a folder, a file."),
    ] = None,
    max_tokens: MaxTokens = 200,
    temperature: Temperature = 0.7,
    top_p: TopP = 0.95,
    top_k: TopK = 0,
    min_p: MinP = 0.0,
    repeat_penalty: RepeatPenalty = 1.0,
    seed: Seed = 0,
    stop: Stop = None,
    system: Annotated[str | None, typer.Option(help="A system message to begin with.")] = None,
    template: Template = None,
    adapter: Adapter = None,
    threads: Threads = None,
    url: Annotated[str | None, typer.Option(help="Of a server that has the model, e.g. http://127.0.0.1:8000.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="CADRAN_API_KEY", help="What the server asks for.")] = None,
) -> None:
    """Talk with a model. /reset forgets the conversation, /help lists the rest, Ctrl-D leaves."""
    from rich.console import Console

    import cadran
    from cadran.cli.conversation import Conversation

    params = _params(max_tokens, temperature, top_p, top_k, min_p, repeat_penalty, seed)
    if url is not None:
        from cadran.cli.remote_model import RemoteModel
        from cadran.client.client import Client

        if template or adapter or threads:
            raise UserError("--template, --adapter and --threads are the server's to set; leave them out with --url")
        with Client(url, api_key) as client:
            remote = RemoteModel(client, model)
            Conversation(remote, params, system, Console(highlight=False), stop or ()).run(remote.name)
        return
    if model is None:
        raise UserError("name a model, e.g. cadran chat smollm2, or a server with --url")
    with cadran.load(model, template=template, adapter=adapter, threads=threads) as engine:
        if not engine.chats and not engine.tokenizer.is_ours:
            engine.chat([], params)  # says what is missing
        Conversation(engine, params, system, Console(highlight=False), stop or ()).run(model)


def _params(
    max_tokens: int, temperature: float, top_p: float, top_k: int, min_p: float, repeat_penalty: float, seed: int
) -> "SamplingParams":
    from cadran.engine.sampler import SamplingParams

    return SamplingParams(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        max_tokens=max_tokens,
        min_p=min_p,
        repetition_penalty=repeat_penalty,
    )


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); name a JSON file after --json-schema") from error
