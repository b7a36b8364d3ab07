"""Documents rearranged so that a model learns to fill a gap: beginning and end first, then what lies between.

``<|fim_prefix|>`` beginning ``<|fim_suffix|>`` end ``<|fim_middle|>`` middle, in the order and with the names that
editors' completion expects. Cuts fall between characters and not between tokens, because a cursor does too. Source:
Bavarian et al. 2022, "Efficient Training of Language Models to Fill in the Middle" (document level, PSM).
"""

import numpy as np
import numpy.typing as npt

from cadran.tokenizer.tokenizer import Tokenizer

IntArray = npt.NDArray[np.integer]


def cut(text: str, generator: np.random.Generator) -> tuple[str, str, str]:
    """A text in three parts, both cuts at random; any part may be empty."""
    first, second = sorted(int(place) for place in generator.integers(0, len(text) + 1, 2))
    return text[:first], text[first:second], text[second:]


def rearranged(tokenizer: Tokenizer, parts: tuple[str, str, str]) -> IntArray:
    """Ids of a document whose middle comes last.

    Args:
        tokenizer: with the three marks.
        parts: beginning, middle and end of the text.

    Returns:
        Shape (n,), without any end-of-text.
    """
    beginning, middle, end = (tokenizer.encode(part) for part in parts)
    marks = tokenizer.fim_prefix, tokenizer.fim_suffix, tokenizer.fim_middle
    return np.array([marks[0], *beginning, marks[1], *end, marks[2], *middle])


def restored(tokenizer: Tokenizer, ids: IntArray) -> IntArray:
    """The same document in the order in which it was written, its marks taken out; others as they are.

    Args:
        tokenizer: the same.
        ids: of one document, shape (n,); end-of-text tokens around it stay where they are.
    """
    places = [
        np.flatnonzero(ids == mark) for mark in (tokenizer.fim_prefix, tokenizer.fim_suffix, tokenizer.fim_middle)
    ]
    if any(len(place) != 1 for place in places):
        return ids
    prefix, suffix, middle = (int(place[0]) for place in places)
    closing = len(ids) - (1 if ids[-1] == tokenizer.end_of_text else 0)
    beginning, end, between = ids[prefix + 1 : suffix], ids[suffix + 1 : middle], ids[middle + 1 : closing]
    return np.concatenate((ids[:prefix], beginning, between, end, ids[closing:]))
