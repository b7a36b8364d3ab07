"""What is refused, with which status and which class of the ``openai`` package; never with one of the server's."""

import asyncio
from typing import Any

import httpx
import openai
import pytest
from live import LiveServer

MESSAGES: list[Any] = [{"role": "user", "content": "Ça va ?"}]
HUGE = 10**30


@pytest.fixture(scope="module")
def client(server: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def post(server: LiveServer, body: str | dict[str, Any], path: str = "/v1/chat/completions") -> httpx.Response:
    if isinstance(body, str):
        return httpx.post(server.url + path, content=body, headers={"content-type": "application/json"})
    return httpx.post(server.url + path, json={"model": "tiny", "messages": MESSAGES, "max_tokens": 3, **body})


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_beyond_the_context_names_both_numbers(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError, match=r"[67]\d\d tokens and .* 512 tokens") as refused:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "z" * 650}], stream=stream)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match=r"6\d\d tokens and .* 512 tokens"):
        client.completions.create(model="tiny", prompt="z" * 650, stream=stream)


def test_an_unknown_model_is_404_with_the_list(client: openai.OpenAI) -> None:
    for ask in (
        lambda: client.chat.completions.create(model="gpt", messages=MESSAGES),
        lambda: client.completions.create(model="gpt", prompt="a", suffix="b"),
        lambda: client.chat.completions.create(model="tiny", messages=MESSAGES, extra_body={"lora": "none"}),
    ):
        with pytest.raises(openai.NotFoundError, match="those there are: tiny") as refused:
            ask()
        assert (refused.value.code, refused.value.param) == ("model_not_found", "model")


