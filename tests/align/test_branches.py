"""Answers behind a shared prompt have the numbers of answers that stand alone."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy import noisy_model
from torch import Tensor

from cadran.align.branches import NOBODY, Prompted, answer_states, hidden_of, pack_answers, per_answer
from cadran.align.logprobs import model_logprobs, token_logprobs
from cadran.model.transformer import Transformer

ids = st.lists(st.integers(1, 39), min_size=1, max_size=8).map(tuple)
items = st.lists(st.builds(Prompted, ids, st.lists(ids, min_size=0, max_size=4).map(tuple)), min_size=1, max_size=4)
some = items.filter(lambda given: any(item.answers for item in given))
MODEL = noisy_model(dtype=torch.float64)


def alone(model: Transformer, item: Prompted, answer: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Log-probabilities of one answer's tokens by the whole matrix of logits, and the state of its last token."""
    row = torch.tensor([[*item.prompt, *answer]])
    logprobs = torch.log_softmax(model(row), -1)[0]
    places = range(len(item.prompt) - 1, row.shape[1] - 1)
    states = model.hidden_states(row, torch.full((row.shape[1],) * 2, -torch.inf, dtype=torch.float64).triu(1))
    return logprobs[list(places), list(answer)], states[0, -1]


@settings(max_examples=60, deadline=None)
@given(given=some, widest=st.integers(0, 40), share=st.booleans(), beginning=st.just(()) | ids)
def test_packed_answers_have_the_log_probabilities_of_answers_alone(
    given: list[Prompted], widest: int, share: bool, beginning: tuple[int, ...]
) -> None:
    given = [replace(item, prompt=beginning + item.prompt) for item in given]
    batch = pack_answers(given, 32, 0, share=share, widest=widest)
    found, _ = model_logprobs(MODEL, batch)
    ends = hidden_of(MODEL, batch)[batch.ends]
    number = 0
    for item in given:
        for answer in item.answers:
            expected, last = alone(MODEL, item, answer)
            assert torch.allclose(found[batch.answer == number], expected, atol=1e-9)
            assert torch.allclose(ends[number], last, atol=1e-9)
            assert batch.targets[batch.answer == number].tolist() == list(answer)
            number += 1
    assert batch.answers == number == len(batch.prompts)
    assert batch.lengths.tolist() == [len(answer) for item in given for answer in item.answers]
    assert batch.tokens == int((batch.documents != NOBODY).sum())


def test_an_answer_has_no_gradient_to_the_tokens_of_another() -> None:
    model = noisy_model(dtype=torch.float64, tied=False)
    batch = pack_answers([Prompted((1, 2), ((3, 4), (5, 6, 7))), Prompted((8,), ((9, 10),))], 32, 0)
    for answer, mine in enumerate(({1, 2, 3, 4}, {1, 2, 5, 6, 7}, {8, 9, 10})):
        model.zero_grad()
        logprobs, _ = model_logprobs(model, batch)
        per_answer(logprobs, batch)[answer].backward()
        gradient = model.model.embed_tokens.weight.grad
        assert gradient is not None
        # The last token predicts nothing, hence has no part.
        assert set(gradient.abs().sum(-1).nonzero()[:, 0].tolist()) == mine - {max(mine)}


def test_a_shared_prompt_is_read_once() -> None:
    item = Prompted(tuple(range(1, 11)), ((11, 12), (13, 14, 15), (16,)))
    assert pack_answers([item], 32, 0).tokens == 10 + 6
    assert pack_answers([item], 32, 0, share=False).tokens == 3 * 10 + 6
    assert pack_answers([item], 32, 0, widest=15).tokens == 2 * 10 + 6


