"""Names that the tokenizer of a GGUF file goes by. Source: the GGUF specification."""

from enum import IntEnum

CADRAN_PATTERN = "cadran.tokenizer.pattern"
"""Key of our own: the expression at which a tokenizer trained here cuts texts, which has no name in llama.cpp."""


class TokenType(IntEnum):
    """What a token is."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def key(name: str) -> str:
    """Full name of a key of the tokenizer."""
    return f"tokenizer.ggml.{name}"
