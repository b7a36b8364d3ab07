"""Chat completions, asked by the ``openai`` package itself."""

import asyncio
import json
from typing import Any, Literal

import httpx
import openai
import pytest
from live import LiveServer
from pydantic import BaseModel

MESSAGES: list[Any] = [{"role": "user", "content": "Ça va, l'été ?"}]
UNICODE = "é 😀\u2028漢 ü\x85 e\u0301 fin"


class Trip(BaseModel):
    city: Literal["Paris", "Lyon"]
    days: Literal[1, 2]
    by_train: bool | None


@pytest.fixture(scope="module")
def client(server: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def saying(*texts: str) -> dict[str, Any]:
    """Lets the model say one of these texts and nothing else."""
    return {"structured_outputs": {"choice": list(texts)}}


def ask(client: openai.OpenAI, **asked: Any) -> Any:
    return client.chat.completions.create(**{"model": "tiny", "messages": MESSAGES, "max_tokens": 20, **asked})


def streamed(client: openai.OpenAI, **asked: Any) -> tuple[str, str | None]:
    chunks = list(ask(client, stream=True, **asked))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    return text, chunks[-1].choices[0].finish_reason


def test_stream_says_what_the_plain_answer_says(client: openai.OpenAI) -> None:
    plain = ask(client, seed=3)
    chunks = list(ask(client, seed=3, stream=True, stream_options={"include_usage": True}))
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == plain.choices[0].message.content
    assert [chunk.choices[0].delta.role for chunk in chunks[:-1] if chunk.choices[0].delta.role] == ["assistant"]
    assert chunks[-2].choices[0].finish_reason == plain.choices[0].finish_reason == "length"
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert len({chunk.id for chunk in chunks}) == 1
    assert plain.system_fingerprint and plain.system_fingerprint == chunks[0].system_fingerprint
    last, whole = chunks[-1].usage, plain.usage
    assert last.completion_tokens == whole.completion_tokens == 20
    assert last.prompt_tokens == whole.prompt_tokens


def test_usage_is_what_tokenize_counts(client: openai.OpenAI, server: LiveServer) -> None:
    counted = httpx.post(f"{server.url}/tokenize", json={"model": "tiny", "messages": MESSAGES}).json()
    assert ask(client).usage.prompt_tokens == counted["count"] == len(counted["tokens"])


def test_accumulators_of_the_sdk_rebuild_every_answer(client: openai.OpenAI) -> None:
    extra = saying(UNICODE, "a calm river", "un été")
    asked: dict[str, Any] = {"n": 3, "seed": 5, "logprobs": True, "top_logprobs": 2, "extra_body": extra}
    asked["max_tokens"] = 80
    plain = ask(client, **asked)
    with client.chat.completions.stream(model="tiny", messages=MESSAGES, **asked) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    for one, other in zip(plain.choices, final.choices, strict=True):
        assert (one.message.role, one.message.content) == (other.message.role, other.message.content)
        assert one.finish_reason == other.finish_reason
        assert [t.bytes for t in one.logprobs.content] == [t.bytes for t in other.logprobs.content]
        raw = b"".join(bytes(token.bytes) for token in one.logprobs.content)
        assert raw.decode() == one.message.content and one.finish_reason == "stop"


def test_log_probabilities_are_of_the_tokens_of_the_text(client: openai.OpenAI) -> None:
    choice = ask(client, logprobs=True, top_logprobs=5, seed=1).choices[0]
    entries = choice.logprobs.content
    assert b"".join(bytes(entry.bytes) for entry in entries).decode("utf-8", "replace") == choice.message.content
    for entry in entries:
        assert len(entry.top_logprobs) == 5 and entry.logprob <= entry.top_logprobs[0].logprob <= 0
    greedy = ask(client, logprobs=True, top_logprobs=1, temperature=0).choices[0].logprobs.content
    assert all(entry.logprob == entry.top_logprobs[0].logprob for entry in greedy)


def test_a_schema_is_parsed_into_its_class(client: openai.OpenAI) -> None:
    parsed = client.chat.completions.parse(model="tiny", messages=MESSAGES, response_format=Trip)
    assert isinstance(parsed.choices[0].message.parsed, Trip)
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model="tiny", messages=MESSAGES, response_format=Trip, max_tokens=3)


@pytest.mark.parametrize("text", [UNICODE, "\u2028\u2029", "👩‍👩‍👧‍👦"])
def test_characters_survive_the_stream(client: openai.OpenAI, text: str) -> None:
    assert streamed(client, max_tokens=80, extra_body=saying(text)) == (text, "stop")
    assert ask(client, max_tokens=80, extra_body=saying(text)).choices[0].message.content == text


def test_half_a_character_becomes_a_replacement_with_true_bytes(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"max_tokens": 1, "logprobs": True, "extra_body": saying("漢")}
    choice = ask(client, **asked).choices[0]
    assert choice.message.content == "\ufffd" and choice.logprobs.content[0].bytes == [0xE6]
    assert streamed(client, **asked) == ("\ufffd", "length")


