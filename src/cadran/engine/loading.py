"""Opening what an engine stands on: the tokenizer, the chat renderer and the runner that fits the machine.

The native core is taken where it can run the model; else torch, with the reason kept for whoever wonders. torch is
imported by the second choice alone.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from cadran.engine.adapters import NoSharingError, add_adapter
from cadran.engine.gguf_tokenizer import gguf_tokenizer
from cadran.engine.runner import Runner
from cadran.engine.speculation import DrafterOf, DraftModel, PromptLookup
from cadran.engine.threads import usable_threads
from cadran.errors import UserError
from cadran.tokenizer.chat_template import find_template, stored_template, tokenizer_configuration
from cadran.tokenizer.renderer import ChatRenderer, choose_renderer
from cadran.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from cadran.model.transformer import Transformer
    from cadran.tokenizer.template_renderer import TemplateRenderer

Renderer: TypeAlias = "ChatRenderer | TemplateRenderer"
Choice = Literal["auto", "native", "torch"]

VARIABLE = "CADRAN_RUNNER"
PROBE = 'Once upon a time, l\'été 1999: {"x": [3.14, 😀]}\n'
"""Two vocabularies of one size that cut this alike are taken for the same; a wrong guess would cost only time."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A runner and how it was come by.

    Attributes:
        runner: ready.
        model: what it runs, when it is torch's.
        reason: why it is not the native core although it was free to be; else "".
        adapter: number of the adapter that its runner was given for every request, 0 for none.
    """

    runner: Runner
    model: "Transformer | None" = None
    reason: str = ""
    adapter: int = 0


@dataclass(frozen=True, slots=True)
class Drafting:
    """Who guesses, and the runner that it guesses with, if any."""

    drafter: DrafterOf
    runner: Runner | None = None


def asked_runner(choice: str | None) -> Choice:
    """The runner that was asked for; the environment variable ``CADRAN_RUNNER`` decides where nobody did.

    Raises:
        UserError: there is no such runner.
    """
    name = choice or os.environ.get(VARIABLE) or "auto"
    if name not in ("auto", "native", "torch"):
        source = "runner" if choice else VARIABLE
        raise UserError(f"{source} is {name!r}; choose native, torch or auto")
    return cast(Choice, name)


def open_runner(
    path: Path,
    choice: Choice,
    *,
    threads: int | None = None,
    adapter: Path | None = None,
    context: int | None = None,
    kv: str = "f16",
    activations: str = "int16",
) -> Opened:
    """Make a model ready to run.

    Args:
        path: a model directory, or a ``.gguf`` file.
        choice: ``auto`` takes the native core where it can.
        threads: of the computation; None takes what the machine gives.
        adapter: folder of a LoRA adapter in PEFT's format, applied unmerged.
        context: most tokens of prompt and answer together; None takes the model's own.
        kv: how the native core keeps keys and values, ``f32``, ``f16`` or ``int8``; torch keeps them as they are
            computed.
        activations: what the native core multiplies integer weights by, ``int16`` or ``int8``; torch takes floats.

    Raises:
        UserError: it is no model, it is damaged, the adapter does not fit, a setting is out of range, or the native
            core was insisted on and cannot run it.
    """
    if kv not in ("f32", "f16", "int8"):
        raise UserError(f"kv is {kv!r}; choose f32, f16 or int8")
    if activations not in ("int16", "int8"):
        raise UserError(f"activations is {activations!r}; choose int16 or int8")
    for name, number in (("threads", threads), ("context", context)):
        if number is not None and number < 1:
            raise UserError(f"{name} is {number}; give a positive number")
    if choice == "torch":
        return _open_torch(path, threads, adapter, context, "")
    reason = _why_not_native()
    if reason is None:
        from cadran.engine.native.library import Unavailable
        from cadran.engine.native.runner import NativeRunner

        try:
            runner = NativeRunner.open(path, threads=threads, context=context, kv=kv, activations=activations)
            return Opened(runner, adapter=0 if adapter is None else add_adapter(runner, path, adapter))
        except (Unavailable, NoSharingError) as unavailable:
            reason = str(unavailable)
    if choice == "native":
        raise UserError(f"the native core cannot run this: {reason}; leave the runner to auto, or choose torch")
    return _open_torch(path, threads, adapter, context, reason)


def open_drafter(
    name: "Path | Literal['lookup']", choice: Choice, tokenizer: Tokenizer, threads: int | None
) -> Drafting:
    """What guesses tokens for the model to verify.

    Args:
        name: a smaller model with the same vocabulary, or ``lookup``, which looks for what followed the last tokens
            before.
        choice: of the smaller model's runner.
        tokenizer: of the model that verifies.
        threads: of the computation.

    Raises:
        UserError: the smaller model cannot be opened, or its vocabulary is another.
    """
    if name == "lookup":
        return Drafting(PromptLookup.of)
    other, _ = open_tokenizer(name)
    if other.vocabulary_size != tokenizer.vocabulary_size or other.encode(PROBE) != tokenizer.encode(PROBE):
        raise UserError(f"{name} has another vocabulary than the model it should draft for; name one of its own family")
    runner = open_runner(name, choice, threads=threads).runner
    runner.vocabulary = min(runner.vocabulary, tokenizer.vocabulary_size)
    return Drafting(DraftModel(runner).start, runner)


def _why_not_native() -> str | None:
    from cadran.engine.native.library import available, why_not

    return None if available() else (why_not() or "it is not there")


def _open_torch(path: Path, threads: int | None, adapter: Path | None, context: int | None, reason: str) -> Opened:
    import torch

    from cadran.engine.torch_runner import TorchRunner
    from cadran.model.checkpoint import load_model

    # Of itself torch takes every core, also where a quota leaves it a part of them.
    torch.set_num_threads(threads or min(torch.get_num_threads(), usable_threads()))
    model = load_model(path)
    if adapter is not None:
        from cadran.model.lora_files import load_adapter

        load_adapter(model, adapter)
    runner = TorchRunner(model)
    runner.context = min(runner.context, context or runner.context)
    return Opened(runner, model, reason)


def open_tokenizer(path: Path, template: str | None = None) -> "tuple[Tokenizer, Renderer | None]":
    """The tokenizer of a model and the renderer of its conversations.

    Args:
        path: a model directory, or a ``.gguf`` file.
        template: a named chat template to use instead of the model's own.

    Returns:
        The renderer is None for a model that only continues texts.

    Raises:
        UserError: a file is absent or damaged; there is no such template.
    """
    stored: str | Mapping[str, str] | None
    configuration: dict[str, Any]
    if path.is_file():
        serialised, configuration = gguf_tokenizer(path)
        tokenizer = Tokenizer(serialised, config=configuration)
        stored = stored_template(configuration)
    else:
        tokenizer = Tokenizer.load(path)
        configuration, stored = tokenizer_configuration(path), find_template(path)
    if stored is None and template is None:
        return tokenizer, None
    return tokenizer, choose_renderer(tokenizer, stored, template, configuration)
