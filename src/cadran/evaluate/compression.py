"""Bits per byte that a general-purpose compressor needs for the held-out text: what any language model must beat.

The compressor is xz (LZMA2) at its strongest setting, the one of ``xz -9e``.
"""

import lzma
from dataclasses import dataclass

from cadran.errors import UserError

_PRESET = 9 | lzma.PRESET_EXTREME
_LEAST_DICTIONARY = 1 << 26  # bytes; what preset 9 takes
_GREATEST_DICTIONARY = 1536 << 20  # bytes; what the encoder accepts


@dataclass(frozen=True)
class XzBitsPerByte:
    """Bits per byte of the held-out text, twice.

    Attributes:
        alone: xz sees nothing but the held-out text; the container (under 100 bytes) is counted.
        given_training: xz has read the training text before, as a language model has: the growth of the compressed
            file when the held-out text is appended. This is the figure to set beside a model's bits per byte.
    """

    alone: float
    given_training: float


def xz_bits_per_byte(training: bytes, held_out: bytes) -> XzBitsPerByte:
    """Compress the held-out text with ``xz -9e``, alone and after the training text.

    Args:
        training: the training text; may be empty.
        held_out: the text to measure.

    Returns:
        Both figures, in bits per byte of ``held_out``. About 1 MB/s, the training text twice. The dictionary holds
        both texts (up to 1.5 GiB; beyond that the oldest training text is forgotten) and the encoder takes at most
        11 times its size in memory.

    Raises:
        UserError: the held-out text is empty.
    """
    if not held_out:
        raise UserError("The held-out text is empty, xz has nothing to compress: raise the validation share.")
    dictionary = min(max(len(training) + len(held_out), _LEAST_DICTIONARY), _GREATEST_DICTIONARY)
    both = _compressed_size((training, held_out), dictionary)
    before = _compressed_size((training,), dictionary)
    alone = _compressed_size((held_out,), dictionary)
    return XzBitsPerByte(alone=8 * alone / len(held_out), given_training=8 * (both - before) / len(held_out))


def _compressed_size(texts: tuple[bytes, ...], dictionary: int) -> int:
    """Bytes of the xz file that holds the texts end to end; the texts are not joined in memory."""
    compressor = lzma.LZMACompressor(
        lzma.FORMAT_XZ, filters=[{"id": lzma.FILTER_LZMA2, "preset": _PRESET, "dict_size": dictionary}]
    )
    return sum(len(compressor.compress(text)) for text in texts) + len(compressor.flush())
