"""What is told of a model in lists and in ``/api/show``, from its files alone. Source: api-contracts 7."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cadran.engine.loading import open_tokenizer
from cadran.library.header import ModelHeader
from cadran.serve.ide.fim_markers import find_markers
from cadran.serve.ide.fim_prompt import FimTokens
from cadran.serve.known_model import KnownModel
from cadran.serve.ollama.clock import stamp
from cadran.serve.served_model import ServedModel
from cadran.tokenizer.chat_template import find_template, stored_template


def tagged(name: str) -> str:
    """A name with its tag; ``:latest`` where it has none of its own."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def entry(known: KnownModel, name: str) -> dict[str, Any]:
    """One entry of ``/api/tags``. Reads the weights once, for their digest.

    Raises:
        UserError: a file is damaged.
        OSError: it is gone.
    """
    header = known.header
    return {
        "name": tagged(name),
        "model": tagged(name),
        "modified_at": stamp(known.created),
        "size": header.bytes,
        "digest": known.digest,
        "details": details(header),
    }


def details(header: ModelHeader) -> dict[str, Any]:
    """``details``."""
    return {
        "parent_model": "",
        "format": header.format,
        "family": header.architecture,
        "families": [header.architecture],
        "parameter_size": amount(header.parameters),
        "quantization_level": header.kind,
    }


def amount(parameters: int) -> str:
    """A number of parameters in three digits: 135M, 1.71B."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if parameters >= size:
            return f"{parameters / size:.3g}{letter}" if parameters < 100 * size else f"{parameters / size:.0f}{letter}"
    return str(parameters)


def model_info(header: ModelHeader, name: str) -> dict[str, Any]:
    """``model_info``, under the keys of GGUF files."""
    architecture, sizes = header.architecture, header.sizes
    told: dict[str, Any] = {
        "general.architecture": architecture,
        "general.basename": name.rpartition("/")[2].partition(":")[0],
        "general.parameter_count": header.parameters,
        "general.file_type": header.kind,
        "tokenizer.ggml.model": header.tokenizer.kind or "unknown",
    }
    if header.context is not None:
        told[f"{architecture}.context_length"] = header.context
    if sizes is not None:
        told |= {
            f"{architecture}.embedding_length": sizes.width,
            f"{architecture}.block_count": sizes.layers,
            f"{architecture}.attention.head_count": sizes.heads,
            f"{architecture}.attention.head_count_kv": sizes.kv_heads,
            f"{architecture}.vocab_size": sizes.vocabulary,
        }
    return told


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a model can do.

    Attributes:
        capabilities: in Ollama's words.
        template: as clients look at it; the real one is a Jinja template, which they could not read.
        stops: names of the tokens that end an answer.
    """

    capabilities: Sequence[str]
    template: str
    stops: Sequence[str]


def abilities(known: KnownModel, served: ServedModel | None) -> Abilities:
    """Find them out, of the open model where it is open. Reads the tokenizer, so it is no work for the event loop.

    Raises:
        UserError: a file is damaged.
    """
    if served is None:
        tokenizer, renderer = open_tokenizer(known.path)
        markers = find_markers(tokenizer, known.path)
        fim = None if markers is None else FimTokens(markers, tokenizer)
        text = str(stored_of(known.path) or "")
        tools, thinks = known.header.tokenizer.tools, "<think>" in text or "enable_thinking" in text
    else:
        tokenizer, renderer, fim = served.engine.tokenizer, served.engine.renderer, served.fim
        tools, thinks = served.output.knows_tools, served.output.thinks
    capabilities = ["completion"]
    capabilities += ["tools"] if tools else []
    capabilities += ["insert"] if fim is not None else []
    capabilities += ["thinking"] if thinks else []
    template = "{{ if .System }}{{ .System }}\n{{ end }}" if renderer is not None else ""
    template += "{{ if .Tools }}{{ .Tools }}\n{{ end }}" if tools else ""
    template += "{{ .Prompt }}"
    if fim is not None:
        template = f"{{{{- if .Suffix }}}}{fim.template()}{{{{ else }}}}{template}{{{{ end }}}}"
    ends = renderer.stop_ids if renderer is not None else tokenizer.eos_ids
    stops = [tokenizer.token_bytes(id).decode("utf-8", "replace") for id in ends]
    return Abilities(capabilities, template, stops)


def stored_of(path: Path) -> object:
    """The chat template of a model's files, None when there is none."""
    if not path.is_file():
        return find_template(path)
    from cadran.engine.gguf_tokenizer import gguf_tokenizer

    return stored_template(gguf_tokenizer(path)[1])
