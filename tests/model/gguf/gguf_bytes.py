"""A GGUF file put together by hand, field by field, so that tests can get each field wrong."""

import struct
from itertools import accumulate

import numpy as np

from cadran.model.gguf.quantization import stored_size
from cadran.model.gguf.tensor_kind import CODES


def text(value):
    """A string as the format has it: length, then bytes."""
    encoded = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def pair(key, code, content):
    """A metadata key with its value: type, then bytes."""
    return text(key) + struct.pack("<I", code) + content


def array(code, count, content):
    """The bytes of an array value: type and number of its elements, then the elements."""
    return struct.pack("<IQ", code, count) + content


def record(name, inner_first, code, offset, n_dimensions=None):
    """What the header says of one tensor."""
    count = len(inner_first) if n_dimensions is None else n_dimensions
    return text(name) + struct.pack(f"<I{len(inner_first)}QIQ", count, *inner_first, code, offset)


def head(n_tensors, n_pairs, version=3, magic=b"GGUF"):
    """Magic, version and the two counts."""
    return magic + struct.pack("<IQQ", version, n_tensors, n_pairs)


def padded(content, alignment=32):
    """Zeros up to the next multiple of the alignment."""
    return content + bytes(-len(content) % alignment)


ARCHITECTURE = pair("general.architecture", 8, text("llama"))

EVERY_TYPE = [
    ARCHITECTURE,
    pair("u8", 0, struct.pack("<B", 200)),
    pair("i8", 1, struct.pack("<b", -100)),
    pair("u16", 2, struct.pack("<H", 60_000)),
    pair("i16", 3, struct.pack("<h", -30_000)),
    pair("u32", 4, struct.pack("<I", 4_000_000_000)),
    pair("i32", 5, struct.pack("<i", -2_000_000_000)),
    pair("f32", 6, struct.pack("<f", 0.1)),
    pair("yes", 7, b"\x01"),
    pair("no", 7, b"\x00"),
    pair("u64", 10, struct.pack("<Q", 1 << 63)),
    pair("i64", 11, struct.pack("<q", -(1 << 62))),
    pair("f64", 12, struct.pack("<d", 0.1)),
    pair("tokens", 9, array(8, 4, text("a") + text("") + text("é 😀") + text("<s>"))),
    pair("scores", 9, array(6, 3, struct.pack("<3f", 0.5, -1.0, 2.0))),
    pair("flags", 9, array(7, 3, b"\x01\x00\x01")),
    pair("nothing", 9, array(5, 0, b"")),
    pair("nested", 9, array(9, 2, array(5, 2, struct.pack("<2i", 1, 2)) + array(8, 1, text("x")))),
]

EVERY_VALUE = {
    "general.architecture": "llama", "u8": 200, "i8": -100, "u16": 60_000, "i16": -30_000, "u32": 4_000_000_000,
    "i32": -2_000_000_000, "f32": float(np.float32(0.1)), "yes": True, "no": False, "u64": 1 << 63, "i64": -(1 << 62),
    "f64": 0.1, "tokens": ["a", "", "é 😀", "<s>"], "scores": [0.5, -1.0, 2.0], "flags": [True, False, True],
    "nothing": [], "nested": [[1, 2], ["x"]],
}  # fmt: skip


def sound_file(kinds=("F32", "F16", "Q8_0"), pairs=tuple(EVERY_TYPE), version=3, seed=0):
    """A sound file with a tensor of shape (2, 256) for each kind."""
    sizes = [stored_size(kind, (2, 256)) for kind in kinds]
    offsets = [0, *accumulate(size + -size % 32 for size in sizes)]
    records = b"".join(
        record(f"{kind}.weight", [256, 2], CODES[kind], offset) for kind, offset in zip(kinds, offsets, strict=False)
    )
    generator = np.random.default_rng(seed)
    data = b"".join(padded(generator.bytes(size)) for size in sizes)
    return padded(head(len(kinds), len(pairs), version) + b"".join(pairs) + records) + data
