import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadran.errors import UserError
from cadran.evaluate.kneser_ney import FALLBACK_DISCOUNTS, KneserNey


class BruteForce:
    """Modified Kneser-Ney with dictionaries, written from the formulae, one n-gram at a time."""

    def __init__(self, documents, vocabulary, order):
        self.vocabulary, self.order = vocabulary, order
        occurrences = Counter()
        for document in documents:
            symbols = ["start", *document[1:]]
            for end in range(1, len(symbols)):
                for begin in range(max(0, end - order + 1), end + 1):
                    occurrences[tuple(symbols[begin : end + 1])] += 1
        left = defaultdict(set)
        for ngram in occurrences:
            if len(ngram) > 1:
                left[ngram[1:]].add(ngram[0])
        self.count = {}
        for ngram, seen in occurrences.items():
            whole = len(ngram) == order or ngram[0] == "start"
            self.count[ngram] = seen if whole else len(left[ngram])
        self.followers = defaultdict(list)
        for ngram in self.count:
            self.followers[ngram[:-1]].append(self.count[ngram])
        self.discounts = [self._discounts(n) for n in range(1, order + 1)]

    def _discounts(self, length):
        n = Counter(c for ngram, c in self.count.items() if len(ngram) == length)
        if not (n[1] and n[2] and n[3] and n[4]):
            return FALLBACK_DISCOUNTS
        y = n[1] / (n[1] + 2 * n[2])
        d = tuple(k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3))
        return d if min(d) > 0 else FALLBACK_DISCOUNTS

    def _discount(self, length, count):
        return 0.0 if count == 0 else self.discounts[length - 1][min(count, 3) - 1]

    def probability(self, history, token):
        history = tuple(history)[max(0, len(history) - self.order + 1) :]
        lower = self.probability(history[1:], token) if history else 1 / self.vocabulary
        followers = self.followers.get(history)
        if not followers:
            return lower
        total, length = sum(followers), len(history) + 1
        count = self.count.get((*history, token), 0)
        gamma = sum(self._discount(length, c) for c in followers) / total
        return (count - self._discount(length, count)) / total + gamma * lower

    def negative_log_likelihood(self, documents):
        return -sum(
            math.log(self.probability(["start", *document[1:end]], document[end]))
            for document in documents
            for end in range(1, len(document))
        )


def random_documents(seed, n_documents, vocabulary, longest):
    """Documents of skewed tokens, so that counts 1, 2, 3 and 4 all occur."""
    generator = np.random.default_rng(seed)
    documents = []
    for _ in range(n_documents):
        body = (vocabulary * generator.random(generator.integers(0, longest)) ** 2.5).astype(np.int64)
        documents.append(np.concatenate([[0], body, [0]]))
    return documents


def structured_documents(seed, n_documents):
    """The next token follows from the last one (30 %), from the last two (60 %), or from nothing."""
    generator = np.random.default_rng(seed)
    documents = []
    for _ in range(n_documents):
        tokens = [0, *(1 + generator.integers(0, 19, 2))]
        for _ in range(60):
            from_two, from_one, noise = (
                (7 * tokens[-1] + 3 * tokens[-2]) % 19,
                5 * tokens[-1] % 19,
                generator.integers(19),
            )
            tokens.append(1 + int(generator.choice([from_two, from_one, noise], p=[0.6, 0.3, 0.1])))
        documents.append(np.array([*tokens, 0], dtype=np.int32))
    return documents


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_formulae_counted_by_hand(order, seed):
    training = random_documents(seed, n_documents=60, vocabulary=200, longest=60)
    held_out = random_documents(seed + 100, n_documents=10, vocabulary=220, longest=30)
    model, brute = KneserNey.fit(training, 220, order), BruteForce(training, 220, order)
    assert any(d != FALLBACK_DISCOUNTS for d in brute.discounts)
    np.testing.assert_allclose(model.discounts, brute.discounts, rtol=1e-12)
    for documents in (training, held_out):
        assert model.negative_log_likelihood(documents) == pytest.approx(
            brute.negative_log_likelihood(documents), rel=1e-9
        )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_corpus_equals_the_formulae_and_sums_to_one(data):
    vocabulary = data.draw(st.integers(1, 6))
    order = data.draw(st.integers(1, 4))
    body = st.lists(st.integers(0, vocabulary - 1), max_size=12)
    document = body.map(lambda tokens: np.array([0, *tokens, 0], dtype=np.uint16))
    training = data.draw(st.lists(document, min_size=1, max_size=6))
    prefix = np.array([0, *data.draw(body)])
    model, brute = KneserNey.fit(training, vocabulary, order), BruteForce(training, vocabulary, order)
    probabilities = model.next_token_probabilities(prefix)
    expected = [brute.probability(["start", *prefix[1:]], token) for token in range(vocabulary)]
    np.testing.assert_allclose(probabilities, expected, rtol=1e-9)
    assert probabilities.sum() == pytest.approx(1, abs=1e-9)
    assert (probabilities > 0).all()


