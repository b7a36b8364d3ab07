"""What makes two texts the same text: the hash that exact deduplication and the split share."""

import hashlib


def content_digest(text: str) -> bytes:
    """SHA-256 (32 bytes) of the case-folded text with every run of white space squeezed to one space.

    Texts that differ only in case, spacing or line breaks are one document: they are removed as exact duplicates,
    and could never be split between training and validation.
    """
    return hashlib.sha256(" ".join(text.casefold().split()).encode("utf-8")).digest()
