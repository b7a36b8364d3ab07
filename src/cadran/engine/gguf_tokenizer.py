"""The tokenizer of a GGUF file, translated once: reading a vocabulary out of its metadata takes a fifth of a second."""

import json
from pathlib import Path
from typing import Any

from cadran.engine.native.pack import packed_path
from cadran.files import write_bytes


def gguf_tokenizer(path: Path) -> tuple[str, dict[str, Any]]:
    """``tokenizer.json`` and ``tokenizer_config.json`` of a GGUF file, from the cache when they are there.

    Raises:
        UserError: the file is damaged, or its vocabulary is of a kind that is not known here.
    """
    cached = packed_path(path).with_suffix(".tokenizer.json")
    try:
        content = json.loads(cached.read_text(encoding="utf-8"))
        return str(content["tokenizer"]), dict(content["configuration"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not there yet, or damaged: made anew
    from cadran.model.gguf.reader import GgufFile
    from cadran.tokenizer.gguf_vocabulary import tokenizer_from_gguf

    with GgufFile.open(path) as file:
        serialised, configuration = tokenizer_from_gguf(file.metadata)
    content = {"tokenizer": serialised, "configuration": configuration}
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(cached, json.dumps(content, ensure_ascii=False).encode())
    except OSError:
        pass  # a full or read-only disk costs the fifth of a second, no more
    return serialised, configuration
