"""Bytes of a text file to characters, without asking the user which encoding it is in.

UTF-8 proves itself (other encodings are practically never valid UTF-8), UTF-16 announces itself by its byte-order
mark, and what remains on a European disk is Windows-1252 or Latin-1.
"""

import codecs

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins with the mark of UTF-16-LE, so it is asked first
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LOOK_AT = 8192
_CONTROLS = bytes(code for code in range(32) if code not in b"\t\n\r\f\x1b")


class NotText(ValueError):
    """The bytes are not text in any encoding that is recognised."""


def decode(content: bytes) -> tuple[str, bool]:
    """Text of a file's bytes, and whether its encoding had to be guessed.

    Args:
        content: the whole file, or one line of it.

    Returns:
        The text, and True if it was neither UTF-8 nor marked UTF-16/32 and was read as Windows-1252 (or as Latin-1
        where a byte has no meaning in Windows-1252).

    Raises:
        NotText: it looks like a binary file.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            try:
                return content.decode(encoding), False
            except UnicodeDecodeError:
                if encoding != "utf-8-sig":
                    raise NotText(f"broken {encoding}") from None
                content = content[len(mark) :]
    if is_binary(content):
        raise NotText("binary")
    try:
        return content.decode("utf-8"), False
    except UnicodeDecodeError:
        pass
    try:
        return content.decode("cp1252"), True
    except UnicodeDecodeError:
        return content.decode("latin-1"), True


def is_binary(content: bytes) -> bool:
    """True if the first 8 KB hold a NUL byte, or more than one control character in twenty."""
    start = content[:_LOOK_AT]
    controls = len(start) - len(start.translate(None, _CONTROLS))
    return b"\0" in start or controls * 20 > len(start)