def test_a_full_queue_is_429_and_says_when_to_come_back(tiny: Any, tmp_path: Any) -> None:
    live = LiveServer(models=[str(tiny)], parallel=1, queue=0, database=f"sqlite:///{tmp_path / 'state.db'}")
    try:
        client = openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0)
        live.call(live.service.admission._begin)  # somebody has the only place
        for stream in (False, True):
            with pytest.raises(openai.RateLimitError) as refused:
                client.chat.completions.create(model="tiny", messages=MESSAGES, stream=stream)
            assert int(refused.value.response.headers["retry-after"]) >= 1
        with pytest.raises(openai.RateLimitError):
            client.embeddings.create(model="tiny", input="a")
        live.call(live.service.admission.leave)
        assert client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=2).choices
    finally:
        live.close()


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("temperature", '"temperature": NaN'),
        ("temperature", '"temperature": -0.1'),
        ("top_p", '"top_p": 1e400'),
        ("top_p", '"top_p": 1.5'),
        ("top_k", '"top_k": -2'),
        ("min_p", '"min_p": 2'),
        ("min_p", '"min_p": NaN'),
        ("mirostat", '"mirostat": 1'),
        ("mirostat_tau", '"mirostat_tau": 0'),
        ("seed", f'"seed": {HUGE}'),
        ("seed", '"seed": 1.5'),
        ("n", '"n": 0'),
        ("n", f'"n": {HUGE}'),
        ("n", '"n": 1000'),
        ("max_tokens", '"max_tokens": 0'),
        ("max_completion_tokens", '"max_completion_tokens": 0'),
        ("presence_penalty", '"presence_penalty": 11'),
        ("repetition_penalty", '"repetition_penalty": 0'),
        ("logit_bias", '"logit_bias": {"x": 1}'),
        ("logit_bias", '"logit_bias": {"\\u00b2": 1}'),
        ("logit_bias", '"logit_bias": {"1": 101}'),
        ("logit_bias", '"logit_bias": {"99999": 1}'),
        ("logit_bias", f'"logit_bias": {{"{HUGE}": 1}}'),
        ("stop_token_ids.0", f'"stop_token_ids": [{HUGE}]'),
        ("top_logprobs", '"logprobs": true, "top_logprobs": 21'),
        ("top_logprobs", '"top_logprobs": 2'),
        ("response_format.type", '"response_format": {"type": "yaml"}'),
        ("response_format.json_schema", '"response_format": {"type": "json_schema"}'),
        ("tool_choice", '"tool_choice": "required"'),
        ("tools", '"tools": [{"type": "custom", "custom": {"name": "a"}}]'),
        ("modalities", '"modalities": ["audio"]'),
        ("messages.0.content", '"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]'),
        ("messages.0.role", '"messages": [{"role": "wizard", "content": "a"}]'),
        ("messages", '"messages": []'),
        ("messages", '"continue_final_message": true'),
        ("add_generation_prompt", '"add_generation_prompt": false'),
        ("min_tokens", '"min_tokens": 5, "max_tokens": 3'),
        ("allowed_token_ids", '"allowed_token_ids": [99999]'),
        ("lora", '"lora": [{"id": 0, "scale": 1}]'),
        ("use_beam_search", '"use_beam_search": true'),
        ("stream", '"prompt_logprobs": 1, "stream": true'),
        ("stop", '"stop": 5'),
        ("stop", '"stop": ["a", 5]'),
    ],
)
def test_a_value_out_of_range_is_400_with_its_field(server: LiveServer, param: str, fields: str) -> None:
    messages = "" if '"messages":' in fields else '"messages": [{"role": "user", "content": "a"}], '
    limit = "" if "tokens" in param else '"max_tokens": 3, '
    answer = post(server, f'{{"model": "tiny", {limit}{messages}{fields}}}')
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param and error["type"] == "invalid_request_error" and error["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"min_tokens": 0}, {"min_tokens": 2}, {"tfs_z": 1.0, "dynatemp_range": 0}, {"top_k": -1},
        {"max_tokens": -1}, {"repeat_last_n": 0, "repetition_penalty": 1.3}, {"top_k": 2**40}, {"stop": [""]},
        {"metadata": {"a": "b"}, "store": True, "user": "me", "service_tier": "auto", "verbosity": "low"},
        {"lora": []}, {"cache_prompt": False, "id_slot": 3, "samplers": ["top_k"]}, {"seed": -(2**63)},
        {"reasoning_effort": "none"}, {"stream_options": {"include_obfuscation": False}}, {"ignore_eos": None},
        {"stream": None, "model": None, "stop": None, "tools": None, "stream_options": {"include_usage": None}},
        {"dry_multiplier": 0.8, "dry_sequence_breakers": ["\n"]}, {"xtc_threshold": 0, "top_n_sigma": -1},
        {"chat_template_kwargs": {"messages": [], "now": 1, "add_generation_prompt": False}},
    ],
)  # fmt: skip
def test_what_changes_nothing_or_is_understood_is_taken(server: LiveServer, fields: dict[str, Any]) -> None:
    answer = post(server, fields)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "body",
    [
        "{", "", "[]", "null", '"text"', "[" * 100_000, '{"messages": ' + "[" * 5000, '{"messages": 7}',
        '{"messages": [{"role": "user", "content": "\\ud800"}]}',
        '{"model": "\\ud800", "messages": [{"role": "user", "content": "a"}]}',
        '{"messages": [{"role": "user", "content": "a"}], "grammar": "nonsense ::="}',
        '{"messages": [{"role": "user", "content": "a"}], "guided_regex": "("}',
        '{"messages": [{"role": "user", "content": "a"}], "guided_json": {"type": 7}}',
        '{"messages": [{"role": "user", "content": "a"}], "stop": "' + "x" * 20_000 + '"}',
    ],
)  # fmt: skip
def test_garbage_is_the_clients_fault(server: LiveServer, body: str) -> None:
    answer = post(server, body)
    assert answer.status_code in (400, 404)
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_biases_that_leave_nothing_to_say_harm_nobody_else(server: LiveServer) -> None:
    size = 360
    nothing = {str(id): -100 for id in range(size)}

    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            asked: dict[str, Any] = {"model": "tiny", "messages": MESSAGES, "max_tokens": 30}
            good = asyncio.create_task(client.chat.completions.create(**asked, seed=1))
            with pytest.raises(openai.BadRequestError):
                await client.chat.completions.create(**asked, logit_bias=nothing)
            with pytest.raises(openai.APIError):
                async for _ in await client.chat.completions.create(**asked, logit_bias=nothing, stream=True):
                    pass
            alone = await client.chat.completions.create(**asked, seed=1)
            assert (await good).choices[0].message == alone.choices[0].message

    asyncio.run(run())


def test_a_method_that_a_path_does_not_know_comes_with_those_it_does(server: LiveServer) -> None:
    answer = httpx.get(f"{server.url}/v1/chat/completions")
    assert answer.status_code == 405 and answer.headers["allow"] == "POST"
    assert answer.json()["error"]["message"] == "/v1/chat/completions knows no GET; use POST"
