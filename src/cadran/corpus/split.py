"""Which documents are held out for validation: decided by the text alone, so nobody can be on both sides.

Not by position, source or a random generator: adding a source, or running it again elsewhere, moves no document.
"""

from collections.abc import Sequence
from fractions import Fraction

from cadran.corpus.digest import content_digest
from cadran.corpus.document import Split


def split_of(text: str, validation: float) -> Split:
    """Split of a text: validation if its digest, read as a number in [0, 1), is below the fraction.

    Args:
        text: normalised text.
        validation: fraction of documents held out, 0 <= validation < 1.
    """
    return split_of_digest(content_digest(text), validation)


def split_of_digest(digest: bytes, validation: float) -> Split:
    """`split_of` for a text whose `content_digest` is known already."""
    return "validation" if _position(digest) < Fraction(validation) else "train"


def split_corpus(digests: Sequence[bytes], validation: float) -> tuple[list[Split], bool]:
    """Splits of all documents of a corpus, none of the two sides left empty.

    In a corpus of a few dozen documents chance may hold out none, or all. Then the one document whose digest lies
    nearest the border changes sides: still a function of the texts alone.

    Args:
        digests: `content_digest` of each kept document; all different.
        validation: fraction held out; 0 holds out nothing.

    Returns:
        One split per document, and whether a document had to be moved.
    """
    splits = [split_of_digest(digest, validation) for digest in digests]
    if validation <= 0 or len(splits) < 2:
        return splits, False
    if "validation" not in splits:
        splits[min(range(len(digests)), key=lambda index: digests[index])] = "validation"
        return splits, True
    if "train" not in splits:
        splits[max(range(len(digests)), key=lambda index: digests[index])] = "train"
        return splits, True
    return splits, False


def _position(digest: bytes) -> Fraction:
    return Fraction(int.from_bytes(digest[:8], "big"), 1 << 64)
