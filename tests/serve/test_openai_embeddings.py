"""Embeddings, asked by the ``openai`` package itself, and ranking by them."""

import asyncio
import json

import httpx
import numpy as np
import openai
import pytest
from live import LiveServer

TEXTS = ["La rivière est calme.", "In summer nobody fishes.", "😀"]


@pytest.fixture(scope="module")
def client(server: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_base64_and_float_hold_the_same_unit_vectors(client: openai.OpenAI, server: LiveServer) -> None:
    coded = client.embeddings.create(model="tiny", input=TEXTS)  # the package asks for base64 by itself
    plain = client.embeddings.create(model="tiny", input=TEXTS, encoding_format="float")
    assert [entry.index for entry in coded.data] == [0, 1, 2]
    rows = np.array([entry.embedding for entry in coded.data])
    assert rows.shape == (3, 64) and np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert np.array_equal(rows.astype(np.float32), np.array([e.embedding for e in plain.data], np.float32))
    raw = httpx.post(f"{server.url}/v1/embeddings", json={"input": "a", "encoding_format": "base64"}).json()
    assert len(raw["data"][0]["embedding"]) == 344  # 64 float32


def test_a_text_and_its_tokens_have_one_embedding(client: openai.OpenAI, server: LiveServer) -> None:
    texts = client.embeddings.create(model="tiny", input=TEXTS)
    for add in (False, True):
        ids = [
            httpx.post(f"{server.url}/tokenize", json={"content": text, "add_special": add}).json()["tokens"]
            for text in TEXTS
        ]
        assert client.embeddings.create(model="tiny", input=ids).data == texts.data
    assert client.embeddings.create(model="tiny", input=ids[0]).data[0].embedding == texts.data[0].embedding
    assert texts.usage.prompt_tokens == texts.usage.total_tokens == sum(map(len, ids))


def test_fewer_dimensions_have_length_one_again(client: openai.OpenAI) -> None:
    whole = np.array(client.embeddings.create(model="tiny", input="a").data[0].embedding)
    cut = np.array(client.embeddings.create(model="tiny", input="a", dimensions=16).data[0].embedding)
    assert np.allclose(cut, whole[:16] / np.linalg.norm(whole[:16]), atol=1e-6)
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model="tiny", input="a", dimensions=65)
    assert refused.value.param == "dimensions"


def test_what_cannot_be_embedded_is_refused(client: openai.OpenAI, server: LiveServer) -> None:
    for wrong in ("", [], ["a", ""], [[]], [99999], ["a", 1], "\ud800", {}):
        body = json.dumps({"model": "tiny", "input": wrong})
        assert httpx.post(f"{server.url}/v1/embeddings", content=body).status_code == 400, wrong
    with pytest.raises(openai.BadRequestError, match=r"\d+ tokens .* 511") as refused:
        client.embeddings.create(model="tiny", input="z" * 600)
    assert refused.value.code == "context_length_exceeded" and refused.value.param == "input"
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="none", input="a")


def test_company_changes_no_embedding(client: openai.OpenAI, server: LiveServer) -> None:
    alone = client.embeddings.create(model="tiny", input=TEXTS)

    async def together() -> list[openai.types.CreateEmbeddingResponse]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as many:
            return await asyncio.gather(*(many.embeddings.create(model="tiny", input=TEXTS) for _ in range(8)))

    assert all(answer.data == alone.data for answer in asyncio.run(together()))
    server.settle()
    assert server.call(lambda: server.service.admission.running) == 0


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
def test_the_nearest_document_comes_first(server: LiveServer, path: str) -> None:
    asked = {"model": "tiny", "query": TEXTS[1], "documents": [TEXTS[0], {"text": TEXTS[1]}, TEXTS[2]]}
    answer = httpx.post(server.url + path, json=asked | {"return_documents": True}).json()
    scores = [result["relevance_score"] for result in answer["results"]]
    assert scores == sorted(scores, reverse=True) and scores[0] == pytest.approx(1, abs=1e-5)
    assert answer["results"][0] == {"index": 1, "relevance_score": scores[0], "document": {"text": TEXTS[1]}}
    assert "cosine" in answer["meta"]["score"] and answer["usage"]["total_tokens"] > 0
    best = httpx.post(server.url + path, json=asked | {"top_n": 1}).json()["results"]
    assert best == [{"index": 1, "relevance_score": scores[0]}]


def test_a_long_document_is_cut_only_on_request(server: LiveServer) -> None:
    asked = {"query": "a", "documents": ["z" * 600]}
    assert httpx.post(f"{server.url}/rerank", json=asked).status_code == 400
    assert httpx.post(f"{server.url}/rerank", json=asked | {"max_tokens_per_doc": 100}).status_code == 200
