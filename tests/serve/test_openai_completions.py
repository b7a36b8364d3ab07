"""Plain completions, asked by the ``openai`` package itself."""

from typing import Any

import httpx
import openai
import pytest
from live import LiveServer

PROMPT = "L'été, la rivière est calme"


@pytest.fixture(scope="module")
def client(server: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def ask(client: openai.OpenAI, prompt: Any = PROMPT, **asked: Any) -> Any:
    return client.completions.create(**{"model": "tiny", "prompt": prompt, **asked})


def tokens(server: LiveServer, text: str, **asked: Any) -> list[int]:
    found: list[int] = httpx.post(f"{server.url}/tokenize", json={"content": text, **asked}).json()["tokens"]
    return found


def saying(text: str) -> dict[str, Any]:
    return {"structured_outputs": {"choice": [text]}}


def rebuilt(chunks: list[Any], index: int = 0) -> tuple[str, list[str], dict[str, list[Any]]]:
    """Text, reasons and log-probabilities of one of the answers of a stream."""
    text, reasons, scored = "", [], {"tokens": [], "token_logprobs": [], "text_offset": []}
    for chunk in chunks:
        for choice in chunk.choices:
            if choice.index == index:
                text += choice.text
                reasons += [choice.finish_reason] if choice.finish_reason else []
                for name, values in scored.items():
                    values += getattr(choice.logprobs, name) if choice.logprobs else []
    return text, reasons, scored


def test_sixteen_tokens_are_the_default(client: openai.OpenAI) -> None:
    answer = ask(client, extra_body={"ignore_eos": True})
    assert answer.usage.completion_tokens == 16 and answer.choices[0].finish_reason == "length"
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-")


def test_stream_says_what_the_plain_answer_says(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"seed": 3, "max_tokens": 20, "logprobs": 3, "echo": True, "n": 2}
    plain = ask(client, **asked)
    chunks = list(ask(client, **asked, stream=True, stream_options={"include_usage": True}))
    for choice in plain.choices:
        text, reasons, scored = rebuilt(chunks, choice.index)
        assert (text, reasons) == (choice.text, [choice.finish_reason])
        assert scored["tokens"] == choice.logprobs.tokens and scored["text_offset"] == choice.logprobs.text_offset
        assert scored["token_logprobs"] == choice.logprobs.token_logprobs
    assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens == 40
    assert chunks[-1].usage.prompt_tokens == plain.usage.prompt_tokens


def test_prompts_in_a_list_are_answered_in_order(client: openai.OpenAI) -> None:
    texts = ["In summer", "def add(a, b):", "😀"]
    alone = [[choice.text for choice in ask(client, text, n=2, seed=4).choices] for text in texts]
    answer = ask(client, texts, n=2, seed=4)
    assert [choice.index for choice in answer.choices] == list(range(6))
    assert [choice.text for choice in answer.choices] == [text for pair in alone for text in pair]
    chunks = list(ask(client, texts, n=2, seed=4, stream=True))
    assert [rebuilt(chunks, index)[0] for index in range(6)] == [choice.text for choice in answer.choices]


@pytest.mark.usefixtures("fresh_seeds")
def test_equal_prompts_without_a_seed_are_answered_differently(client: openai.OpenAI) -> None:
    answers = ask(client, [PROMPT] * 4, temperature=1.5, extra_body={"ignore_eos": True}).choices
    assert len({choice.text for choice in answers}) == 4


def test_ids_are_read_as_they_are(client: openai.OpenAI, server: LiveServer) -> None:
    ids = tokens(server, PROMPT, add_special=True)
    one = ask(client, ids, temperature=0)
    assert one.usage.prompt_tokens == len(ids)
    assert one.choices[0].text == ask(client, temperature=0).choices[0].text
    many = ask(client, [ids, ids[:3]], temperature=0, extra_body={"return_token_ids": True})
    assert [choice.prompt_token_ids for choice in many.choices] == [ids, ids[:3]]


def test_the_beginning_of_a_text_is_there_once(client: openai.OpenAI, server: LiveServer) -> None:
    ids = tokens(server, PROMPT, add_special=True)
    for prompt in (PROMPT, f"<|endoftext|>{PROMPT}"):
        assert ask(client, prompt, extra_body={"return_token_ids": True}).choices[0].prompt_token_ids == ids
    bare = ask(client, extra_body={"return_token_ids": True, "add_special_tokens": False})
    assert bare.choices[0].prompt_token_ids == ids[1:]


def test_special_tokens_in_the_text_are_special(client: openai.OpenAI, server: LiveServer) -> None:
    written = "<|fim_prefix|>def <|fim_suffix|>:<|fim_middle|>"
    ids = ask(client, written, extra_body={"return_token_ids": True}).choices[0].prompt_token_ids
    assert ids == tokens(server, written, add_special=True)
    assert len(ids) < len(tokens(server, written, parse_special=False))


def test_a_suffix_makes_a_gap_to_be_filled(client: openai.OpenAI, server: LiveServer) -> None:
    answer = ask(client, "def ", suffix="):\n", extra_body={"return_token_ids": True})
    ids = answer.choices[0].prompt_token_ids
    marks = [tokens(server, f"<|fim_{name}|>")[0] for name in ("prefix", "suffix", "middle")]
    assert [id for id in ids if id in marks] == marks and ids[-1] == marks[2]
    assert set(tokens(server, "def ")) <= set(ids)


def test_scoring_reads_the_prompt_and_generates_nothing(client: openai.OpenAI, server: LiveServer) -> None:
    ids = tokens(server, PROMPT, add_special=True)  # opens the model
    engine = server.call(lambda: server.service.shelf.served[0].engine)
    wanted = [scored.logprob for scored in engine.score(ids, top=2)]
    for stream in (False, True):
        asked: dict[str, Any] = {"max_tokens": 0, "echo": True, "logprobs": 2, "stream": stream}
        answer = ask(client, ids, **asked)
        text, reasons, scored = rebuilt(list(answer) if stream else [answer])
        assert reasons == ["length"]
        assert scored["token_logprobs"] == pytest.approx(wanted) and scored["token_logprobs"][0] is None
        assert text == "<|endoftext|>" + PROMPT
    whole = ask(client, max_tokens=0, echo=True, logprobs=2)
    assert whole.choices[0].text == PROMPT and whole.usage.completion_tokens == 0
    assert whole.choices[0].logprobs.token_logprobs == pytest.approx([None, *wanted[2:]])


def test_offsets_point_at_the_tokens(client: openai.OpenAI) -> None:
    choice = ask(client, "漢 l'été", echo=True, logprobs=1, max_tokens=30, extra_body=saying(" 😀é fin")).choices[0]
    scored = choice.logprobs
    assert choice.text == "漢 l'été 😀é fin" and scored.text_offset[0] == 0
    assert scored.text_offset == sorted(scored.text_offset)
    for token, offset in zip(scored.tokens, scored.text_offset, strict=True):
        assert token.startswith("bytes:") or choice.text[offset : offset + len(token)] == token
    assert "bytes:\\xe6" in scored.tokens


def test_the_token_itself_is_among_the_likeliest(client: openai.OpenAI) -> None:
    for top in (0, 1, 20):
        scored = ask(client, logprobs=top, temperature=2, max_tokens=8, seed=2).choices[0].logprobs
        for token, logprob, likeliest in zip(scored.tokens, scored.token_logprobs, scored.top_logprobs, strict=True):
            assert likeliest[token] == logprob and len(likeliest) in {max(top, 1), top + 1}


def test_the_best_of_several_are_given(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"seed": 9, "temperature": 1.5, "max_tokens": 6, "logprobs": 0}

    def mean(choice: Any) -> float:
        return float(sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs))

    every = sorted(ask(client, n=5, **asked).choices, key=mean, reverse=True)
    best = ask(client, n=2, best_of=5, **asked)
    assert [choice.text for choice in best.choices] == [choice.text for choice in every[:2]]
    assert [choice.index for choice in best.choices] == [0, 1] and best.usage.completion_tokens == 30


