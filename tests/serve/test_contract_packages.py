"""Calls of the packages that the other tests of the contract leave out (api-contracts 11 and 12.1)."""

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anthropic
import httpx
import ollama
import openai
import pytest
import replicate
from contract_families import KEY, MESSAGES, QUESTION, anthropic_of, ollama_of, openai_of, replicate_of
from live import LiveServer
from replicate.exceptions import ReplicateError

LLAMA = "meta/meta-llama-3-70b-instruct"
NAMES = ["tiny", LLAMA]


def test_one_list_is_read_by_every_package(server: LiveServer) -> None:
    ours = openai_of(server.url).models.list()
    assert [model.id for model in ours] == NAMES and ours.object == "list"
    page = anthropic_of(server.url).models.list(limit=20)
    assert [model.id for model in page] == NAMES and page.has_more is False
    assert (page.first_id, page.last_id) == (NAMES[0], NAMES[-1])
    found: Any = anthropic_of(server.url).models.retrieve(LLAMA)
    assert (found.id, found.type, found.display_name) == (LLAMA, "model", LLAMA) and found.created_at.year >= 2020
    listed = replicate_of(server.url).models.list()
    assert [f"{model.owner}/{model.name}" for model in listed] == ["cadran/tiny", LLAMA] and listed.next is None
    one = replicate_of(server.url).models.get(LLAMA)
    assert one.latest_version is not None and one.visibility == "public"
    digests = {model.digest for model in ollama_of(server.url).list().models}
    assert digests == {one.latest_version.id} and len(one.latest_version.id) == 64
    assert httpx.get(f"{server.url}/v1/models/{LLAMA}").json() == httpx.get(
        f"{server.url}/v1/models/{LLAMA.replace('/', '%2F')}"
    ).json()  # fmt: skip


def test_what_is_read_raw_is_what_is_read_parsed(server: LiveServer) -> None:
    asked: Any = {"model": "tiny", "messages": MESSAGES, "max_tokens": 5, "seed": 3}
    client = openai_of(server.url)
    raw = client.chat.completions.with_raw_response.create(**asked)
    assert raw.headers["x-request-id"] and raw.parse().choices == client.chat.completions.create(**asked).choices
    with client.chat.completions.with_streaming_response.create(**asked, stream=True) as streamed:
        lines = [line for line in streamed.iter_lines() if line]
    assert lines[-1] == "data: [DONE]" and all(line.startswith("data: {") for line in lines[:-1])
    other = anthropic_of(server.url).messages.with_raw_response.create(
        model="tiny", messages=MESSAGES, max_tokens=5
    )  # fmt: skip
    assert other.headers["request-id"] == other.parse()._request_id


