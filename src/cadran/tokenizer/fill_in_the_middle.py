"""Documents rearranged so that a model learns to fill a gap: what stands around it first, what belongs into it last.

``<|fim_suffix|>`` end ``<|fim_prefix|>`` beginning ``<|fim_middle|>`` middle, with the names that editors' completion
expects. Source: Bavarian et al. 2022, "Efficient Training of Language Models to Fill in the Middle": cuts fall between
characters and not between tokens, because a cursor does too, and what is rearranged is a passage that the model reads
at once (there "context level"): of a longer one it would meet the end in one row and the middle in another.
"""

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt

from cadran.tokenizer.tokenizer import PAD, Tokenizer

IntArray = npt.NDArray[np.integer]
Order = Literal["psm", "spm"]
"""Prefix, suffix, middle; or suffix, prefix, middle."""
ORDER: Order = "spm"
"""Of the models that are trained here: so the middle goes on where its beginning ends, which is most of what a small
model knows how to do. Middles cost 4.7 % less than in the other order, and plain text 1.6 % (LAB.md)."""

Gap = Literal["span", "line", "piece"]
GAPS: tuple[Gap, ...] = ("span", "line", "piece")

ADDED = 5
"""Tokens that a rearranged passage has besides its text: three marks, and end-of-text on both sides."""
LONGEST_PIECE = 64
CUT_TOKENS = 8
"""Cut in three, a text may need so many tokens more; a passage that needs still more stays as it is."""


def cut(text: str, generator: np.random.Generator, gap: Gap | None = None) -> tuple[str, str, str]:
    """A text in three parts, of which the middle is a gap as people leave it; any part may be empty.

    Args:
        text: what is cut.
        generator: decides where.
        gap: "span" lies between two places at random, as in the paper. "line" begins at a place at random and ends
            where its line ends or one of the next few: a cursor stands there, and the rest is to come. "piece" has a
            length at random on a scale of logarithms: a name, an argument, a word. None means one of them at random.
    """
    kind = gap or GAPS[int(generator.integers(len(GAPS)))]
    if kind == "span":
        first, second = sorted(int(place) for place in generator.integers(0, len(text) + 1, 2))
    elif kind == "line":
        first = second = int(generator.integers(0, len(text) + 1))
        for _ in range(int(generator.geometric(0.5))):
            end = text.find("\n", second + (second > first))
            second = len(text) if end < 0 else end
    else:
        length = min(len(text), int(math.exp(generator.uniform(0.0, math.log(LONGEST_PIECE)))))
        first = int(generator.integers(0, len(text) - length + 1))
        second = first + length
    return text[:first], text[first:second], text[second:]


def rearranged(tokenizer: Tokenizer, parts: tuple[str, str, str], order: Order = ORDER) -> IntArray:
    """Ids of a text whose middle comes last.

    Args:
        tokenizer: with the three marks.
        parts: beginning, middle and end of the text.
        order: of what comes before it.

    Returns:
        Shape (n,), without any end-of-text.
    """
    beginning, middle, end = (tokenizer.encode(part) for part in parts)
    before, after = [tokenizer.fim_prefix, *beginning], [tokenizer.fim_suffix, *end]
    around = [*after, *before] if order == "spm" else [*before, *after]
    return np.array([*around, tokenizer.fim_middle, *middle])


def taught(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer of ours that tells, in the configuration beside it, in which order its model reads a gap."""
    tokenizer.config.update(pad_token=PAD, fim_order=ORDER)
    return tokenizer


def with_gaps(
    tokenizer: Tokenizer,
    text: str,
    ids: IntArray,
    *,
    share: float,
    context: int,
    generator: np.random.Generator,
) -> Iterator[tuple[IntArray, int]]:
    """A document as a model reads it in training: some of its passages rearranged, the others as they were written.

    A passage is the whole document where that fits into the context, otherwise some lines of it, of a length at random
    between a quarter of the context and all of it.

    Args:
        tokenizer: with the three marks.
        text: of the document.
        ids: the same as ``tokenizer`` encodes it, shape (n,).
        share: of the passages that are rearranged.
        context: most pairs that the model reads at once.
        generator: decides everything that is left open.

    Yields:
        Ids of which the first is only there to predict from and all others are to be predicted, and the bytes of text
        that these spell. Together they spell the text once.
    """
    end_of_text = tokenizer.end_of_text
    told = 0  # tokens so far

    def plain(stop: int) -> tuple[IntArray, int]:
        before = end_of_text if told == 0 else int(ids[told - 1])
        closing = [end_of_text] if stop == len(ids) else []
        size = int(tokenizer.bytes_per_token[ids[told:stop]].sum())
        return np.array([before, *ids[told:stop], *closing]), size

    for begin, stop, passage in passages(tokenizer, text, ids, context, generator):
        if generator.random() >= share:
            continue
        filled = rearranged(tokenizer, cut(passage, generator))
        if len(filled) + 2 <= context + 1:
            if told < begin:
                yield plain(begin)
            yield np.array([end_of_text, *filled, end_of_text]), len(passage.encode())
            told = stop
    if told < len(ids):
        yield plain(len(ids))


def passages(
    tokenizer: Tokenizer, text: str, ids: IntArray, context: int, generator: np.random.Generator
) -> Iterator[tuple[int, int, str]]:
    """A document in parts that fit into the context together with the marks of a gap; see ``with_gaps``.

    Yields:
        First token of the part, the one behind its last, and its text. A part ends behind a line if there is one in
        its second half, never within a character.
    """
    content = text.encode()
    ends = np.cumsum(tokenizer.bytes_per_token[ids])  # byte at which each token ends
    room, begin = context + 1 - ADDED, 0
    longest = max(room - CUT_TOKENS, 1)
    while begin < len(ids):
        stop = len(ids)
        if begin or stop > room:
            stop = begin + int(generator.integers(min(longest, max(room // 4, 1)), longest + 1))
            stop = _boundary(content, ends, begin, stop) if stop < len(ids) else len(ids)
        yield begin, stop, content[int(ends[begin - 1]) if begin else 0 : int(ends[stop - 1])].decode()
        begin = stop


def _boundary(content: bytes, ends: IntArray, begin: int, limit: int) -> int:
    for stop in range(limit, begin + (limit - begin) // 2, -1):
        if content[ends[stop - 1] - 1] == ord("\n"):
            return stop
    while limit < len(ends) and content[ends[limit - 1]] & 0xC0 == 0x80:  # within a character of several bytes
        limit += 1
    return limit
