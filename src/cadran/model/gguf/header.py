"""The typed values at the head of a GGUF file, read from a map of it as if an enemy had written them.

Nothing is allocated for what the file merely claims: each length and count is compared with the bytes that are left
before anything of that size is made. Source: the GGUF specification, versions 2 and 3, little-endian.
"""

from mmap import mmap
from pathlib import Path
from struct import Struct, error

import numpy as np

from cadran.errors import UserError

Value = int | float | bool | str | list["Value"]

ALIGNMENT = 32  # bytes: where tensors begin, unless general.alignment says otherwise
LONGEST_HEADER = 64 << 20  # bytes: ten times that of a vocabulary of 262,144 pieces
_MOST_ELEMENTS = 1 << 23  # of all arrays together: a list of Python objects weighs up to 60 times its bytes in the file
_DEEPEST = 4  # arrays within arrays
_LONGEST_KEY = 65_535  # bytes, the specification's own limit

_U32, _U64 = Struct("<I"), Struct("<Q")
BOOL, STRING, ARRAY = 7, 8, 9
# Code in the file -> NumPy's name of a number; the codes of booleans, strings and arrays are above.
NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 10: "<u8", 11: "<i8", 12: "<f8"}
# The fewest bytes that one element of an array can take: an empty string is its length, an empty array its head.
_SMALLEST = {code: np.dtype(name).itemsize for code, name in NUMBERS.items()} | {BOOL: 1, STRING: 8, ARRAY: 12}


def shown(name: str) -> str:
    """A name from the file, made fit for an error message: control characters escaped, at most 80 letters."""
    return repr(name if len(name) <= 80 else f"{name[:80]}...")


class HeaderCursor:
    """A place in the header of a mapped file that moves on with each value read.

    Attributes:
        position: of the next byte.
        limit: no value may reach past it.
    """

    def __init__(self, content: mmap, path: Path) -> None:
        self.position = 0
        self.limit = min(len(content), LONGEST_HEADER)
        self._content = content
        self._path = path
        self._elements = 0

    def damaged(self, reason: str) -> UserError:
        """The error to raise about this file."""
        return UserError(
            f"{self._path} is not a sound GGUF file ({reason}): fetch it with `cadran pull`, or copy it again."
        )

    def unsupported(self, reason: str) -> UserError:
        """The error to raise when the file may be sound but is not one that Cadran reads."""
        return UserError(f"{self._path} {reason}: choose a little-endian file of GGUF version 2 or 3.")

    def u32(self, what: str) -> int:
        """The next 32-bit unsigned number; ``what`` names it in the error."""
        return self._number(_U32, what)

    def u64(self, what: str) -> int:
        """The next 64-bit unsigned number; ``what`` names it in the error."""
        return self._number(_U64, what)

    def text(self, what: str, longest: int = LONGEST_HEADER) -> str:
        """The next string: its length in bytes, at most ``longest``, then UTF-8."""
        length = self.u64(f"the length of {what}")
        self._need(length, what)
        if length > longest:
            raise self.damaged(f"{what} is {length} bytes long")
        start, self.position = self.position, self.position + length
        try:
            return str(self._content[start : self.position], "utf-8")
        except UnicodeDecodeError:
            raise self.damaged(f"{what} is not UTF-8") from None

    def key(self) -> str:
        """The next key of the metadata."""
        key = self.text("a metadata key", _LONGEST_KEY)
        if not key:
            raise self.damaged("a metadata key is empty")
        return key

    def value(self, what: str) -> Value:
        """The next metadata value, which its type precedes."""
        code = self.u32(f"the type of {what}")
        if code == STRING:
            return self.text(what)
        if code == ARRAY:
            return self._array(what, 1)
        return self._numbers(code, 1, what)[0]

    def _array(self, what: str, depth: int) -> list[Value]:
        if depth > _DEEPEST:
            raise self.damaged(f"{what} nests arrays deeper than {_DEEPEST}")
        code, count = self.u32(f"the type of {what}"), self.u64(f"the length of {what}")
        self._elements += count
        if count > (self.limit - self.position) // _SMALLEST.get(code, 1) or self._elements > _MOST_ELEMENTS:
            raise self.damaged(f"{what} claims {count} elements")
        if code == STRING:
            return self._strings(count, what)
        if code == ARRAY:
            return [self._array(what, depth + 1) for _ in range(count)]
        return self._numbers(code, count, what)

    def _numbers(self, code: int, count: int, what: str) -> list[Value]:
        name = "u1" if code == BOOL else NUMBERS.get(code)
        if name is None:
            raise self.damaged(f"{what} has the unknown type {code}")
        start, size = self.position, count * _SMALLEST[code]
        self._need(size, what)
        self.position += size
        numbers = np.frombuffer(self._content[start : self.position], name, count)
        if code == BOOL:
            if np.any(numbers > 1):
                raise self.damaged(f"{what} is a boolean that is neither 0 nor 1")
            numbers = numbers.astype(bool)
        values: list[Value] = numbers.tolist()
        return values

    def _strings(self, count: int, what: str) -> list[Value]:
        # A vocabulary is half a million of these: hence no call per string but the two that read it.
        content, limit, position, length_at = self._content, self.limit, self.position, _U64.unpack_from
        texts: list[Value] = []
        append = texts.append
        try:
            for _ in range(count):
                start = position + 8
                position = start + length_at(content, position)[0]
                if position > limit:
                    raise self.damaged(f"{what} goes past the end of the header")
                append(str(content[start:position], "utf-8"))
        except error:
            raise self.damaged(f"{what} goes past the end of the header") from None
        except UnicodeDecodeError:
            raise self.damaged(f"{what} is not UTF-8") from None
        self.position = position
        return texts

    def _number(self, layout: Struct, what: str) -> int:
        self._need(layout.size, what)
        (number,) = layout.unpack_from(self._content, self.position)
        self.position += layout.size
        return int(number)

    def _need(self, size: int, what: str) -> None:
        if size > self.limit - self.position:
            raise self.damaged(f"{what} goes past the end of the header")