def test_what_all_prompts_begin_with_is_read_once_a_row() -> None:
    given = [Prompted((1, 2, 3, *own), ((9, 8), (7,))) for own in ((4,), (5, 6), (6,))]
    batch = pack_answers(given, 32, 0)
    assert batch.ids.shape[0] == 1 and batch.tokens == 3 + 4 + 3 * 3
    assert pack_answers(given[:1], 32, 0).tokens == 4 + 3
    assert pack_answers(given, 32, 0, share=False).tokens == 2 * (3 * 3 + 4) + 3 * 3
    assert pack_answers([Prompted((1, 2), ((3,),)), Prompted((1, 2), ((4,),))], 32, 0).tokens == 1 + 2 * 2


def test_rows_are_as_long_as_wastes_least() -> None:
    given = [Prompted((number + 1,), ((9,) * length,)) for number, length in enumerate((30, 20, 19, 18, 17))]
    batch = pack_answers(given, 64, 0)
    assert batch.tokens / batch.ids.numel() > 0.9
    assert pack_answers(given[:1], 64, 0).ids.shape == (1, 31)


def test_unsupervised_tokens_are_read_but_not_summed() -> None:
    item = Prompted((1, 2), ((3, 4, 5),), ((True, False, True),))
    batch = pack_answers([item], 32, 0)
    assert per_answer(torch.tensor([1.0, 10.0, 100.0]), batch).tolist() == [101.0]


def test_learnt_positions_follow_the_conversation_and_not_the_row() -> None:
    model = noisy_model(dtype=torch.float64, rope=None)
    item = Prompted((1, 2), ((3, 4), (5, 6, 7)))
    batch = pack_answers([item], 32, 0)
    found, _ = model_logprobs(model, batch)
    for number, answer in enumerate(item.answers):
        assert torch.allclose(found[batch.answer == number], alone(model, item, answer)[0], atol=1e-9)


def test_a_window_counts_along_the_row_and_needs_answers_apart() -> None:
    model = noisy_model(dtype=torch.float64, window=3, windowed=(True, False))
    item = Prompted((1, 2, 3), ((4, 5), (6, 7, 8)))
    with pytest.raises(ValueError, match="share=False"):
        answer_states(model, pack_answers([item], 32, 0))
    batch = pack_answers([item], 32, 0, share=False)
    found, _ = model_logprobs(model, batch)
    for number, answer in enumerate(item.answers):
        assert torch.allclose(found[batch.answer == number], alone(model, item, answer)[0], atol=1e-9)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ([Prompted((), ((1,),))], "empty"),
        ([Prompted((1,), ((),))], "empty"),
        ([Prompted((1,) * 30, ((1,) * 3,))], "33 tokens and the context is 32"),
        ([Prompted((1,), ())], "no answer"),
        ([Prompted((1,), ((2, 3),), ((True,),))], "another length"),
    ],
)
def test_what_cannot_be_laid_out_is_refused(given: list[Prompted], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        pack_answers(given, 32, 0)


@pytest.mark.parametrize("cap", [None, 2.0])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probabilities_and_their_gradients_are_those_of_log_softmax(temperature: float, cap: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    head = torch.randn(7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 6, 3, 3, 1])

    def ours(states: Tensor, head: Tensor) -> Tensor:
        return token_logprobs(states, head, targets, temperature=temperature, cap=cap)[0]

    assert torch.autograd.gradcheck(ours, (states, head))
    assert torch.autograd.gradcheck(lambda states: ours(states, head.detach()), (states,))
    logits = states @ head.t()
    logits = (logits if cap is None else cap * torch.tanh(logits / cap)) / temperature
    plain = torch.log_softmax(logits, -1)
    found, entropies = token_logprobs(states, head, targets, temperature=temperature, cap=cap)
    assert torch.allclose(found, plain.gather(-1, targets[:, None])[:, 0], atol=1e-12)
    assert torch.allclose(entropies, -(plain.exp() * plain).sum(-1), atol=1e-12)
    assert not entropies.requires_grad


def test_an_impossible_token_leaves_the_entropy_finite() -> None:
    states = torch.tensor([[1.0, -1e30]])
    _, entropies = token_logprobs(states, torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.0]]), torch.tensor([0]))
    assert torch.isfinite(entropies).all()
