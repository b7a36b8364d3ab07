"""``cadran generate`` and ``cadran chat``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

Temperature = Annotated[float, typer.Option(help="0 takes the likeliest token; higher is more varied.")]
TopP = Annotated[float, typer.Option(help="Keep the likeliest tokens up to this share of probability.")]
Seed = Annotated[int, typer.Option(help="Of the random numbers: the same seed gives the same text.")]
MaxTokens = Annotated[int, typer.Option(help="Most tokens of an answer.")]
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
    seed: Seed = 0,
    raw: Annotated[bool, typer.Option("--raw", help="No chat template: continue the text, print only that.")] = False,
    template: Template = None,
    adapter: Adapter = None,
) -> None:
    """Print one answer, as it is made."""
    from cadran.engine.engine import Engine
    from cadran.engine.sampler import SamplingParams
    from cadran.recipe.run import find_model

    params = SamplingParams(temperature=temperature, top_p=top_p, seed=seed, max_tokens=max_tokens)
    folder = find_model(model)
    text = sys.stdin.read() if prompt == "-" else prompt
    engine = Engine.load(folder, template, adapter)
    # A base model of ours knows no turns: it continues, asked for or not. Of others, a missing template may be an
    # accident, and nothing is guessed.
    chats = not raw and (engine.chats or not engine.tokenizer.is_ours)
    events = engine.chat([{"role": "user", "content": text}], params) if chats else engine.generate(text, params)
    for event in events:
        print(event.text, end="", flush=True)
    print()


def chat(
    model: Model,
    max_tokens: MaxTokens = 200,
    temperature: Temperature = 0.7,
    top_p: TopP = 0.95,
    seed: Seed = 0,
    system: Annotated[str | None, typer.Option(help="A system message to begin with.")] = None,
    template: Template = None,
    adapter: Adapter = None,
) -> None:
    """Talk with a model. /reset forgets the conversation, /help lists the rest, Ctrl-D leaves."""
    from rich.console import Console

    from cadran.cli.conversation import Conversation
    from cadran.engine.engine import Engine
    from cadran.engine.sampler import SamplingParams
    from cadran.recipe.run import find_model

    params = SamplingParams(temperature=temperature, top_p=top_p, seed=seed, max_tokens=max_tokens)
    folder = find_model(model)
    engine = Engine.load(folder, template, adapter)
    if not engine.chats and not engine.tokenizer.is_ours:
        engine.chat([], params)  # says what is missing
    Conversation(engine, params, system, Console(highlight=False)).run(model)
