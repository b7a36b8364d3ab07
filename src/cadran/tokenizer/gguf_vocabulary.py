"""The tokenizer inside a GGUF file, as tokenizer.json and tokenizer_config.json.

Two kinds are read: "gpt2", byte-level BPE with a named pre-tokenizer, and "llama", SentencePiece BPE with scores. The
way back is ``gguf_metadata``. Source: the keys of the GGUF specification, and llama.cpp's ``llama-vocab.cpp`` for what
they mean.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cadran.errors import UserError
from cadran.tokenizer.detokenizer import SPACE_MARK
from cadran.tokenizer.gguf_keys import CADRAN_PATTERN, TokenType, key
from cadran.tokenizer.gguf_metadata import gguf_metadata
from cadran.tokenizer.pre_tokenizers import PreTokenizer, as_component, named
from cadran.tokenizer.scored_merges import merges_from_scores

__all__ = ["gguf_metadata", "tokenizer_from_gguf"]

_KINDS = ("gpt2", "llama")
# Ends of a turn or a message, by the names under which llama.cpp looks for them where a file gives no id.
_TURN_ENDS = (
    *("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<EOT>", "_<EOT>", "<｜end▁of▁sentence｜>"),
    *("<end_of_utterance>", "<|endoftext|>"),
)
_MESSAGE_ENDS = ("<|eom_id|>",)
_USUAL_IDS = {"unknown": 0, "bos": 1, "eos": 2}


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Translate the tokenizer of a GGUF file.

    Args:
        metadata: that of the file, key -> value.

    Returns:
        The content of a tokenizer.json that gives the ids of llama.cpp, and that of a tokenizer_config.json: names of
        BOS, EOS, UNK and PAD, of the end of a turn and of a message (``eot_token``, ``eom_token``) where there are
        such, whether BOS and EOS are added, and the chat template (a list of named ones if there are several).

    Raises:
        UserError: the kind of vocabulary or its pre-tokenizer is not known, or the metadata are damaged.
    """
    kind = metadata.get(key("model"))
    if kind not in _KINDS:
        raise UserError(
            f"The tokenizer of this GGUF file is of the kind {str(kind)[:40]!r}: choose a model with one of "
            f"{', '.join(_KINDS)}."
        )
    vocabulary = _Vocabulary.read(metadata)
    content = _byte_level(metadata, vocabulary) if kind == "gpt2" else _sentence_piece(metadata, vocabulary)
    config = _config(metadata, vocabulary, adds_bos=content.pop("adds_bos"))
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": vocabulary.added_tokens(rstrip=kind == "llama" and _is_phi3(metadata)),
        **content,
        "post_processor": _post_processor(config, vocabulary),
    }
    return json.dumps(content, ensure_ascii=False), config


@dataclass(frozen=True)
class _Vocabulary:
    """Tokens by id, their types, and the ids of their names."""

    tokens: list[str]
    types: list[int]
    ids: dict[str, int]

    @classmethod
    def read(cls, metadata: Mapping[str, Any]) -> "_Vocabulary":
        tokens = _list(metadata, "tokens", str)
        if not tokens:
            raise UserError("This GGUF file has no tokens; choose a file that holds its vocabulary.")
        tokens = [token or f"[EMPTY_{id}]" for id, token in enumerate(tokens)]
        ids = {token: id for id, token in enumerate(tokens)}
        types = _list(metadata, "token_type", int) or [TokenType.NORMAL] * len(tokens)
        if len(ids) != len(tokens) or len(types) != len(tokens):
            raise UserError(
                f"The vocabulary of this GGUF file is damaged ({len(tokens)} tokens, {len(ids)} of them different, "
                f"{len(types)} types); fetch the file anew."
            )
        for name in (*_TURN_ENDS, *_MESSAGE_ENDS):  # some conversions forgot what these are
            if name in ids:
                types[ids[name]] = TokenType.CONTROL
        return cls(tokens, types, ids)

    def added_tokens(self, rstrip: bool) -> list[dict[str, Any]]:
        """Tokens that are found in a text before anything else; those that are not user-defined are special.

        Args:
            rstrip: they take the white space after them, as Phi-3's do.
        """
        kinds = (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.USER_DEFINED)
        return [
            {
                "id": id,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": rstrip and token not in ("<unk>", "<s>", "<|endoftext|>"),
                "normalized": False,
                "special": type != TokenType.USER_DEFINED,
            }
            for id, (token, type) in enumerate(zip(self.tokens, self.types, strict=True))
            if type in kinds
        ]

    def name(self, metadata: Mapping[str, Any], role: str) -> str | None:
        """Token that the file gives a role ("bos", "unknown", ...); of SentencePiece's first three, their usual one."""
        usual = _USUAL_IDS.get(role) if metadata[key("model")] == "llama" else None
        id = metadata.get(key(f"{role}_token_id"), usual)
        return self.tokens[id] if type(id) is int and 0 <= id < len(self.tokens) else None


def _byte_level(metadata: Mapping[str, Any], vocabulary: _Vocabulary) -> dict[str, Any]:
    pre = _pre_tokenizer(metadata)
    ids = vocabulary.ids
    merges = []
    for merge in _list(metadata, "merges", str):
        # A merge of tokens that are missing cannot happen; the library would refuse the file for it.
        space = merge.find(" ", 1)
        left, right = merge[:space], merge[space + 1 :]
        if space > 0 and left in ids and right in ids and left + right in ids:
            merges.append([left, right])
    return {
        "adds_bos": pre.adds_bos,
        "normalizer": {"type": "NFC"} if pre.composes else None,
        "pre_tokenizer": as_component(pre.cuts),
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "model": _model(ids, merges, ignore_merges=pre.ignore_merges),
    }


