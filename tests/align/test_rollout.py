"""Rollouts: ids kept as drawn, log-probabilities of what they were drawn from, seeds that know nothing of company."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from tiny_policies import PARAMS, STOP, VOCABULARY, names, policy, prompts

from cadran.align.branches import Prompted, pack_for
from cadran.align.logprobs import model_logprobs
from cadran.align.prompt_loader import PromptLoader, RolloutPrompt, rendered_prompt
from cadran.align.rollout import Rollout, RolloutParams, prompt_seed, sample_rollouts
from cadran.align.rollout_engine import TorchRollouts
from cadran.errors import UserError
from cadran.model.transformer import Transformer
from cadran.tokenizer.renderer import Rendered


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only wait for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn(
    model: Transformer, asked: list[RolloutPrompt], params: RolloutParams = PARAMS, each: int = 3, step: int = 0
) -> list[Rollout]:
    return sample_rollouts(TorchRollouts(model), asked, each, params, 5, step, decode=names)


def trainer_logprobs(
    model: Transformer, asked: list[RolloutPrompt], found: list[Rollout], temperature: float
) -> torch.Tensor:
    items = [Prompted(asked[r.prompt].ids, (r.ids,)) for r in found]
    return model_logprobs(model, pack_for(model, items), temperature=temperature)[0].detach()


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_the_engines_logprobs_are_the_trainers_at_the_sampling_temperature(temperature: float) -> None:
    model, asked = policy(), prompts()
    found = drawn(model, asked, replace(PARAMS, temperature=temperature))
    engine = torch.tensor([p for r in found for p in r.engine_logprobs])
    assert (engine - trainer_logprobs(model, asked, found, temperature)).abs().max() < 1e-4
    if temperature != 1:
        assert (engine - trainer_logprobs(model, asked, found, 1.0)).abs().max() > 1e-2


def test_an_answer_that_ends_keeps_its_stop_token_and_text_does_not() -> None:
    found = drawn(policy(), prompts(), each=8)
    assert {r.ended for r in found} == {True, False}
    for rollout in found:
        assert len(rollout.ids) == len(rollout.engine_logprobs) <= PARAMS.max_tokens
        assert (rollout.ids[-1] == STOP) == rollout.ended and STOP not in rollout.ids[:-1]
        assert rollout.ended or len(rollout.ids) == PARAMS.max_tokens
        assert rollout.text == names(rollout.ids[:-1] if rollout.ended else rollout.ids)


def test_an_answer_may_be_its_stop_token_alone() -> None:
    found = drawn(policy(), prompts(), each=24)
    assert any(rollout.ids == (STOP,) and rollout.text == "" for rollout in found)


def test_a_stop_token_at_the_very_last_place_ends_the_answer() -> None:
    found = drawn(policy(), prompts(), RolloutParams(1, (STOP,)), each=24)
    assert {r.ended for r in found} == {True, False}
    assert all(len(r.ids) == 1 and r.ended == (r.ids == (STOP,)) for r in found)


def test_an_answer_depends_on_seed_step_prompt_and_number_alone() -> None:
    model, asked = policy(), prompts()
    together = drawn(model, asked)
    assert drawn(model, asked) == together
    assert [r.ids for r in drawn(model, asked[:2])] == [r.ids for r in together[:6]], "nor do other prompts"
    assert [r.ids for r in drawn(model, asked, each=1)] == [r.ids for r in together[::3]], "nor do other answers"
    assert [r.ids for r in drawn(model, asked, step=1)] != [r.ids for r in together]
    assert len({r.ids for r in together[:3]}) > 1
    assert len({prompt_seed(s, t, p) for s in range(9) for t in range(9) for p in range(9)}) == 729


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    model, asked = policy(), [RolloutPrompt((3, 1), [])]
    found = drawn(model, asked, RolloutParams(1, (STOP,)), each=2000)
    with torch.no_grad():
        expected = torch.softmax(model(torch.tensor([asked[0].ids]))[0, -1], -1)
    counts = torch.bincount(torch.tensor([r.ids[0] for r in found]), minlength=VOCABULARY)
    chi_square = float(((counts - 2000 * expected).square() / (2000 * expected)).sum())
    assert chi_square < 31.3, "the 99.9th percentile with 11 degrees of freedom"


def test_temperature_zero_takes_the_most_likely() -> None:
    model, asked = policy(), prompts(2)
    found = drawn(model, asked, replace(PARAMS, temperature=0.0), each=2)
    assert found[0].ids == found[1].ids
    with torch.no_grad():
        assert found[0].ids[0] == int(model(torch.tensor([asked[0].ids]))[0, -1].argmax())


def test_impossible_draws_are_refused() -> None:
    for wrong in ({"max_tokens": 0}, {"stop_ids": ()}, {"temperature": -1.0}, {"temperature": math.nan}):
        with pytest.raises(UserError):
            replace(PARAMS, **wrong)
    with pytest.raises(UserError, match="40"):
        drawn(policy(), [RolloutPrompt((1,) * 40, [])])
    broken = policy()
    with torch.no_grad():
        broken.lm_head.weight[0, 0] = math.nan
    with pytest.raises(UserError, match="rollouts failed"):
        drawn(broken, prompts(1))


def test_prompts_are_a_pure_function_of_their_content_the_seed_and_the_iteration() -> None:
    loader = PromptLoader(prompts(10), 4, seed=1)
    batches = [[p.source for p in loader.batch(i)] for i in range(5)]
    assert sorted(source for batch in batches for source in batch) == sorted([p.source for p in prompts(10)] * 2)
    again = PromptLoader(prompts(10), 4, seed=1)
    assert [p.source for p in again.batch(3)] == batches[3], "whatever was read before"
    assert [[p.source for p in PromptLoader(prompts(10), 4, seed=2).batch(i)] for i in range(5)] != batches
    other = [replace(p, reference={"number": -1}) for p in prompts(10)]
    assert PromptLoader(other, 4, seed=1).fingerprint != loader.fingerprint


def test_prompts_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="no prompt"):
        PromptLoader([], 4, 0)
    with pytest.raises(UserError, match="row 7 is empty"):
        PromptLoader([RolloutPrompt((), [], source="row 7")], 4, 0)
    with pytest.raises(UserError, match="prompts=8"):
        PromptLoader(prompts(), 0, 0)


class Letters:
    """Renders each role as its length and each content letter by letter."""

    def render(self, messages: Any, add_generation_prompt: bool = False) -> Rendered:
        ids = [id for m in messages for id in (len(m["role"]), *map(ord, m["content"]))]
        return Rendered([*ids, 9] if add_generation_prompt else ids, [])


def test_a_conversation_is_rendered_with_its_answer_opened() -> None:
    asked = [{"role": "user", "content": "a"}]
    renderer = cast(Any, Letters())
    found = rendered_prompt(asked, {"answer": "b"}, renderer, 3, "row 5")
    assert found == RolloutPrompt((4, 97, 9), asked, {"answer": "b"}, "row 5")
    with pytest.raises(UserError, match="row 5 has 3 tokens"):
        rendered_prompt(asked, {}, renderer, 2, "row 5")
    for wrong in ([], [*asked, {"role": "assistant", "content": "b"}]):
        with pytest.raises(UserError, match="row 5 waits for no answer"):
            rendered_prompt(wrong, {}, renderer, 9, "row 5")