@pytest.mark.parametrize(
    ("param", "asked"),
    [
        ("best_of", {"n": 3, "best_of": 2}),
        ("best_of", {"best_of": 2, "stream": True}),
        ("logprobs", {"logprobs": 21}),
        ("prompt", {"prompt": []}),
        ("echo", {"echo": True, "suffix": "x"}),
        ("suffix", {"prompt": [1, 2], "suffix": "x"}),
        ("n", {"n": 1000}),
        ("max_tokens", {"max_tokens": -2}),
    ],
)
def test_what_cannot_be_is_refused_by_name(client: openai.OpenAI, param: str, asked: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, **asked)
    assert refused.value.param == param


def test_ids_outside_the_vocabulary_are_refused(client: openai.OpenAI) -> None:
    for ids in ([99999], [[5], [2**31 - 1]]):
        with pytest.raises(openai.BadRequestError, match="ids outside"):
            ask(client, ids)
    with pytest.raises(openai.BadRequestError):
        ask(client, [-1])


def test_an_answer_has_as_many_tokens_as_it_must_and_then_ends_where_it_would(
    client: openai.OpenAI, server: LiveServer
) -> None:
    (end,) = tokens(server, "<|endoftext|>", parse_special=True)
    ends_at_once = {"logit_bias": {str(end): 100}, "max_tokens": 30, "temperature": 0}
    assert ask(client, **ends_at_once).usage.completion_tokens <= 1
    for stream in (False, True):
        answer = ask(client, **ends_at_once, extra_body={"min_tokens": 12}, stream=stream, logprobs=0)
        text, reasons, scored = rebuilt(list(answer) if stream else [answer])
        assert reasons == ["stop"] and len(scored["tokens"]) == 12 and text
