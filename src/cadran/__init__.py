"""Cadran: from a folder of text to a language-model assistant on the machine you have.

``cadran.load("smollm2")`` opens a model, ``cadran.Client()`` talks to a server; everything else is imported from where
it lives. Importing this loads nothing.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from cadran.client.async_client import AsyncClient as AsyncClient
    from cadran.client.client import Client as Client
    from cadran.engine.engine import Engine

__version__ = "0.1.0"


def load(
    model: "str | Path",
    *,
    runner: str | None = None,
    threads: int | None = None,
    template: str | None = None,
    adapter: "str | Path | None" = None,
    context: int | None = None,
    kv: str = "f16",
    activations: str = "int16",
    draft: "str | Path | None" = None,
) -> "Engine":
    """Open a model to generate, chat, score and embed with it.

    Args:
        model: a run (``quickstart``) or a stage of it, a pulled model (``smollm2``), a folder, or a ``.gguf`` file.
        runner: ``native``, ``torch`` or ``auto``; None takes what ``CADRAN_RUNNER`` says, else ``auto``.
        threads: of the computation; None takes what the machine gives.
        template: a named chat template to use instead of the model's own.
        adapter: folder of a LoRA adapter in PEFT's format.
        context: most tokens of prompt and answer together; None takes the model's own.
        kv: how the native core keeps keys and values, ``f32``, ``f16`` or ``int8``.
        activations: what the native core multiplies integer weights by: ``int16`` adds nothing to the weights' own
            rounding, ``int8`` reads prompts and serves many requests up to twice as fast.
        draft: a smaller model with the same vocabulary, named as ``model`` is, whose guesses it verifies; faster where
            they are often right, and never another text.

    Raises:
        UserError: there is no such model, or it cannot be opened with these settings.
    """
    from pathlib import Path

    from cadran.engine.engine import Engine
    from cadran.recipe.run import find_model

    return Engine.load(
        find_model(str(model)),
        template,
        None if adapter is None else Path(adapter),
        runner=runner,
        threads=threads,
        context=context,
        kv=kv,
        activations=activations,
        draft="lookup" if draft == "lookup" else find_model(str(draft)) if draft else None,
    )


def __getattr__(name: str) -> object:
    """``Client`` and ``AsyncClient``, imported when they are first asked for."""
    if name == "Client":
        from cadran.client.client import Client

        return Client
    if name == "AsyncClient":
        from cadran.client.async_client import AsyncClient

        return AsyncClient
    raise AttributeError(f"module 'cadran' has no attribute {name!r}")