def test_asynchronous_packages_ask_as_the_others_do(server: LiveServer) -> None:
    asked: Any = {"model": "tiny", "max_tokens": 6}

    async def ours() -> tuple[str, str, str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
            plain = await client.completions.create(**asked, prompt=QUESTION, seed=2)
            pieces = [
                part async for part in await client.completions.create(**asked, prompt=QUESTION, seed=2, stream=True)
            ]
            text = "".join(choice.text for part in pieces for choice in part.choices)
            told = await client.responses.create(model="tiny", input=QUESTION, max_output_tokens=6)
            again = await client.responses.retrieve(told.id)
            assert again.output_text == told.output_text
            vectors = await client.embeddings.create(model="tiny", input=[QUESTION, "a"])
            assert len(vectors.data) == 2 and isinstance(vectors.data[0].embedding[0], float)
            return plain.choices[0].text, text, again.id

    plain, text, id = asyncio.run(ours())
    assert plain == text and id.startswith("resp_")

    async def theirs() -> int:
        async with anthropic.AsyncAnthropic(base_url=server.url, api_key=KEY, max_retries=0) as client:
            counted = await client.messages.count_tokens(model="tiny", messages=MESSAGES)
            return counted.input_tokens

    assert asyncio.run(theirs()) == httpx.post(f"{server.url}/tokenize", json={"messages": MESSAGES}).json()["count"]

    async def local() -> tuple[str, str]:
        async with ollama.AsyncClient(host=server.url) as client:
            options = {"num_predict": 6, "seed": 1}
            whole = await client.generate("tiny", QUESTION, options=options)
            parts = [part async for part in await client.generate("tiny", QUESTION, options=options, stream=True)]
            return whole.response, "".join(part.response for part in parts)

    whole, streamed = asyncio.run(local())
    assert whole == streamed


def test_older_clients_are_let_in_with_their_own_headers(server: LiveServer) -> None:
    """Keys as old versions of the packages send them; the base with and without ``/v1``."""
    for headers in (
        {"authorization": "Token r8_x"},
        {"x-api-key": "k", "anthropic-version": "2023-06-01"},
        {"api-key": "azure"},
    ):
        assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == 200
    unversioned: Any = openai.OpenAI(base_url=server.url, api_key=KEY, max_retries=0)
    assert unversioned.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=2).choices
    assert [model.id for model in unversioned.models.list()] == NAMES
    new = httpx.post(  # replicate 2 and its JavaScript package
        f"{server.url}/v1/models/{LLAMA}/predictions", json={"input": {"prompt": "a", "max_tokens": 2}},
        headers={"authorization": "Bearer t", "prefer": "wait=60"},
    )  # fmt: skip
    assert new.status_code == 201 and new.json()["status"] == "succeeded"


def test_what_replicate_has_and_this_server_has_not_is_404_in_its_form(server: LiveServer) -> None:
    client = replicate_of(server.url)
    calls: list[Any] = [
        lambda: client.trainings.list(),
        lambda: client.collections.list(),
        lambda: client.deployments.get("a/b"),
        lambda: client.predictions.get("none"),
    ]
    for call in calls:
        with pytest.raises(ReplicateError) as refused:
            call()
        assert refused.value.status == 404 and refused.value.detail


def test_the_environment_of_the_package_is_enough(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATE_API_TOKEN", "TOKEN")
    monkeypatch.setenv("REPLICATE_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("OLLAMA_HOST", server.url)
    asked: Any = {"model": "tiny", "messages": MESSAGES, "max_tokens": 2}
    assert openai.OpenAI().chat.completions.create(**asked).choices
    assert anthropic.Anthropic().messages.create(**asked).content
    assert ollama.Client().chat("tiny", MESSAGES, options={"num_predict": 2}).done
    output: Any = replicate.Client().run(LLAMA, input={"prompt": "a", "max_tokens": 2})
    assert isinstance(output, list) and all(isinstance(item, str) for item in output)


ODD = ["llama3:8b", "org/model.v1", "a/b/c:q4", "été"]
"""Names with everything that has a meaning in a path, or in an Ollama tag."""


def test_names_with_slashes_and_colons_are_one_model_everywhere(tiny: Path) -> None:
    live = LiveServer(models=[str(tiny)], alias=dict.fromkeys(ODD, "tiny"))
    try:
        ours, theirs, local = openai_of(live.url), anthropic_of(live.url), ollama_of(live.url)
        for name in ODD:
            asked: Any = {"model": name, "messages": MESSAGES, "max_tokens": 2}
            assert ours.chat.completions.create(**asked).model == name
            assert ours.models.retrieve(name).id == theirs.models.retrieve(name).id == name
            assert theirs.messages.create(**asked).model == name
            assert local.chat(name, MESSAGES, options={"num_predict": 2}).model == name
            assert local.show(name).template
            path = f"{live.url}/v1/models/{quote(name, safe='')}/predictions"
            made = httpx.post(path, json={"input": {"prompt": "a", "max_tokens": 2}}, headers={"prefer": "wait"})
            assert made.status_code == 201 and made.json()["status"] == "succeeded", name
        tagged = {model.model for model in local.list().models}
        assert tagged == {"tiny:latest", "llama3:8b", "org/model.v1:latest", "a/b/c:q4", "été:latest"}
    finally:
        live.close()
