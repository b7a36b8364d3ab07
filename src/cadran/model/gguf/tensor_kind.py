"""The kinds of tensor a GGUF file can hold: their code in the file, their name, and the size of one block.

A row of weights is cut into blocks of equal size, each with its own scales. Kinds that Cadran does not decode are
listed too, so that a file which uses them can be inspected and its layout checked.
Source: the table of ``ggml_type`` in the GGUF specification.
"""

from typing import NamedTuple


class TensorKind(NamedTuple):
    """How one kind of tensor is stored.

    Attributes:
        name: "Q4_0" and the like, as every GGUF tool prints it.
        weights: per block.
        size: bytes per block; 0 when the kind is unknown here.
    """

    name: str
    weights: int
    size: int


KINDS: dict[int, TensorKind] = {
    0: TensorKind("F32", 1, 4),
    1: TensorKind("F16", 1, 2),
    2: TensorKind("Q4_0", 32, 18),
    3: TensorKind("Q4_1", 32, 20),
    6: TensorKind("Q5_0", 32, 22),
    7: TensorKind("Q5_1", 32, 24),
    8: TensorKind("Q8_0", 32, 34),
    10: TensorKind("Q2_K", 256, 84),
    11: TensorKind("Q3_K", 256, 110),
    12: TensorKind("Q4_K", 256, 144),
    13: TensorKind("Q5_K", 256, 176),
    14: TensorKind("Q6_K", 256, 210),
    15: TensorKind("Q8_K", 256, 292),
    16: TensorKind("IQ2_XXS", 256, 66),
    17: TensorKind("IQ2_XS", 256, 74),
    18: TensorKind("IQ3_XXS", 256, 98),
    19: TensorKind("IQ1_S", 256, 50),
    20: TensorKind("IQ4_NL", 32, 18),
    21: TensorKind("IQ3_S", 256, 110),
    22: TensorKind("IQ2_S", 256, 82),
    23: TensorKind("IQ4_XS", 256, 136),
    24: TensorKind("I8", 1, 1),
    25: TensorKind("I16", 1, 2),
    26: TensorKind("I32", 1, 4),
    27: TensorKind("I64", 1, 8),
    28: TensorKind("F64", 1, 8),
    29: TensorKind("IQ1_M", 256, 56),
    30: TensorKind("BF16", 1, 2),
    34: TensorKind("TQ1_0", 256, 54),
    35: TensorKind("TQ2_0", 256, 66),
    39: TensorKind("MXFP4", 32, 17),
    40: TensorKind("NVFP4", 64, 36),
    41: TensorKind("Q1_0", 128, 18),
}

CODES: dict[str, int] = {kind.name: code for code, kind in KINDS.items()}


def kind_of(code: int) -> TensorKind:
    """The kind with that code in the file; a code nobody knows here is named "type CODE" and has no size."""
    return KINDS.get(code) or TensorKind(f"type {code}", 1, 0)