def _pre_tokenizer(metadata: Mapping[str, Any]) -> PreTokenizer:
    pattern = metadata.get(CADRAN_PATTERN)
    if isinstance(pattern, str):
        return PreTokenizer(names=("cadran",), cuts=(pattern,))
    name = metadata.get(key("pre"))
    if not isinstance(name, str):
        raise UserError(
            f"This GGUF file does not say how its texts are cut ({key('pre')}), as files made before May 2024 do: "
            "choose a newer conversion of the model."
        )
    return named(name)


def _sentence_piece(metadata: Mapping[str, Any], vocabulary: _Vocabulary) -> dict[str, Any]:
    scores = _list(metadata, "scores", float)
    if len(scores) != len(vocabulary.tokens):
        raise UserError(
            f"This GGUF file has {len(scores)} scores for {len(vocabulary.tokens)} tokens; fetch the file anew."
        )
    mergeable = {token: scores[id] for token, id in vocabulary.ids.items() if vocabulary.types[id] == TokenType.NORMAL}
    prefix = metadata.get(key("add_space_prefix"), True) is not False
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}
    before = [{"type": "Prepend", "prepend": SPACE_MARK}] if prefix else []
    after = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    marks = {"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "}
    return {
        "adds_bos": True,
        "normalizer": {"type": "Sequence", "normalizers": [*before, spaces]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [marks, {"type": "ByteFallback"}, {"type": "Fuse"}, *after]},
        "model": _model(
            vocabulary.ids,
            [list(merge) for merge in merges_from_scores(mergeable)],
            unk_token=vocabulary.name(metadata, "unknown"),
            fuse_unk=True,
            byte_fallback=True,
        ),
    }


def _model(ids: Mapping[str, int], merges: list[list[str]], **options: Any) -> dict[str, Any]:
    """BPE, as a tokenizer.json has it."""
    unset = dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"))
    switches = dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False)
    return {"type": "BPE", **unset, **switches, **options, "vocab": dict(ids), "merges": merges}


def _config(metadata: Mapping[str, Any], vocabulary: _Vocabulary, adds_bos: bool) -> dict[str, Any]:
    roles = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad", "eot": "eot", "eom": "eom"}
    names = {f"{short}_token": vocabulary.name(metadata, role) for role, short in roles.items()}
    for role, known in (("eot_token", _TURN_ENDS), ("eom_token", _MESSAGE_ENDS)):
        present = (name for name in known if name in vocabulary.ids)
        names[role] = names[role] or next(present, None)
        if names[role] in (None, names["eos_token"]):
            del names[role]
    said_bos, said_eos = metadata.get(key("add_bos_token")), metadata.get(key("add_eos_token"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **names,
        "add_bos_token": names["bos_token"] is not None and (adds_bos if said_bos is None else said_bos is True),
        "add_eos_token": names["eos_token"] is not None and said_eos is True,
    }
    template = _templates(metadata)
    if template is not None:
        config["chat_template"] = template
    return config


def _templates(metadata: Mapping[str, Any]) -> str | list[dict[str, str]] | None:
    """The chat template; where there are several, a list of their names and texts, as tokenizer_config.json has it."""
    main = metadata.get("tokenizer.chat_template")
    start = "tokenizer.chat_template."
    others = {name[len(start) :]: text for name, text in metadata.items() if name.startswith(start)}
    if not others:
        return main if isinstance(main, str) else None
    texts = {"default": main, **others}
    return [{"name": name, "template": text} for name, text in texts.items() if isinstance(text, str)]


def _post_processor(config: Mapping[str, Any], vocabulary: _Vocabulary) -> dict[str, Any] | None:
    """Adds BOS and EOS where the configuration says so, for programs that ask the library for them."""
    before = [config["bos_token"]] if config["add_bos_token"] else []
    after = [config["eos_token"]] if config["add_eos_token"] else []
    if not before and not after:
        return None

    def parts(sequence: str, type_id: int) -> list[dict[str, Any]]:
        special = ([{"SpecialToken": {"id": name, "type_id": type_id}} for name in names] for names in (before, after))
        return [*next(special), {"Sequence": {"id": sequence, "type_id": type_id}}, *next(special)]

    return {
        "type": "TemplateProcessing",
        "single": parts("A", 0),
        "pair": [*parts("A", 0), *parts("B", 1)],
        "special_tokens": {
            name: {"id": name, "ids": [vocabulary.ids[name]], "tokens": [name]} for name in (*before, *after)
        },
    }


def _is_phi3(metadata: Mapping[str, Any]) -> bool:
    """Phi-3's special tokens take the white space after them; the file does not say so, only its name does."""
    name = str(metadata.get("general.name", "")).lower()
    return metadata.get("general.architecture") == "phi3" or "phi-3" in name or "phi3" in name


def _list(metadata: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    """A copy of an array whose elements have all one type; empty when it is absent."""
    values = metadata.get(key(name), [])
    if not isinstance(values, list) or any(type(value) is not kind for value in values):
        raise UserError(f"{key(name)} of this GGUF file is not a list of {kind.__name__}; fetch the file anew.")
    return list(values)
