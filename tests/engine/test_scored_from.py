"""Log-probabilities of the end of a prompt alone: equal to those of the whole, and what stands before is remembered."""

from dataclasses import replace

import pytest
from hash_runner import HashRunner

from cadran.engine.request import Produced, Request, Scored
from cadran.engine.sampler import SamplingParams
from cadran.engine.scheduler import Scheduler

PROMPT = tuple(range(10)) * 4
WHOLE = Request(0, PROMPT, SamplingParams(max_tokens=1), top=2, prompt_logprobs=True)


def drained(scheduler: Scheduler) -> list[Produced]:
    news: list[Produced] = []
    for _ in range(200):
        news += scheduler.step()
        if scheduler.idle:
            return news
    raise AssertionError("the scheduler does not come to an end")


def scored(request: Request, budget: int = 512) -> tuple[Scored, ...]:
    scheduler = Scheduler(HashRunner(), budget=budget)
    scheduler.add(request)
    return drained(scheduler)[0].prompt


@pytest.mark.parametrize("budget", [1, 3, 7, 512])
@pytest.mark.parametrize("start", [1, 2, 33, 39, 40])
def test_the_scores_are_those_of_scoring_the_whole_prompt(start: int, budget: int) -> None:
    part, whole = scored(replace(WHOLE, scored_from=start), budget), scored(WHOLE)
    assert part[start:] == whole[start:] and len(part) == len(PROMPT)
    assert part[:start] == tuple(Scored(token) for token in PROMPT[:start])


def test_prompts_that_begin_alike_read_only_what_follows() -> None:
    runner = HashRunner()
    scheduler = Scheduler(runner)
    scheduler.add(replace(WHOLE, scored_from=36))
    drained(scheduler)
    before = runner.tokens
    other = (*PROMPT[:36], 9, 9, 9, 9)
    scheduler.add(replace(WHOLE, id=1, prompt=other, scored_from=36))
    news = drained(scheduler)
    assert runner.tokens - before == len(PROMPT) - 35 and news[0].cached == 35
    assert news[0].prompt[36:] == scored(replace(WHOLE, prompt=other))[36:]
