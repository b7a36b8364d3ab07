"""Ranks of ``tiktoken`` (OpenAI, Qwen 1, Kimi) as a tokenizer.json.

Such a file has a token a line: its bytes in base64 and its rank, which is its id and its priority in merging. Two
neighbours are merged whose union has the lowest rank, wherever the union is cut, so every cut of a token into two
tokens is a merge.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping

from cadran.errors import UserError
from cadran.tokenizer.pre_tokenizers import as_component

_BYTES = 256
_LONGEST = 1024  # bytes of a token: the work grows with the square
_POSSESSIVE_COUNT = re.compile(r"(\{\d+(?:,\d*)?\})\+")


def tokenizer_from_tiktoken(text: str, pattern: str, special: Mapping[str, int]) -> str:
    """Translate the content of a ``.tiktoken`` file.

    Args:
        text: of the file.
        pattern: the expression at which texts are cut, which the file does not hold.
        special: special tokens and their ids.

    Returns:
        The content of a tokenizer.json with the ids of ``tiktoken``.

    Raises:
        UserError: a line is damaged, a token, a rank or a special token's id comes twice, or a single byte has no rank.
    """
    ranks = _ranks(text)
    taken = {*ranks.values()}
    if len(taken) != len(ranks) or len({*special.values()} | taken) != len(taken) + len(special):
        raise UserError(
            "The ranks of this file, with the ids of the special tokens, are not all different; fetch it anew."
        )
    if any(bytes([byte]) not in ranks for byte in range(_BYTES)):
        raise UserError("A single byte has no rank in this file, so some texts have no tokens; fetch it anew.")
    letters = _letters()
    spelt = {token: token.decode("latin-1").translate(letters) for token in ranks}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": id,
                "content": name,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for name, id in sorted(special.items(), key=lambda item: item[1])
        ],
        "normalizer": None,
        "pre_tokenizer": as_component((_portable(pattern),)),
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,  # a piece that has a rank is a token, whatever the merges make of it
            "vocab": {spelt[token]: rank for token, rank in ranks.items()} | dict(special),
            "merges": [[spelt[left], spelt[right]] for left, right in _merges(ranks)],
        },
    }
    return json.dumps(content, ensure_ascii=False)


def _ranks(text: str) -> dict[bytes, int]:
    """Token -> rank, by rank."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            encoded, rank = line.split(" ")
            token, value = base64.b64decode(encoded, validate=True), int(rank)
        except (ValueError, binascii.Error):
            token, value = b"", -1
        if not 0 < len(token) <= _LONGEST or not 0 <= value < 1 << 31 or token in ranks:
            raise UserError(
                f"Line {number} of the ranks is not a new token in base64 and its rank; fetch the file anew."
            )
        ranks[token] = value
    return dict(sorted(ranks.items(), key=lambda item: item[1]))


def _merges(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Every cut of a token into two tokens, by rank."""
    return [
        (token[:cut], token[cut:])
        for token in ranks
        for cut in range(len(token) - 1, 0, -1)
        if token[:cut] in ranks and token[cut:] in ranks
    ]


def _portable(pattern: str) -> str:
    """The expression for Oniguruma, which reads ``{1,3}+`` as "several times one to three".

    In the patterns of ``tiktoken`` nothing follows such a count that could make it give back, so it need not be
    possessive.
    """
    return _POSSESSIVE_COUNT.sub(r"\1", pattern)


def _letters() -> dict[int, str]:
    """Byte -> letter of the alphabet in which byte-level vocabularies are written (GPT-2)."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = (byte for byte in range(_BYTES) if byte not in visible)
    return {byte: chr(0x100 + rank) for rank, byte in enumerate(hidden)}
