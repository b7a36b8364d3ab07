"""An interpolated modified Kneser-Ney n-gram model over token ids: the honest non-neural rival of a small Transformer.

Source: Chen & Goodman 1998, "An Empirical Study of Smoothing Techniques for Language Modeling", section 3 (modified
Kneser-Ney); the treatment of document starts is that of Heafield et al. 2013 (KenLM). Everything is counted with
sorts and gathers over whole arrays: there is no Python loop per token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cadran.errors import UserError

Ids = NDArray[np.int64]
Reals = NDArray[np.float64]
Discounts = tuple[float, float, float]

END_OF_TEXT = 0
FALLBACK_DISCOUNTS: Discounts = (0.5, 1.0, 1.5)


@dataclass(frozen=True)
class _Level:
    """The n-grams of one order n >= 2; an n-gram's id is its rank in ``keys``.

    ``keys`` (G,) holds ``id of the prefix * (vocabulary + 1) + last token``, increasing; ``weight`` (G,) the discounted
    relative frequency of the last token after the prefix; ``backoff`` (number of prefixes,) the mass that is left
    to the next lower order after each prefix (1 where the prefix was never followed by anything).
    """

    keys: Ids
    weight: Reals
    backoff: Reals


@dataclass(frozen=True)
class KneserNey:
    """A fitted model; build it with :meth:`fit`.

    A document is a 1-D integer array that begins and ends with the end-of-text id 0; every id but the first is a
    target. The leading end-of-text is a symbol of its own (it is a context, never a target), so a context never
    reaches into the previous document and an end-of-text in mid-document is an ordinary token.

    Attributes:
        vocabulary: number of token ids V; ids are in [0, V).
        order: longest n-gram.
        discounts: (D1, D2, D3+) of each order, unigrams first.
    """

    vocabulary: int
    order: int
    discounts: tuple[Discounts, ...]
    _unigram: Reals  # (V,), sums to 1, every entry > 0
    _levels: tuple[_Level, ...]  # orders 2, 3, ..., order

    @classmethod
    def fit(cls, documents: Sequence[NDArray[Any]], vocabulary: int, order: int = 5) -> Self:
        r"""Count the n-grams of the documents and estimate the model.

        For a history h and its one-token-shorter form h',

            p(w | h) = max(c(hw) - D(c(hw)), 0) / sum_v c(hv) + gamma(h) p(w | h'),
            gamma(h) = sum_v D(c(hv)) / sum_v c(hv),

        down to p(w) which is interpolated with the uniform distribution 1 / V, so that every token has a probability
        above 0. c is the number of occurrences at the highest order; below it, the number of distinct tokens seen
        before the n-gram, except for n-grams that open a document (nothing can precede them): they keep their
        occurrences. With n_k the number of n-grams of the order whose c is k, and Y = n_1 / (n_1 + 2 n_2),

            D_k = k - (k + 1) Y n_{k+1} / n_k    for k = 1, 2 and 3 (3 serves every c >= 3).

        An order for which one of n_1 ... n_4 is 0, or where a D_k is not above 0, takes the constant discounts
        (0.5, 1, 1.5) instead, as KenLM does on request; that happens for tiny corpora and often for the unigrams
        (a BPE vocabulary has hardly any token with one or two left neighbours).

        Args:
            documents: the training documents.
            vocabulary: V, number of token ids.
            order: longest n-gram, at least 1.

        Returns:
            The model. Time and memory grow as order x tokens (about 200 bytes a token at order 5).

        Raises:
            UserError: there is no document.
            ValueError: a document or a setting breaks the conventions above.

        Source: Chen & Goodman 1998, eq. for p_KN in section 3 and D1, D2, D3+ in section 3.1.
        """
        if vocabulary < 1 or order < 1:
            raise ValueError(f"vocabulary and order must be at least 1, not {vocabulary} and {order}")
        if not documents:
            raise UserError("The n-gram model has no document to count: add text to the corpus of the recipe.")
        symbols, offset = _lay_out(documents, vocabulary)
        base = vocabulary + 1
        ids = symbols  # ids[i] = id of the n-gram that ends at i, here n = 1
        counts = np.bincount(symbols[offset > 0], minlength=base)
        level_keys: list[Ids] = []
        level_counts: list[Ids] = []
        for length in range(2, order + 1):
            ends = np.flatnonzero(offset >= length - 1)
            keys, first, ranks, occurrences = np.unique(
                ids[ends - 1] * base + symbols[ends], return_index=True, return_inverse=True, return_counts=True
            )
            # Each distinct n-gram is one distinct left neighbour of its suffix, the (n-1)-gram with the same end.
            neighbours = np.bincount(ids[ends[first]], minlength=counts.size)
            level_counts.append(np.where(neighbours > 0, neighbours, counts))
            level_keys.append(keys)
            counts = occurrences.astype(np.int64)
            ids = np.full(symbols.size, -1, dtype=np.int64)
            ids[ends] = ranks
        level_counts.append(counts)

        unigram_counts = level_counts[0][:vocabulary]
        discounts = [_estimate_discounts(unigram_counts)]
        removed = _discount_of(unigram_counts, discounts[0])
        total = unigram_counts.sum()
        unigram = (unigram_counts - removed) / total + removed.sum() / total / vocabulary
        levels = []
        for length, keys in enumerate(level_keys, start=2):
            discounts.append(_estimate_discounts(level_counts[length - 1]))
            n_prefixes = base if length == 2 else level_keys[length - 3].size
            levels.append(_level(keys, level_counts[length - 1], discounts[-1], n_prefixes, base))
        return cls(vocabulary, order, tuple(discounts), unigram, tuple(levels))

    def negative_log_likelihood(self, documents: Sequence[NDArray[Any]]) -> float:
        """Total surprise of the documents, in nats, over all their targets (every id but the first of each).

        Args:
            documents: arrays of ids as in :meth:`fit`; none gives 0.

        Returns:
            Minus the sum of natural logarithms of p(target | history); always finite.

        Raises:
            ValueError: a document breaks the conventions of the class.
        """
        if not documents:
            return 0.0
        symbols, offset = _lay_out(documents, self.vocabulary)
        return float(-np.log(self._probabilities(symbols, offset)[offset > 0]).sum())

    def next_token_probabilities(self, prefix: NDArray[Any]) -> Reals:
        """Distribution of the token that follows a document's beginning.

        Args:
            prefix: ids from the leading end-of-text on, shape (T,), T >= 1; only the last order - 1 matter.

        Returns:
            Probabilities, shape (V,), all above 0, sum 1.

        Raises:
            ValueError: the prefix does not begin with end-of-text, or holds an id outside the vocabulary.
        """
        opening = np.asarray(prefix).astype(np.int64)
        symbols, _ = _lay_out([np.append(opening, END_OF_TEXT)], self.vocabulary)
        history = symbols[:-1][max(0, opening.size - self.order + 1) :]
        rows = np.empty((self.vocabulary, history.size + 1), dtype=np.int64)
        rows[:, :-1] = history
        rows[:, -1] = np.arange(self.vocabulary)
        # Each row is scored as a document of its own; what was cut off the history is longer than any context.
        offset = np.tile(np.arange(rows.shape[1]), self.vocabulary)
        return self._probabilities(rows.ravel(), offset).reshape(rows.shape)[:, -1]

    def _probabilities(self, symbols: Ids, offset: Ids) -> Reals:
        """p(symbol | history) at each position, shape (T,); meaningless where ``symbols`` is the document start."""
        base = self.vocabulary + 1
        ids = symbols
        probabilities: Reals = np.append(self._unigram, 1.0)[symbols]
        for level in self._levels:
            # A history that was never counted (-1) has no weight and leaves all to the lower order.
            history = np.where(offset > 0, np.roll(ids, 1), -1)
            known = np.flatnonzero(history >= 0)
            ids = np.full(symbols.size, -1, dtype=np.int64)
            ids[known] = _find(level.keys, history[known] * base + symbols[known])
            probabilities[known] *= level.backoff[history[known]]
            seen = np.flatnonzero(ids >= 0)
            probabilities[seen] += level.weight[ids[seen]]
        return probabilities


def _lay_out(documents: Sequence[NDArray[Any]], vocabulary: int) -> tuple[Ids, Ids]:
    """Join the documents into symbols (T,) and each symbol's place in its document (T,).

    The leading end-of-text becomes the symbol ``vocabulary``.
    """
    sizes = np.array([document.size for document in documents], dtype=np.int64)
    if any(document.ndim != 1 for document in documents) or sizes.min() < 2:
        raise ValueError("a document must be a 1-D array of at least two ids: end-of-text at both ends")
    joined = np.concatenate(documents)
    if joined.dtype.kind not in "iu":
        raise ValueError(f"token ids must be integers, not {joined.dtype}")
    symbols = joined.astype(np.int64)
    if symbols.min() < 0 or symbols.max() >= vocabulary:
        raise ValueError(f"token ids must be in [0, {vocabulary}), not in [{symbols.min()}, {symbols.max()}]")
    stops = np.cumsum(sizes)
    starts = stops - sizes
    if symbols[starts].any() or symbols[stops - 1].any():
        raise ValueError(f"a document must begin and end with the end-of-text id {END_OF_TEXT}")
    symbols[starts] = vocabulary
    return symbols, np.arange(symbols.size) - np.repeat(starts, sizes)


def _estimate_discounts(counts: Ids) -> Discounts:
    """D1, D2 and D3+ of one order from its counts of counts; the constant fallback where they are degenerate."""
    _, n1, n2, n3, n4 = (int(n) for n in np.bincount(np.minimum(counts, 5), minlength=6)[:5])
    if min(n1, n2, n3, n4) == 0:
        return FALLBACK_DISCOUNTS
    y = n1 / (n1 + 2 * n2)
    discounts = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    # A discount of 0 would leave some histories no mass for unseen tokens, a negative one would invent mass.
    return discounts if min(discounts) > 0 else FALLBACK_DISCOUNTS


def _discount_of(counts: Ids, discounts: Discounts) -> Reals:
    """D(c) for each count c, same shape; D(0) = 0."""
    return np.array((0.0, *discounts))[np.minimum(counts, 3)]


def _level(keys: Ids, counts: Ids, discounts: Discounts, n_prefixes: int, base: int) -> _Level:
    """Turn the counts of one order into weights and back-off masses."""
    prefix = keys // base
    removed = _discount_of(counts, discounts)
    total = np.bincount(prefix, weights=counts, minlength=n_prefixes)
    mass = np.bincount(prefix, weights=removed, minlength=n_prefixes)
    backoff = np.divide(mass, total, out=np.ones(n_prefixes), where=total > 0)
    return _Level(keys, (counts - removed) / total[prefix], backoff)


def _find(keys: Ids, wanted: Ids) -> Ids:
    """Rank of each wanted key in the increasing ``keys``, -1 where it is absent."""
    if keys.size == 0:
        return np.full(wanted.size, -1, dtype=np.int64)
    ranks = np.minimum(np.searchsorted(keys, wanted), keys.size - 1)
    return np.where(keys[ranks] == wanted, ranks, -1)
