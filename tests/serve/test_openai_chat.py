"""Chat completions, asked by the ``openai`` package itself."""

import openai
import pytest
from live import LiveServer

MESSAGES = [{"role": "user", "content": "Ça va, l'été ?"}]


@pytest.fixture(scope="module")
def client(server: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_stream_says_what_the_plain_answer_says(client: openai.OpenAI) -> None:
    asked = {"model": "tiny", "messages": MESSAGES, "max_tokens": 20, "seed": 3}
    plain = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == plain.choices[0].message.content
    assert [chunk.choices[0].delta.role for chunk in chunks[:-1] if chunk.choices[0].delta.role] == ["assistant"]
    assert chunks[-2].choices[0].finish_reason == plain.choices[0].finish_reason == "length"
    streamed, whole = chunks[-1].usage, plain.usage
    assert streamed and whole and streamed.completion_tokens == whole.completion_tokens == 20
    assert streamed.prompt_tokens == whole.prompt_tokens


def test_unknown_model_is_404_with_the_list(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="tiny"):
        client.chat.completions.create(model="gpt", messages=MESSAGES)