def test_probabilities_sum_to_one_after_seen_and_unseen_histories():
    model = KneserNey.fit(structured_documents(0, 50), vocabulary=40, order=5)
    seen = structured_documents(0, 1)[0]
    for prefix in ([0], seen[:1], seen[:2], seen[:3], seen[:20], [0, 39], [0, 39, 38, 37, 36, 35], [0, *seen[5:9], 39]):
        probabilities = model.next_token_probabilities(np.array(prefix))
        assert probabilities.shape == (40,)
        assert probabilities.sum() == pytest.approx(1, abs=1e-9)
        assert (probabilities > 0).all()


def test_perplexity_falls_with_the_order_on_structured_text():
    training, held_out = structured_documents(1, 200), structured_documents(2, 20)
    nats = [KneserNey.fit(training, 20, order).negative_log_likelihood(held_out) for order in (1, 2, 3)]
    assert nats[0] > nats[1] > nats[2]
    assert nats[2] < 0.5 * nats[0]


def test_likelihood_of_documents_is_the_sum_of_their_tokens():
    model = KneserNey.fit(structured_documents(3, 30), 20)
    documents = structured_documents(4, 2)
    one_by_one = -sum(
        math.log(model.next_token_probabilities(document[:end])[document[end]])
        for document in documents
        for end in range(1, document.size)
    )
    assert model.negative_log_likelihood(documents) == pytest.approx(one_by_one, rel=1e-12)


def test_history_never_crosses_documents():
    documents = structured_documents(5, 12)
    model = KneserNey.fit(documents, 20)
    shuffled = [documents[i] for i in np.random.default_rng(0).permutation(12)]
    prefix = documents[0][:7]
    reordered = KneserNey.fit(shuffled, 20)
    np.testing.assert_array_equal(model.next_token_probabilities(prefix), reordered.next_token_probabilities(prefix))
    apart = sum(model.negative_log_likelihood([document]) for document in shuffled)
    assert model.negative_log_likelihood(documents) == pytest.approx(apart, rel=1e-12)


def test_unseen_token_has_a_finite_cost():
    model = KneserNey.fit(structured_documents(6, 20), vocabulary=1000)
    surprise = model.negative_log_likelihood([np.array([0, 999, 998, 999, 0])])
    assert math.isfinite(surprise)
    assert surprise > 3 * math.log(1000)


def test_degenerate_counts_of_counts_use_the_constant_discounts():
    once = [np.array([0, *range(1, 9), 0])]  # every n-gram occurs once: n2 = n3 = n4 = 0
    model = KneserNey.fit(once, vocabulary=10, order=3)
    assert model.discounts == (FALLBACK_DISCOUNTS,) * 3
    assert model.next_token_probabilities(np.array([0, 1, 2])).sum() == pytest.approx(1, abs=1e-9)


def test_empty_documents_alone_still_make_a_distribution():
    model = KneserNey.fit([np.array([0, 0])], vocabulary=4, order=5)
    probabilities = model.next_token_probabilities(np.array([0, 3, 2]))
    assert probabilities.sum() == pytest.approx(1, abs=1e-9)
    assert probabilities.argmax() == 0
    assert model.negative_log_likelihood([]) == 0.0


def test_no_document_is_the_users_error():
    with pytest.raises(UserError, match="add text"):
        KneserNey.fit([], 10)


@pytest.mark.parametrize(
    "document",
    [[0], [0, 1], [1, 0], [0, 10, 0], [0, -1, 0], [[0, 0], [0, 0]], [0.0, 1.0, 0.0]],
    ids=["too short", "no end", "no start", "beyond vocabulary", "negative", "two axes", "not integers"],
)
def test_documents_that_break_the_conventions_are_refused(document):
    good = np.array([0, 1, 2, 0])
    with pytest.raises(ValueError, match=r"document must|token ids must"):
        KneserNey.fit([np.array(document)], 10)
    with pytest.raises(ValueError, match=r"document must|token ids must"):
        KneserNey.fit([good], 10).negative_log_likelihood([np.array(document)])


@pytest.mark.parametrize(("vocabulary", "order"), [(0, 5), (10, 0)])
def test_settings_below_one_are_refused(vocabulary, order):
    with pytest.raises(ValueError, match="at least 1"):
        KneserNey.fit([np.array([0, 0])], vocabulary, order)
