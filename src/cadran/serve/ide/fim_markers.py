"""Which tokens of a model mark the gap that it is to fill: by the keys of a GGUF file, else by their names.

Sources: Bavarian et al. 2022 (arXiv:2207.14255) for the orders; the model cards of the families for the names; the
GGUF specification for the keys; api-contracts 8.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cadran.errors import UserError
from cadran.tokenizer.tokenizer import Tokenizer

Order = Literal["psm", "spm"]
"""Prefix, suffix, middle; or suffix, prefix, middle."""


@dataclass(frozen=True, slots=True)
class MarkerFamily:
    """How one family of models names its markers; "" where it has none.

    Attributes:
        prefix: stands before the text before the gap.
        suffix: before the text after it.
        middle: after both.
        pad: fills batches in training; never wanted in an answer.
        repository: before the name of a repository.
        file: before the path of a file.
        order: that it was trained with.
    """

    prefix: str
    suffix: str
    middle: str = ""
    pad: str = ""
    repository: str = ""
    file: str = ""
    order: Order = "psm"


FAMILIES = (
    # Qwen, Granite 4, Cadran's own
    MarkerFamily("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
    # StarCoder 2, Granite, StableCode; then StarCoder, which names its files otherwise
    MarkerFamily("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim_pad>", "<repo_name>", "<file_sep>"),
    MarkerFamily("<fim-prefix>", "<fim-suffix>", "<fim-middle>", "<fim-pad>"),  # SantaCoder
    MarkerFamily("▁<PRE>", "▁<SUF>", "▁<MID>"),  # CodeLlama
    MarkerFamily("<PRE>", "<SUF>", "<MID>"),
    MarkerFamily("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek
    MarkerFamily("<|fim_begin|>", "<|fim_hole|>", "<|fim_end|>"),
    MarkerFamily("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),  # GLM 4
    MarkerFamily("[PREFIX]", "[SUFFIX]", "[MIDDLE]", order="spm"),  # Codestral; answers follow the prefix at once
)
OTHER_NAMES = {
    "pad": ("<|fim_pad|>", "<fim_pad>", "<fim-pad>"),
    "repository": ("<|repo_name|>", "<repo_name>", "<reponame>"),
    "file": ("<|file_sep|>", "<file_sep>", "<|file_separator|>", "<filename>"),
}
"""Tried where the family's own name is not there: CodeGemma and StarCoder differ from theirs in these."""
ENDS = ("▁<EOT>", "<EOT>", "<|endoftext|>", "<|end_of_text|>", "<|endofprompt|>", "<|cursor|>", "<|eot_id|>")
"""What a model may write where the middle is over, if it knows the token."""
_KEYS = {"prefix": "pre", "suffix": "suf", "middle": "mid", "pad": "pad", "repository": "rep", "file": "sep"}


@dataclass(frozen=True, slots=True)
class Markers:
    """Ids of a model's markers.

    Attributes:
        prefix, suffix: always there.
        middle, pad, repository, file: None where the model has none.
        ends: further tokens that end a middle.
        order: of prefix and suffix.
    """

    prefix: int
    suffix: int
    middle: int | None = None
    pad: int | None = None
    repository: int | None = None
    file: int | None = None
    ends: tuple[int, ...] = field(default=())
    order: Order = "psm"

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Every token that has no place within a middle."""
        all = (self.middle, self.suffix, self.prefix, self.pad, self.repository, self.file, *self.ends)
        return tuple(dict.fromkeys(id for id in all if id is not None))


def find_markers(tokenizer: Tokenizer, path: Path) -> Markers | None:
    """The markers of a model, None when it was not taught to fill in.

    The order is the family's own, unless ``fim_order`` in ``tokenizer_config.json``, or the key
    ``tokenizer.ggml.fim_order`` of a GGUF file, says ``psm`` or ``spm``.

    Args:
        tokenizer: of the model.
        path: its folder or GGUF file; of the file the keys are read.
    """
    keys = _gguf_keys(path, tokenizer.vocabulary_size) if path.is_file() else {}
    said = keys.pop("order", tokenizer.config.get("fim_order"))
    ends = tuple(id for name in ENDS if (id := token_id(tokenizer, name)) is not None)
    for family in FAMILIES:
        ids = {name: token_id(tokenizer, getattr(family, name)) for name in _KEYS} | keys
        # Without a middle the text before the gap stands last, as Codestral has it.
        if ids["prefix"] is None or ids["suffix"] is None or (ids["middle"] is None and family.order == "psm"):
            continue
        for name, others in OTHER_NAMES.items():
            found = (token_id(tokenizer, other) for other in others)
            ids[name] = ids[name] if ids[name] is not None else next((id for id in found if id is not None), None)
        order: Order = family.order if keys.get("middle") is None else "psm"
        if said == "spm" or ids["middle"] is None:
            order = "spm"
        elif said == "psm":
            order = "psm"
        return Markers(**ids, ends=ends, order=order)  # type: ignore[arg-type]
    return None


def token_id(tokenizer: Tokenizer, name: str) -> int | None:
    """The id of a token by its name, None when the vocabulary has no such token."""
    if not name:
        return None
    try:
        ids = tokenizer.encode(name, special=True)
    except UserError:
        return None
    # Where it is not there, it becomes several tokens, or the one for what is unknown.
    if len(ids) != 1 or _plain(tokenizer.token_bytes(ids[0]).decode("utf-8", "replace")) != _plain(name):
        return None
    return ids[0]


def _plain(name: str) -> str:
    return name.replace("▁", " ").strip()


def _gguf_keys(path: Path, vocabulary: int) -> dict[str, int | str | None]:
    from cadran.model.gguf.reader import GgufFile

    with GgufFile.open(path) as file:
        metadata = file.metadata
    keys: dict[str, int | str | None] = {}
    for name, short in _KEYS.items():
        id = metadata.get(f"tokenizer.ggml.fim_{short}_token_id")
        if type(id) is int and 0 <= id < vocabulary:
            keys[name] = id
    if isinstance(order := metadata.get("tokenizer.ggml.fim_order"), str):
        keys["order"] = order
    return keys
