"""What a model's tokenizer files say of its abilities, read without building a tokenizer."""

import json
import mmap
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIM_TOKENS = (
    "<|fim_middle|>",
    "<fim_middle>",
    "<fim-middle>",
    "<|fim_hole|>",
    "<｜fim▁hole｜>",
    "▁<MID>",
    "[MIDDLE]",
)
"""Tokens that mark what to fill in: Qwen and ours, StarCoder, SantaCoder, DeepSeek, CodeLlama, Codestral."""

_KIND = re.compile(rb'"model"\s*:\s*\{\s*"type"\s*:\s*"(\w{1,30})"')
_TOOLS = re.compile(r"\btools?\b")
_LARGEST = 64 << 20  # bytes of a configuration that is parsed


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    """A tokenizer from outside.

    Attributes:
        kind: ``BPE``, ``Unigram``, or the name in the GGUF file; None when there is no tokenizer.
        chat: whether there is a chat template.
        tools: whether the template speaks of tools.
        fill_in_the_middle: whether there are tokens for it.
    """

    kind: str | None
    chat: bool
    tools: bool
    fill_in_the_middle: bool

    @property
    def capabilities(self) -> list[str]:
        """In words."""
        told = {"chat": self.chat, "tools": self.tools, "fill-in-the-middle": self.fill_in_the_middle}
        return [name for name, has in told.items() if has]


def facts_of_folder(folder: Path) -> TokenizerFacts:
    """Look at ``tokenizer.json``, ``tokenizer_config.json`` and ``chat_template.jinja``."""
    templates = list(_templates(folder))
    kind, fim = _scan(folder / "tokenizer.json")
    return TokenizerFacts(kind, bool(templates), any(_TOOLS.search(text) for text in templates), fim)


def facts_of_gguf(metadata: Mapping[str, Any]) -> TokenizerFacts:
    """Look at the ``tokenizer`` keys of a GGUF file."""
    keys = [key for key in metadata if key.startswith("tokenizer.chat_template")]
    templates = [metadata[key] for key in keys if isinstance(metadata[key], str)]
    kind, tokens = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.tokens")
    named = isinstance(tokens, list) and any(token in tokens for token in FIM_TOKENS)
    fim = "tokenizer.ggml.fim_mid_token_id" in metadata or named
    return TokenizerFacts(
        kind if isinstance(kind, str) else None, bool(templates), any(_TOOLS.search(text) for text in templates), fim
    )


def _templates(folder: Path) -> Iterable[str]:
    if (text := _small_text(folder / "chat_template.jinja")) is not None:
        yield text
    for name in ("tokenizer_config.json", "chat_template.json"):
        try:
            content = json.loads(_small_text(folder / name) or "{}")
        except (ValueError, RecursionError):
            continue
        found = content.get("chat_template") if isinstance(content, dict) else None
        for entry in found if isinstance(found, list) else [found]:
            template = entry.get("template") if isinstance(entry, dict) else entry
            if isinstance(template, str):
                yield template


def _scan(path: Path) -> tuple[str | None, bool]:
    """Kind of a ``tokenizer.json`` and whether it has tokens to fill in; large ones take too long to parse."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            match = _KIND.search(content)
            fim = any(content.find(json.dumps(t, ensure_ascii=False).encode()) >= 0 for t in FIM_TOKENS)
            return match[1].decode() if match else "unknown", fim
    except (OSError, ValueError):
        return None, False


def _small_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.stat().st_size <= _LARGEST else None
    except OSError:
        return None
