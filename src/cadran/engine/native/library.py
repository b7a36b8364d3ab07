"""Finding and describing the compiled core.

It is built when Cadran is installed and lies beside the package; without it the engine runs on PyTorch.
"""

import ctypes
import functools
import os
import sys
from collections.abc import Iterator
from ctypes import POINTER, c_char_p, c_double, c_float, c_int32, c_size_t, c_uint8, c_uint64, c_void_p
from pathlib import Path

from cadran.errors import UserError

ABI = 3
"""Of native/cadran.h; another number means that the library was built from other sources."""


class Unavailable(Exception):
    """The core cannot run this, and why: a sentence without a full stop."""


class Shape(ctypes.Structure):
    """``cadran_shape``."""

    _fields_ = [
        *[(name, c_int32) for name in ("vocabulary", "layers", "width", "heads", "kv_heads", "head_width", "hidden")],
        *[(name, c_int32) for name in ("context", "activation", "layer_norm", "qk_norm", "rotary", "window", "tied")],
        *[(name, c_float) for name in ("epsilon", "attention_scale", "attention_cap", "logit_cap", "embedding_scale")],
        *[(name, c_float) for name in ("rope_magnitude", "local_rope_magnitude")],
        ("windowed", c_char_p),
    ]


class Tensor(ctypes.Structure):
    """``cadran_tensor``."""

    _fields_ = [
        *[(name, c_int32) for name in ("role", "layer", "kind", "rows", "columns", "reserved")],
        ("offset", c_uint64),
        ("bytes", c_uint64),
    ]


class CBatch(ctypes.Structure):
    """``cadran_batch``."""

    _fields_ = [
        *[(name, c_int32) for name in ("tokens", "sequences", "wide", "outputs")],
        *[(name, c_void_p) for name in ("ids", "positions", "starts", "tables", "wanted", "adapters")],
    ]


def available() -> bool:
    """Whether the core was compiled and can be loaded."""
    return why_not() is None


def why_not() -> str | None:
    """Why there is no core, a sentence for the user; None when there is one."""
    try:
        library()
    except Unavailable as reason:
        return str(reason)
    return None


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded core, with the types of its functions.

    Raises:
        Unavailable: it was not compiled, or was built from other sources.
        UserError: CADRAN_LIBRARY names a file that is no core.
    """
    named = os.environ.get("CADRAN_LIBRARY")
    path = next((found for found in _places(named) if found.is_file()), None)
    if path is None:
        if named:
            raise UserError(f"CADRAN_LIBRARY names {named}, where there is no file; unset it, or name the library")
        raise Unavailable(
            "the C++ core was not compiled when Cadran was installed (there was no C++17 compiler, or it failed); "
            "install one (Debian: apt install g++; macOS: xcode-select --install), then type "
            "pip install --force-reinstall --no-deps . in Cadran's folder"
        )
    try:
        loaded = ctypes.CDLL(str(path))
        loaded.cadran_abi.restype = c_int32
        built = loaded.cadran_abi()
    except (OSError, AttributeError) as error:
        raise Unavailable(f"the C++ core at {path} cannot be loaded ({error})") from error
    if built != ABI:
        raise Unavailable(
            f"the C++ core is of version {built} and Cadran asks for {ABI}; type "
            "pip install --force-reinstall --no-deps . in Cadran's folder"
        )
    _describe(loaded)
    return loaded


def error(loaded: ctypes.CDLL) -> str:
    """What the last failed call on this thread said."""
    said: bytes = loaded.cadran_error()
    return said.decode()


def _places(named: str | None) -> Iterator[Path]:
    if named:
        yield Path(named)
        return
    # Beside the package; an editable installation has the package elsewhere than what was compiled.
    package: list[str] = list(sys.modules["cadran"].__path__)
    for folder in [*map(Path, package), *(Path(entry, "cadran") for entry in sys.path)]:
        yield folder / "_native" / "libcadran.so"


def _describe(loaded: ctypes.CDLL) -> None:
    signatures: dict[str, tuple[object, list[object]]] = {
        "cadran_error": (c_char_p, []),
        "cadran_isa": (c_char_p, []),
        "cadran_isas": (c_char_p, []),
        "cadran_read_bandwidth": (c_double, [c_int32, c_size_t, c_int32]),
        "cadran_open": (
            c_void_p,
            [POINTER(Shape), POINTER(Tensor), c_int32, c_char_p, *[c_int32] * 5, c_char_p],
        ),
        "cadran_close": (None, [c_void_p]),
        "cadran_step": (c_int32, [c_void_p, POINTER(CBatch), c_void_p, c_int32, c_void_p]),
        "cadran_burst": (
            c_int32,
            [c_void_p, POINTER(CBatch), POINTER(c_void_p), c_int32, c_void_p, c_void_p, c_int32, c_void_p],
        ),
        "cadran_block_bytes": (c_size_t, [c_void_p]),
        "cadran_weight_bytes": (c_size_t, [c_void_p]),
        "cadran_add_adapter": (c_int32, [c_void_p, POINTER(Tensor), c_int32, c_char_p, c_size_t]),
        "cadran_drop_adapter": (c_int32, [c_void_p, c_int32]),
        "cadran_copy_block": (c_int32, [c_void_p, c_int32, c_int32]),
        "cadran_read_block": (c_int32, [c_void_p, c_int32, c_void_p]),
        "cadran_write_block": (c_int32, [c_void_p, c_int32, c_void_p]),
        "cadran_test_multiply": (
            c_int32,
            [c_char_p, c_int32, c_int32, POINTER(c_uint8), *[c_int32] * 2, POINTER(c_float), c_int32, POINTER(c_float)],
        ),
        "cadran_test_map": (c_int32, [c_char_p, c_char_p, POINTER(c_float), c_int32, POINTER(c_float)]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
