"""A tokenizer as the metadata of a GGUF file, so that llama.cpp gives the same ids.

The way back is ``gguf_vocabulary``. What llama.cpp cannot express is refused; what it can express only nearly (our own
way to cut, see below) is written with a warning, and exactly under a key of our own.
"""

import json
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from cadran.errors import UserError
from cadran.tokenizer.detokenizer import SPACE_MARK, flattened
from cadran.tokenizer.gguf_keys import CADRAN_PATTERN, TokenType, key
from cadran.tokenizer.pattern import PATTERN
from cadran.tokenizer.pre_tokenizers import as_component, cuts_of, named, recognised
from cadran.tokenizer.scored_merges import merges_from_scores, scores_from_merges
from cadran.tokenizer.special_ids import special_ids
from cadran.tokenizer.tokenizer import MARK, Tokenizer

_NEAREST = {
    "poro-chat": "in numbers, and in code and tables with brackets",
    "dbrx": "in numbers, and in French after an apostrophe (l'avion)",
}
"""Ways to cut that llama.cpp knows and that come near ours -> where texts get other tokens there.

Share of tokens that differ, for tokenizers of 4096 learnt from English and French articles (from Python code), on
English / French articles / Python: poro-chat 0.4 % / 0.6 % / 0.5 % (0.4 / 0.3 / 10.4), dbrx 1.3 % / 4.6 % / 0.9 %
(1.0 / 1.3 / 1.7); gpt-2 0.7 % / 3.3 % / 0.5 % (0.4 / 0.3 / 12.3).
"""
_NEARLY = (
    "llama.cpp has no name for the way this tokenizer cuts texts and will cut them as {name} does: a few tokens in a "
    "hundred will be others there, {where}. Cadran reads its own cuts back from this file."
)
_NOTHING: dict[str, Any] = {"type": "Sequence", "normalizers": [], "decoders": []}
_SCORE_OF_ADDED = -1000.0  # by convention; they are found before any merge


def gguf_metadata(
    tokenizer_json: str,
    tokenizer_config: Mapping[str, Any],
    vocabulary: int,
    *,
    warn: Callable[[str], None] = warnings.warn,
) -> dict[str, Any]:
    """Translate a tokenizer.

    Args:
        tokenizer_json: content of the file.
        tokenizer_config: content of the file, chat template included.
        vocabulary: rows of the embedding; ids without a token get an unused one.
        warn: told in a sentence when texts may get other ids in llama.cpp.

    Returns:
        Keys and values, in the order in which they are to be written.

    Raises:
        UserError: llama.cpp knows no tokenizer of this kind, or it has more tokens than ``vocabulary``.
    """
    content = _content(tokenizer_json)
    model = content["model"]
    ids: dict[str, int] = dict(model["vocab"])
    added = {token["id"]: token for token in content.get("added_tokens") or []}
    ids |= {token["content"]: id for id, token in added.items()}
    if max(ids.values(), default=0) >= vocabulary:
        raise UserError(f"The tokenizer has the id {max(ids.values())} and the model {vocabulary} rows; use its own.")
    tokens = [f"[PAD{id}]" for id in range(vocabulary)]
    types = [TokenType.UNUSED] * vocabulary
    for token, id in ids.items():
        tokens[id], types[id] = token, _type(added.get(id))
    kinds = [step["type"] for step in flattened(content.get("decoder") or _NOTHING, "decoders")]
    if kinds == ["ByteLevel"]:
        values = _byte_level(content, warn)
    elif "ByteFallback" in kinds:
        values = _sentence_piece(content, tokens, types, warn)
    else:
        raise UserError(
            f"GGUF files hold byte-level BPE and SentencePiece BPE with bytes, and this tokenizer decodes with "
            f"{', '.join(map(str, kinds)) or 'nothing'}: export the model with --hf."
        )
    return {
        **values,
        key("tokens"): tokens,
        key("token_type"): [int(type) for type in types],
        **_specials(content, tokenizer_config, ids),
        **_templates(tokenizer_config.get("chat_template")),
        **({key("fim_order"): order} if isinstance(order := tokenizer_config.get("fim_order"), str) else {}),
    }


def _content(tokenizer_json: str) -> dict[str, Any]:
    Tokenizer(tokenizer_json)  # the library checks the file
    content: dict[str, Any] = json.loads(tokenizer_json)
    if content["model"].get("type", "BPE") != "BPE":
        raise UserError(
            f"GGUF files hold vocabularies of BPE and this one is {content['model']['type']}: export the model with "
            "--hf."
        )
    return content


def _type(added: Mapping[str, Any] | None) -> TokenType:
    if added is None:
        return TokenType.NORMAL
    return TokenType.CONTROL if added["special"] or MARK.fullmatch(added["content"]) else TokenType.USER_DEFINED


def _byte_level(content: Mapping[str, Any], warn: Callable[[str], None]) -> dict[str, Any]:
    name, own = _pre_tokenizer(content, warn)
    merges = [" ".join(merge) for merge in _merges(content)]
    return {key("model"): "gpt2", key("pre"): name, **own, key("merges"): merges}


