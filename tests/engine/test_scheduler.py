"""What an answer is depends on its request alone, whatever else is under way and however little memory there is."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from hash_runner import CycleGrammar, FixedCost, HashRunner
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from test_kv_cache import nodes

from cadran.engine.grammar import Grammar
from cadran.engine.request import Produced, Request, Scored
from cadran.engine.sampler import SamplingParams
from cadran.engine.scheduler import Scheduler
from cadran.engine.speculation import DraftModel, PromptLookup
from cadran.errors import UserError

STOP = 10
GREEDY = SamplingParams(temperature=0, max_tokens=8)
Outcome = dict[int, tuple[list[Scored], str | None]]


def grammar(runs: int = 3, opening: Sequence[int] = ()) -> Grammar:
    """Runs of three tokens, of which two are forced."""
    return cast(Grammar, CycleGrammar(11, STOP, runs, opening))


def drained(scheduler: Scheduler, most: int = 2000) -> list[Produced]:
    """Everything until nothing is under way."""
    news: list[Produced] = []
    for _ in range(most):
        if scheduler.idle:
            return news
        news += scheduler.step()
    raise AssertionError("the scheduler does not come to an end")


def outcome(news: list[Produced], id: int = 0) -> Outcome:
    """Tokens and end of each answer to a request."""
    answers: Outcome = {}
    for produced in news:
        if produced.request == id:
            tokens, ended = answers.get(produced.answer, ([], None))
            assert ended is None, "something came after the end"
            answers[produced.answer] = (tokens + list(produced.tokens), produced.finish)
    return dict(sorted(answers.items()))


def alone(request: Request) -> list[Produced]:
    """What comes of a request with all the memory, no guesses, and no bursts."""
    scheduler = Scheduler(HashRunner(), budget=512)
    scheduler.add(replace(request, id=0, guess=()))
    return drained(scheduler)


def tokens(news: list[Produced], id: int = 0, answer: int = 0) -> list[int]:
    """Ids of one answer."""
    return [scored.token for scored in outcome(news, id)[answer][0]]


def leak_free(scheduler: Scheduler, runner: HashRunner) -> bool:
    """Whether every block is free once the prefixes are forgotten."""
    scheduler.residents.tree.clear()
    return scheduler.residents.pool.free == runner.blocks


def test_an_answer_continues_its_prompt_with_the_likeliest_tokens() -> None:
    news = alone(Request(0, (1, 2, 3), GREEDY))
    text = [1, 2, 3]
    for token in tokens(news):
        logits = HashRunner()._logits(np.array(text))
        assert token == logits.argmax()
        text.append(token)
    assert len(text) == 11 and news[-1].finish == "length"


def test_a_stop_id_ends_the_answer_and_is_not_part_of_it() -> None:
    whole = tokens(alone(Request(0, (1, 2, 3), GREEDY)))
    stop = whole[4]
    news = alone(Request(0, (1, 2, 3), GREEDY, stop_ids=(stop,)))
    assert tokens(news) == whole[: whole.index(stop)] and news[-1].finish == "stop"


def test_max_tokens_are_cut_at_the_context() -> None:
    news = alone(Request(0, tuple(range(10)) * 6, SamplingParams(max_tokens=100)))
    assert len(tokens(news)) == 4 and news[-1].finish == "length"


@pytest.mark.parametrize("chunk", [1, 3, 7, 512])
def test_a_prompt_read_in_pieces_gives_what_reading_it_whole_gives(chunk: int) -> None:
    request = Request(0, tuple(range(10)) * 4, SamplingParams(seed=3), logprobs=True, top=3, prompt_logprobs=True)
    scheduler = Scheduler(HashRunner(), budget=chunk)
    scheduler.add(request)
    news = drained(scheduler)
    expected = alone(request)
    assert outcome(news) == outcome(expected)
    assert news[0].prompt == expected[0].prompt


def test_log_probabilities_of_the_prompt_are_those_of_its_tokens() -> None:
    prompt = (3, 1, 4, 1, 5, 9, 2, 6)
    (first, *others) = alone(Request(0, prompt, GREEDY, top=11, prompt_logprobs=True))
    assert [scored.token for scored in first.prompt] == list(prompt) and first.prompt[0].logprob is None
    for scored in first.prompt[1:]:
        assert scored.logprob == dict(scored.top)[scored.token]
        assert math.isclose(sum(math.exp(value) for _, value in scored.top), 1)
    assert all(not produced.prompt for produced in others)


def test_a_prompt_that_was_read_before_is_read_only_from_where_it_differs() -> None:
    runner = HashRunner()
    scheduler = Scheduler(runner)
    prompt = tuple(range(10)) * 3
    scheduler.add(Request(0, prompt, SamplingParams(max_tokens=1)))
    drained(scheduler)
    before = runner.tokens
    changed = (*prompt[:26], 9, 9, 9, 9)
    scheduler.add(Request(1, changed, SamplingParams(max_tokens=1)))
    news = drained(scheduler)
    assert news[0].cached == 26 and runner.tokens - before == 4
    assert outcome(news, 1) == outcome(alone(Request(0, changed, SamplingParams(max_tokens=1))))


def test_the_last_token_of_a_prompt_is_always_read_and_all_of_them_when_they_are_to_be_scored() -> None:
    scheduler = Scheduler(HashRunner())
    request = Request(0, (1, 2, 3, 4, 5, 6, 7, 8), GREEDY)
    scheduler.add(request)
    drained(scheduler)
    scheduler.add(request)
    assert drained(scheduler)[0].cached == 7
    scheduler.add(replace(request, prompt_logprobs=True))
    assert drained(scheduler)[0].cached == 0


def test_an_answer_can_be_continued_from_its_own_keys_and_values() -> None:
    scheduler = Scheduler(HashRunner())
    scheduler.add(Request(0, (1, 2, 3), GREEDY))
    answer = tokens(drained(scheduler))
    scheduler.add(Request(1, (1, 2, 3, *answer, 5), GREEDY))
    # The last token was chosen and never read.
    assert drained(scheduler)[0].cached == 3 + len(answer) - 1


def test_several_answers_read_their_prompt_once_and_are_each_as_if_asked_for_alone() -> None:
    runner = HashRunner()
    scheduler = Scheduler(runner)
    prompt = tuple(range(10))
    request = Request(0, prompt, SamplingParams(seed=5, max_tokens=6), answers=3)
    scheduler.add(request)
    news = drained(scheduler)
    assert runner.tokens == 10 + 3 * 5
    for answer in range(3):
        one = alone(Request(0, prompt, SamplingParams(seed=5 + answer, max_tokens=6)))
        assert tokens(news, 0, answer) == tokens(one)
    assert leak_free(scheduler, runner)


def test_greedy_answers_are_equal() -> None:
    news = alone(Request(0, (1, 2, 3), GREEDY, answers=3))
    assert tokens(news, 0, 0) == tokens(news, 0, 1) == tokens(news, 0, 2)


def test_a_request_that_can_never_fit_is_refused_with_both_numbers() -> None:
    scheduler = Scheduler(HashRunner(blocks=5, block_size=4, context=64))
    with pytest.raises(UserError, match="64 tokens and this model reads 64"):
        scheduler.add(Request(0, (1,) * 64))
    with pytest.raises(UserError, match="need 6 blocks of 4 tokens and there are 5"):
        scheduler.add(Request(0, (1,) * 10, SamplingParams(max_tokens=12)))
    scheduler.add(Request(0, (1,) * 10, SamplingParams(max_tokens=11)))
    assert len(tokens(drained(scheduler))) == 11


def test_bad_requests_are_refused_and_change_nothing() -> None:
    scheduler = Scheduler(HashRunner())
    for bad in (Request(0, ()), Request(0, (11,)), Request(0, (-1,)), Request(0, (1,), answers=0)):
        with pytest.raises(UserError):
            scheduler.add(bad)
    scheduler.add(Request(0, (1,)))
    with pytest.raises(ValueError, match="under way"):
        scheduler.add(Request(0, (2,)))
    scheduler.cancel(0)
    drained(scheduler)
    assert scheduler.idle
    with pytest.raises(UserError, match="budget"):
        Scheduler(HashRunner(), budget=0)


def test_cancelling_frees_the_blocks_at_once_and_is_said_once() -> None:
    runner = HashRunner()
    scheduler = Scheduler(runner, budget=4)
    scheduler.add(Request(0, (1,) * 20, SamplingParams(max_tokens=30), answers=2))
    scheduler.add(Request(1, (2,) * 20))
    for _ in range(8):
        scheduler.step()
    for id in (0, 1, 1, 7):
        scheduler.cancel(id)
    assert scheduler.free_blocks == runner.blocks and not scheduler.idle
    news = scheduler.step()
    assert [(p.request, p.answer, p.finish) for p in news] == [
        (0, 0, "cancelled"),
        (0, 1, "cancelled"),
        (1, 0, "cancelled"),
    ]
    assert scheduler.idle and leak_free(scheduler, runner)


def test_an_answer_that_is_finished_from_outside_is_silent_and_the_others_go_on() -> None:
    scheduler = Scheduler(HashRunner())
    request = Request(0, (1, 2, 3), SamplingParams(max_tokens=9), answers=2)
    scheduler.add(request)
    news = scheduler.step()
    scheduler.finish(0, 0)
    scheduler.finish(0, 0)
    later = drained(scheduler)
    assert {produced.answer for produced in later} == {1}
    assert outcome(news + later)[1] == outcome(alone(request))[1]


@pytest.mark.parametrize("finished", [(0,), (1,), (0, 1)])
def test_an_answer_may_be_finished_before_its_prompt_was_read(finished: tuple[int, ...]) -> None:
    runner = HashRunner()
    scheduler = Scheduler(runner, budget=4)
    request = Request(0, (1,) * 20, GREEDY, answers=2)
    scheduler.add(request)
    scheduler.step()
    for answer in finished:
        scheduler.finish(0, answer)
    expected = outcome(alone(request))
    assert outcome(drained(scheduler)) == {answer: expected[answer] for answer in {0, 1} - set(finished)}
    assert scheduler.idle and leak_free(scheduler, runner)


def test_answers_get_their_tokens_together_with_pieces_of_a_prompt() -> None:
    scheduler = Scheduler(HashRunner(), budget=8)
    scheduler.add(Request(0, (1, 2, 3), SamplingParams(max_tokens=30)))
    scheduler.step()
    scheduler.add(Request(1, (5,) * 40, GREEDY))
    for _ in range(5):
        assert [produced.request for produced in scheduler.step()] == [0]
    assert {produced.request for produced in scheduler.step()} == {0, 1}


def test_requests_start_in_order_of_arrival_even_when_a_later_one_would_fit() -> None:
    scheduler = Scheduler(HashRunner(blocks=12), budget=64)
    scheduler.add(Request(0, (1,) * 20, SamplingParams(max_tokens=10)))
    scheduler.step()
    scheduler.add(Request(1, (2,) * 40, SamplingParams(max_tokens=1)))
    scheduler.add(Request(2, (3,) * 2, SamplingParams(max_tokens=1)))
    ended = [produced.request for produced in drained(scheduler) if produced.finish]
    assert ended == [0, 1, 2]


def test_the_youngest_is_put_back_when_the_blocks_run_out_and_nothing_is_seen_of_it() -> None:
    runner = HashRunner(blocks=12)
    scheduler = Scheduler(runner)
    requests = [Request(id, (id, 2, 3), SamplingParams(seed=id, max_tokens=30)) for id in range(4)]
    for request in requests:
        scheduler.add(request)
    news = drained(scheduler)
    assert scheduler.residents.put_backs > 0
    assert next(produced.request for produced in news if produced.finish) == 0
    for request in requests:
        assert outcome(news, request.id) == outcome(alone(request))
    assert leak_free(scheduler, runner)


@pytest.mark.parametrize("budget", [2, 3])
@pytest.mark.parametrize("blocks", [6, 7, 8, 9])
def test_an_answer_put_back_after_it_was_planned_is_not_read(budget: int, blocks: int) -> None:
    # With fewer tokens than answers, a young one may be planned before the older one that takes its blocks.
    runner = HashRunner(blocks=blocks)
    scheduler = Scheduler(runner, budget=budget)
    requests = [Request(id, (id, 2, 3), SamplingParams(seed=id, max_tokens=18)) for id in range(4)]
    for request in requests:
        scheduler.add(request)
    news = drained(scheduler)
    for request in requests:
        assert outcome(news, request.id) == outcome(alone(request))


def test_the_oldest_answer_never_loses_its_blocks() -> None:
    scheduler = Scheduler(HashRunner(blocks=12))
    for id in range(4):
        scheduler.add(Request(id, (id, 2, 3), SamplingParams(seed=id, max_tokens=30)))
    residents = scheduler.residents
    while not scheduler.idle:
        scheduler.step()
        started = [answer.order for answer in residents.running + residents.reading]
        assert all(order < answer.order for order in started for answer in residents.waiting)
    assert residents.put_backs > 0


def test_several_answers_that_do_not_fit_together_are_given_one_after_the_other() -> None:
    runner = HashRunner(blocks=6)
    scheduler = Scheduler(runner)
    request = Request(0, (1, 2, 3, 4, 5), SamplingParams(max_tokens=20), answers=4)
    scheduler.add(request)
    assert outcome(drained(scheduler)) == outcome(alone(request))
    assert leak_free(scheduler, runner)


def test_logits_that_are_not_numbers_end_that_answer_and_leave_nothing_behind() -> None:
    runner = HashRunner(broken=(7,))
    scheduler = Scheduler(runner)
    scheduler.add(Request(0, (1, 2, 7), GREEDY, answers=2))
    scheduler.add(Request(1, (1, 2, 3), GREEDY))
    scheduler.add(Request(2, (1, 7, 3), GREEDY, prompt_logprobs=True))
    scheduler.add(Request(3, (1, 2, 3), GREEDY, grammar=grammar(opening=(7,))))
    news = drained(scheduler)
    for id in (0, 2):
        errors = [produced for produced in news if produced.request == id]
        assert {produced.finish for produced in errors} == {"error"} and all(produced.message for produced in errors)
    assert [produced.finish for produced in news if produced.request == 3][-1] == "error"
    clean = outcome(alone(Request(0, (1, 2, 3), GREEDY)))[0][0]
    ours = outcome(news, 1)[0]
    assert ours[0] == clean or (ours[1] == "error" and 7 in [scored.token for scored in ours[0]])
    assert leak_free(scheduler, runner)


def test_a_decoding_answer_whose_logits_become_nan_ends_with_an_error() -> None:
    whole = tokens(alone(Request(0, (1, 2, 3), GREEDY)))
    scheduler = Scheduler(HashRunner(broken=(whole[3],)))
    scheduler.add(Request(0, (1, 2, 3), GREEDY))
    news = drained(scheduler)
    assert tokens(news) == whole[: whole.index(whole[3]) + 1] and news[-1].finish == "error" and news[-1].message


def test_forced_tokens_take_no_pass_of_their_own() -> None:
    runner = HashRunner()
    scheduler = Scheduler(runner)
    request = Request(0, (1, 2, 3), SamplingParams(max_tokens=20), (STOP,), grammar=grammar(4, opening=(4, 4)))
    scheduler.add(request)
    news = drained(scheduler)
    answer = tokens(news)
    assert answer[:2] == [4, 4] and (len(answer) - 2) % 3 == 0 and news[-1].finish == "stop"
    assert all((answer[i + 1] - answer[i]) % STOP == 1 for i in range(2, len(answer)) if i % 3 != 1)
    assert runner.passes <= (len(answer) - 2) // 3 + 1


def test_forced_tokens_have_the_log_probabilities_that_choosing_would_have_given_them() -> None:
    params = SamplingParams(temperature=0, max_tokens=12)
    request = Request(0, (1, 2, 3), params, (STOP,), grammar=grammar(4, (4, 4)), logprobs=True, top=2)
    (answer, _) = outcome(alone(request))[0]
    plain = [scored.token for scored in outcome(alone(replace(request, logprobs=False, top=0)))[0][0]]
    assert [scored.token for scored in answer] == plain
    text = [1, 2, 3]
    for scored in answer:
        (probe,) = [
            produced.prompt[-1]
            for produced in alone(Request(0, (*text, scored.token), GREEDY, top=2, prompt_logprobs=True))
            if produced.prompt
        ]
        assert probe == scored
        text.append(scored.token)


def test_an_answer_that_is_forced_as_a_whole_ends_where_it_should() -> None:
    for limit, finish in ((6, "stop"), (3, "length")):
        request = Request(0, (1,), SamplingParams(max_tokens=limit), grammar=grammar(1, opening=(4, 5, 6)), answers=2)
        answers = outcome(alone(request))
        for scored, ended in answers.values():
            assert [one.token for one in scored][:3] == [4, 5, 6] and ended == finish


class Oracle:
    """Guesses rightly, as far as it is told to."""

    def __init__(self, text: list[int], right: int) -> None:
        self.text, self.right, self.closed = text, right, False

    def propose(self, ids: Sequence[int], most: int) -> list[int]:
        drafts = self.text[len(ids) :][:most]
        return [token if place < self.right else (token + 1) % 11 for place, token in enumerate(drafts)]

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("right", [0, 1, 3, 100])
def test_guesses_change_the_number_of_passes_and_nothing_else(temperature: float, right: int) -> None:
    request = Request(0, (1, 2, 3), SamplingParams(temperature=temperature, seed=9, max_tokens=40), logprobs=True)
    expected = outcome(alone(request))
    oracle = Oracle([1, 2, 3, *(scored.token for scored in expected[0][0])], right)
    runner = HashRunner()
    scheduler = Scheduler(runner, drafter=lambda request: oracle, cost=FixedCost({1: 1.0, 17: 1.001}))
    scheduler.add(request)
    assert outcome(drained(scheduler)) == expected
    assert oracle.closed and scheduler.counters.drafted > 0
    assert (scheduler.counters.accepted > 0) == (right > 0)
    if right == 100:
        assert runner.passes < 15
    assert leak_free(scheduler, runner)


def test_a_guess_in_the_request_is_used_without_a_drafter() -> None:
    request = Request(0, (1, 2, 3), SamplingParams(max_tokens=40), logprobs=True)
    expected = outcome(alone(request))
    scheduler = Scheduler(HashRunner(), cost=FixedCost({1: 1.0, 17: 1.001}))
    scheduler.add(replace(request, guess=tuple(scored.token for scored in expected[0][0])))
    assert outcome(drained(scheduler)) == expected
    assert scheduler.counters.accepted > 20


def test_decoding_alone_comes_back_rarely_and_ends_at_the_same_place() -> None:
    runner = HashRunner()
    scheduler = Scheduler(runner, burst_seconds=0.01, cost=FixedCost({1: 0.001}))
    request = Request(0, (1, 2, 3), SamplingParams(max_tokens=35))
    scheduler.add(request)
    steps, news = 0, []
    while not scheduler.idle:
        news += scheduler.step()
        steps += 1
    assert outcome(news) == outcome(alone(request)) and steps == 5


def test_blocks_can_be_borrowed_and_whoever_waits_for_many_gets_them() -> None:
    runner = HashRunner(blocks=10)
    scheduler = Scheduler(runner)
    scheduler.add(Request(0, (1,) * 12, SamplingParams(max_tokens=20)))
    scheduler.step()
    with pytest.raises(UserError, match="11 blocks of 4 tokens are needed and there are 10"):
        scheduler.borrow(11)
    assert scheduler.borrow(8) is None
    scheduler.add(Request(1, (2,), SamplingParams(max_tokens=5)))
    lent, steps = None, 0
    while lent is None:
        scheduler.step()
        lent, steps = scheduler.borrow(8), steps + 1
        assert steps < 100
    assert len(set(lent)) == 8
    scheduler.give_back(lent)
    drained(scheduler)
    assert leak_free(scheduler, runner)


PROMPTS = ([1, 2, 3, 4, 5, 6, 7, 8, 9] * 3, [1, 2, 3, 4, 9, 9, 9, 9] * 3, [0, 1] * 12)


class Traffic(RuleBasedStateMachine):
    """Random arrivals, cancellations and ends, with little memory, against each request alone."""

    @initialize(
        blocks=st.integers(7, 16),
        size=st.integers(2, 5),
        budget=st.sampled_from([1, 2, 3, 5, 8, 20, 512]),
        guesses=st.sampled_from(["none", "lookup", "model", "model"]),
        burst=st.booleans(),
    )
    def begin(self, blocks: int, size: int, budget: int, guesses: str, burst: bool) -> None:
        context = min(64, blocks * size)
        self.runner = HashRunner(blocks=blocks, block_size=size, context=context)
        self.draft = DraftModel(HashRunner(blocks=8, block_size=3, context=30, salt=1))
        drafter = {"none": None, "lookup": PromptLookup.of, "model": self.draft.start}[guesses]
        cost = FixedCost({1: 0.002, 80: 0.0021} if guesses != "none" or burst else None)
        self.scheduler = Scheduler(self.runner, budget=budget, drafter=cast(Any, drafter), cost=cost)
        self.context = context
        self.requests: dict[int, Request] = {}
        self.news: list[Produced] = []
        self.ended_early: set[tuple[int, int]] = set()
        self.next = 0

    @rule(
        prompt=st.sampled_from(PROMPTS),
        length=st.integers(1, 24),
        tail=st.lists(st.integers(0, 9), max_size=3),
        most=st.integers(1, 14),
        temperature=st.sampled_from([0.0, 0.0, 1.0]),
        answers=st.sampled_from([1, 1, 1, 2, 3]),
        extras=st.sampled_from(
            ["", "", "", "logprobs", "prompt", "grammar", "grammar logprobs", "opening prompt", "guess"]
        ),
    )
    def arrive(
        self, prompt: list[int], length: int, tail: list[int], most: int, temperature: float, answers: int, extras: str
    ) -> None:
        matched = grammar(2, (4, 4) if "opening" in extras else ()) if "gra" in extras or "open" in extras else None
        request = Request(
            self.next,
            (*prompt[:length], *tail),
            SamplingParams(temperature=temperature, seed=self.next, max_tokens=most),
            (STOP,),
            answers,
            matched,
            top=2 if "logprobs" in extras else 0,
            logprobs="logprobs" in extras,
            prompt_logprobs="prompt" in extras,
            guess=(1, 2, 3, 4, 5, 6) if extras == "guess" else (),
        )
        self.next += 1
        try:
            self.scheduler.add(request)
        except UserError:
            needed = min(len(request.prompt) + most, self.context) - 1
            assert len(request.prompt) + 1 > self.context or needed > self.runner.blocks * self.runner.block_size
        else:
            self.requests[request.id] = request

    @rule(steps=st.integers(1, 12))
    def work(self, steps: int) -> None:
        for _ in range(steps):
            self.news += self.scheduler.step()
            self.counted()

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.requests)))
        self.scheduler.cancel(id)
        self.ended_early |= {(id, answer) for answer in range(self.requests[id].answers)}

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), answer=st.integers(0, 2))
    def finish(self, data: st.DataObject, answer: int) -> None:
        id = data.draw(st.sampled_from(sorted(self.requests)))
        if answer < self.requests[id].answers:
            self.scheduler.finish(id, answer)
            self.ended_early.add((id, answer))

    @invariant()
    def counted(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        residents = self.scheduler.residents
        held = nodes(residents.tree)
        users = Counter(node.block for node in held)
        assert max(users.values(), default=1) == 1
        assert residents.tree.nodes == len(held)
        for answer in [*residents.reading, *residents.running]:
            assert len(set(answer.blocks)) == len(answer.blocks)
            assert residents.tables._rows[answer.row, : len(answer.blocks)].tolist() == answer.blocks
            assert not residents.tables._rows[answer.row, len(answer.blocks) :].any()
            assert answer.kept <= len(answer.blocks) * self.runner.block_size
            users.update(answer.blocks)
        assert residents.pool.users == [users[block] for block in range(self.runner.blocks)]
        assert residents.pool.free == residents.pool.users.count(0)
        cached = {node.block for node in held}
        assert residents.pool.idle == sum(users[block] == 1 for block in cached)
        assert all(not answer.blocks for answer in residents.waiting)
        for queue in (residents.waiting, residents.reading, residents.running):
            assert queue == sorted(queue, key=lambda answer: answer.order)
        if not self.scheduler._tasks:
            assert residents.pool.available == self.runner.blocks

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        # Each token that is left may cost the reading of its whole sequence, token by token, not more.
        left = sum(request.answers * request.params.max_tokens for request in self.requests.values())
        self.news += drained(self.scheduler, 200 + 64 * left)
        for id, request in self.requests.items():
            ours, expected = outcome(self.news, id), outcome(alone_within(request, self.context))
            for answer, (scored, ended) in expected.items():
                got, end = ours.get(answer, ([], None))
                if (id, answer) in self.ended_early:
                    assert got == scored[: len(got)] and end in (None, "cancelled", ended)
                else:
                    assert (got, end) == (scored, ended)
            prompts = [produced.prompt for produced in self.news if produced.request == id and produced.prompt]
            if request.prompt_logprobs and not any((id, answer) in self.ended_early for answer in range(3)):
                assert prompts == [alone_within(request, self.context)[0].prompt]
            else:
                assert len(prompts) <= request.prompt_logprobs
        assert leak_free(self.scheduler, self.runner)
        assert self.draft.pool.free == 8


def alone_within(request: Request, context: int) -> list[Produced]:
    """As ``alone``, in a model with this context."""
    scheduler = Scheduler(HashRunner(context=context))
    scheduler.add(replace(request, guess=()))
    return drained(scheduler)


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=60, stateful_step_count=25, deadline=None, derandomize=True)