@pytest.mark.parametrize(
    ("text", "stop", "left"),
    [
        ("la rivière est calme STOP et", "STOP", "la rivière est calme "),
        ("one abcx two abcd three", ["abcy", "abcd"], "one abcx two "),
        ("calm and ST", ["STOP"], "calm and ST"),
        ("STOP it", "STOP", ""),
        ("ends ab", ["abc", "bcd"], "ends ab"),
        ("nothing 😀 here", ["😀"], "nothing "),
    ],
)
def test_stop_strings_cut_and_what_was_held_back_comes_out(
    client: openai.OpenAI, text: str, stop: str | list[str], left: str
) -> None:
    asked: dict[str, Any] = {"max_tokens": 60, "stop": stop, "extra_body": saying(text)}
    assert ask(client, **asked).choices[0].message.content == left
    assert streamed(client, **asked) == (left, "stop")


def test_equal_seeds_say_the_same_alone_and_in_company(server: LiveServer) -> None:
    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:

            async def four(seed: int) -> list[str]:
                answer = await client.chat.completions.create(
                    model="tiny", messages=MESSAGES, n=4, seed=seed, max_tokens=24, temperature=1.3
                )
                return [choice.message.content or "" for choice in answer.choices]

            alone = [await four(seed) for seed in (1, 2)]
            together = await asyncio.gather(*(four(seed) for seed in (1, 2, 3, 4, 1, 5, 6, 2)))
            assert len(set(alone[0])) == 4
            assert [together[0], together[1], together[4], together[7]] == [alone[0], alone[1], alone[0], alone[1]]

    asyncio.run(run())


@pytest.mark.usefixtures("fresh_seeds")
def test_without_a_seed_answers_differ(client: openai.OpenAI) -> None:
    said = {
        ask(client, temperature=1.5, extra_body={"ignore_eos": True, **seed}).choices[0].message.content
        for seed in ({}, {"seed": -1})
    }
    assert len(said) == 2


def test_an_asynchronous_stream_ends_with_its_reason(server: LiveServer) -> None:
    async def run() -> str:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            async with client.chat.completions.stream(
                model="tiny", messages=MESSAGES, max_tokens=60, extra_body=saying(UNICODE)
            ) as stream:
                final = await stream.get_final_completion()
            assert final.choices[0].finish_reason == "stop"
            return final.choices[0].message.content or ""

    assert asyncio.run(run()) == UNICODE


def test_tokens_can_be_forced_allowed_and_forbidden(client: openai.OpenAI, server: LiveServer) -> None:
    def ids(text: str) -> list[int]:
        found: list[int] = httpx.post(f"{server.url}/tokenize", json={"content": text}).json()["tokens"]
        return found

    (letter,) = ids("z")
    asked = {"max_tokens": 5, "temperature": 2}
    assert ask(client, **asked, logit_bias={str(letter): 100}).choices[0].message.content == "zzzzz"
    assert ask(client, **asked, extra_body={"allowed_token_ids": [letter]}).choices[0].message.content == "zzzzz"
    forbidden = ask(
        client, max_tokens=5, logit_bias={str(letter): 100, **{str(i): 90 for i in ids("q")}},
        extra_body={"bad_words": ["z"]},
    )  # fmt: skip
    assert forbidden.choices[0].message.content == "qqqqq"
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, extra_body={"bad_words": ["rivière calme"]})
    assert refused.value.param == "bad_words"


def test_the_last_message_is_continued_without_being_repeated(client: openai.OpenAI) -> None:
    begun = [*MESSAGES, {"role": "assistant", "content": "The river"}]
    extra = {"continue_final_message": True, "add_generation_prompt": False, "return_token_ids": True}
    whole = ask(client, messages=begun, temperature=0, extra_body=extra)
    opened = ask(client, temperature=0, extra_body={"return_token_ids": True})
    assert whole.prompt_token_ids[: len(opened.prompt_token_ids)] == opened.prompt_token_ids
    assert whole.usage.prompt_tokens == len(whole.prompt_token_ids) > len(opened.prompt_token_ids)
    assert len(whole.choices[0].token_ids) == whole.usage.completion_tokens


def test_a_prediction_changes_nothing_but_the_time(client: openai.OpenAI) -> None:
    plain = ask(client, temperature=0).choices[0].message.content
    guessed = ask(client, temperature=0, prediction={"type": "content", "content": plain}).choices[0].message.content
    assert guessed == plain


def test_the_prompt_is_scored_when_asked(client: openai.OpenAI) -> None:
    answer = ask(client, extra_body={"prompt_logprobs": 1, "return_token_ids": True})
    told = answer.prompt_logprobs
    assert told[0] is None and len(told) == answer.usage.prompt_tokens
    for id, entry in zip(answer.prompt_token_ids[1:], told[1:], strict=True):
        assert entry[str(id)]["logprob"] <= 0 and any(of["rank"] == 1 for of in entry.values())


def test_parts_of_text_are_put_together(client: openai.OpenAI) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "Ça va, "}, {"type": "text", "text": "l'été ?"}]}]
    assert ask(client, messages=parts, seed=1).choices == ask(client, seed=1).choices


def test_a_developer_is_the_system(client: openai.OpenAI) -> None:
    said = [
        ask(client, messages=[{"role": role, "content": "Be brief."}, *MESSAGES], seed=2).choices[0].message.content
        for role in ("system", "developer")
    ]
    assert said[0] == said[1]


def test_a_json_object_may_come_with_its_schema(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["x"]}}, "required": ["a"], "additionalProperties": False}
    said = ask(client, max_tokens=60, extra_body={"response_format": {"type": "json_object", "schema": schema}})
    assert json.loads(said.choices[0].message.content) == {"a": "x"}