def _pre_tokenizer(content: Mapping[str, Any], warn: Callable[[str], None]) -> tuple[str, dict[str, Any]]:
    """Name of the way to cut, and what is said of it under a key of our own."""
    cuts = cuts_of(content.get("pre_tokenizer"))
    known = None if cuts is None else recognised(cuts, bool(content["model"].get("ignore_merges")))
    normalizers = [step["type"] for step in flattened(content.get("normalizer") or _NOTHING, "normalizers")]
    # Accents composed first (NFC) have no place in GGUF; the conversions of Qwen's models leave that out as well.
    if known is not None and normalizers in ([], ["NFC"]):
        return known.names[0], {}
    if cuts == (PATTERN,) and not normalizers:
        name = _nearest(content)
        warn(_NEARLY.format(name=name, where=_NEAREST[name]))
        return name, {CADRAN_PATTERN: PATTERN}
    raise UserError(
        "llama.cpp has no name for the way this tokenizer cuts texts, so its GGUF file would be cut by guess: export "
        "the model with --hf."
    )


def _nearest(content: Mapping[str, Any]) -> str:
    """The one of `_NEAREST` that leaves more tokens of the vocabulary whole: one for prose, one for code."""
    whole = {}
    for name in _NEAREST:
        other = Tokenizer(json.dumps({**content, "pre_tokenizer": as_component(named(name).cuts)}))
        raw = ((id, other.token_bytes(id)) for id in range(other.vocabulary_size))
        whole[name] = sum(other.encode(token.decode("utf-8", errors="replace")) == [id] for id, token in raw)
    return max(whole, key=lambda name: whole[name])


def _sentence_piece(
    content: Mapping[str, Any], tokens: list[str], types: list[TokenType], warn: Callable[[str], None]
) -> dict[str, Any]:
    """Scores instead of merges; ``tokens`` and ``types`` are made what llama.cpp expects."""
    prefix = _space_prefix(content)
    unknown = content["model"].get("unk_token")
    for id, token in enumerate(tokens):
        if types[id] == TokenType.NORMAL and len(token) == 6 and token[:3] == "<0x" and token[5] == ">":
            types[id] = TokenType.BYTE
        elif types[id] == TokenType.USER_DEFINED:
            tokens[id] = token.replace(SPACE_MARK, " ")  # llama.cpp looks for them in the text as it was typed
        elif token == unknown:
            types[id] = TokenType.UNKNOWN
    normal = [token for token, type in zip(tokens, types, strict=True) if type == TokenType.NORMAL]
    merges = [(left, right) for left, right in _merges(content)]
    scores = scores_from_merges(normal, merges)
    pieces = set(normal)
    here = {(left, right) for left, right in merges if {left, right, left + right} <= pieces}
    if set(merges_from_scores(scores)) != here:
        warn(
            "llama.cpp joins pieces by scores and this tokenizer by a list of pairs that no scores give: some texts "
            "will get other tokens there."
        )
    added = {TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN, TokenType.UNUSED}
    return {
        key("model"): "llama",
        key("pre"): "default",
        key("add_space_prefix"): prefix,
        key("scores"): [
            _SCORE_OF_ADDED if type in added else scores.get(token, 0.0)
            for token, type in zip(tokens, types, strict=True)
        ],
    }


def _space_prefix(content: Mapping[str, Any]) -> bool:
    """Whether a space is put before a text."""
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}
    prepend = {"type": "Prepend", "prepend": SPACE_MARK}
    match content.get("pre_tokenizer"), flattened(content.get("normalizer") or _NOTHING, "normalizers"):
        # Once its spaces are marks a text has none left to be cut at.
        case ((None | {"type": "Split", "pattern": {"String": " "}}), [*before, last]) if last == spaces:
            if before in ([], [prepend]):
                return bool(before)
        case {"type": "Metaspace", "replacement": "▁", "split": False, "prepend_scheme": str(scheme)}, []:
            return scheme != "never"
    raise UserError(
        "llama.cpp has no way to prepare texts as this SentencePiece tokenizer does: export the model with --hf."
    )


def _merges(content: Mapping[str, Any]) -> list[list[str]]:
    """Both ways of writing them, "a b" and ["a", "b"]."""
    return [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in content["model"]["merges"]]


def _specials(content: Mapping[str, Any], config: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, Any]:
    known = special_ids(ids.get, content.get("post_processor"), config, {}, {})
    found = {"bos": known.bos, "eos": known.eos[0] if known.eos else None, "padding": known.pad}
    for role, token in (("unknown", "unk_token"), ("eot", "eot_token"), ("eom", "eom_token")):
        name = config.get(token)
        found[role] = ids.get(name) if isinstance(name, str) else None
    return {
        **{key(f"{role}_token_id"): id for role, id in found.items() if id is not None},
        key("add_bos_token"): known.adds_bos,
        key("add_eos_token"): known.adds_eos,
    }


def _templates(template: Any) -> dict[str, Any]:
    """One template, or the named ones of a list; "default" is the one that has no name in a GGUF file."""
    if isinstance(template, str):
        return {"tokenizer.chat_template": template}
    named = {entry["name"]: entry["template"] for entry in template} if isinstance(template, list) else {}
    main = {"tokenizer.chat_template": named.pop("default")} if "default" in named else {}
    others = {f"tokenizer.chat_template.{name}": text for name, text in named.items()}
    return {**main, **({"tokenizer.chat_templates": list(named)} if named else {}), **others}
