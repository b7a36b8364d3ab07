"""Per-key limits."""

from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from live import LiveServer

from cadran.serve import watch
from cadran.serve.api_error import ApiError
from cadran.serve.rate_limit import Bucket, RateLimits
from cadran.serve.state.api_key import KnownKey, add_key

ASKED: Any = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 6}


@given(limit=st.integers(1, 50), gaps=st.lists(st.floats(0, 30), max_size=200))
def test_no_window_admits_more_than_the_limit_and_what_flowed_in(limit: int, gaps: list[float]) -> None:
    now = [0.0]
    bucket, taken = Bucket(limit, lambda: now[0]), []
    for at in accumulate(gaps):
        now[0] = at
        if bucket.wait() == 0:
            bucket.take(1)
            taken.append(at)
    for first, begin in enumerate(taken):
        for last, end in enumerate(taken[first:], start=first):
            assert last - first + 1 <= limit + (end - begin) * limit / 60 + 1e-6


@given(limit=st.integers(1, 1000), spent=st.integers(0, 5000))
def test_the_wait_that_is_told_is_enough_and_not_too_long(limit: int, spent: int) -> None:
    now = [0.0]
    bucket = Bucket(limit, lambda: now[0])
    bucket.take(spent)
    wait = bucket.wait()
    now[0] = wait * 0.999 - 1e-6
    assert wait == 0 or bucket.wait() > 0
    now[0] = wait + 1e-6
    assert bucket.wait() < 1e-3


def test_a_key_s_own_limit_goes_before_the_settings() -> None:
    limits = RateLimits(1, None, lambda: 0.0)
    own, other = KnownKey("own", "1", 0.0, requests_per_minute=3), KnownKey("other", "2", 0.0)
    for _ in range(3):
        limits.admit(own)
    limits.admit(other)
    for key in (own, other):
        with pytest.raises(ApiError, match=key.name) as refused:
            limits.admit(key)
        assert refused.value.kind == "limited" and refused.value.retry_after
    assert limits.refused == 2


def test_tokens_count_when_an_answer_is_over_and_debts_are_paid() -> None:
    now = [0.0]
    limits, key = RateLimits(None, 60, lambda: now[0]), KnownKey("anna", "1", 0.0)
    limits.admit(key)
    limits.spend(key, 120)  # one answer may exceed: nobody knew how long it would be
    with pytest.raises(ApiError, match="60 generated tokens a minute"):
        limits.admit(key)
    now[0] = 60.5
    with pytest.raises(ApiError):
        limits.admit(key)
    now[0] = 61.5
    limits.admit(key)


def test_limits_over_http_in_each_family_s_words(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # No time passes, or what flows in would admit one more on a slow machine.
    monkeypatch.setattr(watch, "RateLimits", partial(RateLimits, clock=lambda: 0.0))
    live = LiveServer(models=[str(tiny)], requests_per_minute=2)
    try:
        with live.service.database.session() as session:
            slow, wordy = (
                add_key(session, "slow"),
                add_key(session, "wordy", requests_per_minute=9, tokens_per_minute=7),
            )
        client = openai.OpenAI(base_url=f"{live.url}/v1", api_key=slow, max_retries=0)
        client.chat.completions.create(**ASKED)
        client.chat.completions.create(**ASKED)
        with pytest.raises(openai.RateLimitError) as refused:
            client.chat.completions.create(**ASKED)
        assert int(refused.value.response.headers["retry-after"]) == 31
        with pytest.raises(anthropic.RateLimitError):
            anthropic.Anthropic(base_url=live.url, api_key=slow, max_retries=0).messages.create(**ASKED)
        assert httpx.get(f"{live.url}/v1/load", headers={"x-api-key": slow}).status_code == 200, "looking is free"
        other = openai.OpenAI(base_url=f"{live.url}/v1", api_key=wordy, max_retries=0)
        for _ in range(2):
            list(other.chat.completions.create(**ASKED, stream=True))
        live.settle()
        with pytest.raises(openai.RateLimitError, match="generated tokens"):
            other.chat.completions.create(**ASKED)
    finally:
        live.close()
