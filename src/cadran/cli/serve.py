"""``cadran serve``."""

import os
import sys
import threading
import webbrowser
from pathlib import Path
from typing import Annotated

import typer


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Runs, stages, pulled names, folders or files; by default every model on this machine."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen at.  [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="0 takes a free one.  [default: 8000]")] = None,
    ollama_port: Annotated[int | None, typer.Option(help="Listen here too, e.g. 11434, where Ollama would.")] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(help="A further name, e.g. meta/meta-llama-3-70b-instruct=smollm2; may be given several times."),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            help="A LoRA adapter, served as MODEL:NAME: NAME=FOLDER for the first model, or MODEL:NAME=FOLDER."
        ),
    ] = None,
    adapter_folder: Annotated[
        str | None, typer.Option(help="Clients may load and unload the LoRA adapters that lie in this folder.")
    ] = None,
    memory: Annotated[float | None, typer.Option(help="GB that open models may take together.")] = None,
    keep_alive: Annotated[float | None, typer.Option(help="Seconds that an unused model stays open.")] = None,
    parallel: Annotated[int | None, typer.Option(help="Requests that are computed together.  [default: 64]")] = None,
    queue: Annotated[int | None, typer.Option(help="Requests that may wait for a place.  [default: 512]")] = None,
    context: Annotated[int | None, typer.Option(help="Most tokens of prompt and answer together.")] = None,
    threads: Annotated[int | None, typer.Option(help="Of the computation; by default what the machine gives.")] = None,
    activations: Annotated[str | None, typer.Option(help="int8 reads prompts faster, int16 adds no rounding.")] = None,
    template: Annotated[str | None, typer.Option(help="Chat format to use instead of the models' own.")] = None,
    grace: Annotated[float | None, typer.Option(help="Seconds that requests have to end when stopped.")] = None,
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Write prompts into the log.")] = False,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the chat in a browser, where there is a screen.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option(help="Settings file; by default cadran.toml where there is one.")
    ] = None,
) -> None:
    """Serve models over the APIs of OpenAI, Anthropic, Replicate and Ollama, with a web chat."""
    from cadran.serve.log import log_to_stderr
    from cadran.serve.server import Server
    from cadran.serve.service import Service
    from cadran.serve.settings import read_settings

    options = {
        "models": models or None,
        "host": host,
        "port": port,
        "ollama_port": ollama_port,
        "alias": _pairs(alias, "--alias"),
        "adapters": _pairs(adapter, "--adapter"),
        "adapter_folder": adapter_folder,
        "memory": memory,
        "keep_alive": keep_alive,
        "parallel": parallel,
        "queue": queue,
        "context": context,
        "threads": threads,
        "activations": activations,
        "template": template,
        "grace": grace,
        "log_prompts": log_prompts or None,
    }
    settings = read_settings(config, options)
    log_to_stderr()
    service = Service(settings)

    def listening(addresses: list[str]) -> None:
        names = ", ".join(model.name for model in service.shelf.known) or "none yet; cadran pull smollm2 fetches one"
        print(f"serving {names}\n{addresses[0]}", flush=True)
        for address in addresses[1:]:
            print(address, flush=True)
        print("Ctrl-C stops", file=sys.stderr, flush=True)
        if open_page and _has_screen():
            threading.Thread(target=webbrowser.open, args=(addresses[0],), daemon=True).start()

    Server(service, listening).run()


def _has_screen() -> bool:
    return sys.platform in ("darwin", "win32") or any(name in os.environ for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _pairs(values: list[str] | None, option: str) -> dict[str, str] | None:
    from cadran.errors import UserError

    if not values:
        return None
    pairs = {}
    for value in values:
        name, sign, target = value.partition("=")
        if not (name and sign and target):
            raise UserError(f"{option} {value} is no NAME=VALUE; write for example {option} assistant=smollm2")
        pairs[name] = target
    return pairs
