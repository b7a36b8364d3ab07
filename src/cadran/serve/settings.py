"""How a server behaves: one typed object, filled by ``cadran.toml`` and by the options of ``cadran serve``.

Nothing is taken from the environment, so that what a server does can be read in one place.
"""

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cadran.errors import UserError

FILE = "cadran.toml"
SECTION = "serve"

Seconds = Annotated[float, Field(gt=0)]


class ServeSettings(BaseModel):
    """The section ``[serve]`` of ``cadran.toml``; options of the command go before it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: list[str] = Field(default=[], description="What is served; empty for every model on this machine.")
    alias: dict[str, str] = Field(default={}, description="Further names: alias -> model.")
    adapters: dict[str, str] = Field(
        default={}, description="LoRA adapters: NAME (first model) or MODEL:NAME -> folder."
    )
    adapter_folder: str | None = Field(default=None, description="Clients may load the adapters that lie in it.")
    host: str = Field(default="127.0.0.1", description="Address to listen at; others than loopback want an API key.")
    port: int = Field(default=8000, ge=0, le=65535, description="0 takes a free one.")
    ollama_port: int | None = Field(default=None, ge=0, le=65535, description="Listen here too, where Ollama would.")
    runner: Literal["auto", "native", "torch"] | None = None
    threads: int | None = Field(default=None, ge=1, description="Of the computation.")
    context: int | None = Field(default=None, ge=1, description="Most tokens of prompt and answer together.")
    kv: Literal["f32", "f16", "int8"] = "f16"
    activations: Literal["int16", "int8"] = "int16"
    draft: str | None = Field(default=None, description="A smaller model, or lookup, that guesses for the others.")
    template: str | None = Field(default=None, description="Chat format to use instead of the models' own.")
    memory: float | None = Field(default=None, gt=0, description="GB that open models may take together.")
    keep_alive: float | None = Field(default=None, ge=0, description="Seconds that an unused model stays open.")
    parallel: int = Field(default=64, ge=1, description="Requests that are computed together.")
    queue: int = Field(default=512, ge=0, description="Requests that may wait for a place.")
    deadline: Seconds | None = Field(default=None, description="Seconds that a request may take, waiting included.")
    grace: float = Field(default=30, ge=0, description="Seconds that requests have to end when the server stops.")
    body_limit: int = Field(default=64 << 20, ge=1, description="Bytes of a request.")
    max_answers: int = Field(default=128, ge=1, description="Answers that one request may ask for.")
    origins: list[str] = Field(default=[], description="Web origins that may call, beside those of this machine.")
    hosts: list[str] = Field(default=[], description="Host names that requests may use, beside those of this machine.")
    requests_per_minute: int | None = Field(default=None, ge=1, description="Of each API key.")
    tokens_per_minute: int | None = Field(default=None, ge=1, description="Generated, of each API key.")
    database: str | None = Field(default=None, description="SQLAlchemy URL; by default SQLite in the data folder.")
    accounting_days: int | None = Field(default=366, ge=1, description="For which request accounting is kept.")
    stored_responses: int = Field(default=1000, ge=0, description="Responses that are kept; the oldest go first.")
    log_prompts: bool = Field(default=False, description="Write prompts into the log.")
    slots: bool = Field(default=False, description="Show what is under way at /slots, prompts included.")
    metrics_compat: bool = Field(default=False, description="Repeat the metrics under the names of vLLM and llama.cpp.")
    web: bool = Field(default=True, description="Serve the web chat.")


def read_settings(file: Path | None = None, options: Mapping[str, Any] | None = None) -> ServeSettings:
    """The settings of a file, with those of the command line put over them.

    Args:
        file: None takes ``cadran.toml`` of the working directory where there is one.
        options: by field name; None among the values counts as absent.

    Raises:
        UserError: the file cannot be read, or a setting is unknown or out of range.
    """
    path = file or Path(FILE)
    content: dict[str, Any] = {}
    if file is not None or path.is_file():
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}); repair it or name another with --config") from error
    section = _section(path, content)
    given = {name: value for name, value in (options or {}).items() if value is not None}
    try:
        return ServeSettings(**{**section, **given})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        where = "" if name.partition(".")[0] in given else f" in {path}"
        if first["type"] == "extra_forbidden":
            raise UserError(f"there is no setting {name}{where}{_meant(name)}") from None
        raise UserError(f"the setting {name}{where} is wrong: {first['msg'].lower()}") from None


def _section(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says of serving; what lies outside of its section is refused where it was meant for it."""
    for name in content:
        if name in ServeSettings.model_fields:
            raise UserError(f"{path} has {name} outside of its section; put it under [{SECTION}]")
        if name != SECTION and difflib.get_close_matches(name, [SECTION], cutoff=0.7):
            raise UserError(f"{path} has a section {name}; call it [{SECTION}]")
    section = content.get(SECTION, {})
    if not isinstance(section, dict):
        raise UserError(f"{path} has a {SECTION} that is no table; begin it with [{SECTION}]")
    return section


def _meant(name: str) -> str:
    """The end of the sentence about a name that is none."""
    near = difflib.get_close_matches(name, ServeSettings.model_fields, n=1)
    return f"; did you mean {near[0]}?" if near else f"; those there are: {', '.join(ServeSettings.model_fields)}"
