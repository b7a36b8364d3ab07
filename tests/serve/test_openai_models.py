"""The list of models, and tokens and templates shown."""

import asyncio
from pathlib import Path

import httpx
import openai
import pytest
from live import LiveServer

from cadran.serve.known_model import KnownModel
from cadran.serve.openai import models
from cadran.serve.openai.model_body import model_body

ALIAS = "meta/meta-llama-3-70b-instruct"
MESSAGES = [{"role": "user", "content": "Ça va ?"}]


@pytest.fixture(scope="module")
def client(server: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_models_and_aliases_are_listed_for_three_sdks(
    client: openai.OpenAI, server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "PATIENCE", 60.0)
    assert [model.id for model in client.models.list()] == ["tiny", ALIAS]
    listed = httpx.get(f"{server.url}/v1/models").json()
    assert listed["data"] == listed["results"] and (listed["first_id"], listed["last_id"]) == ("tiny", ALIAS)
    alias = listed["data"][1]
    assert (alias["owner"], alias["name"], alias["owned_by"]) == ("meta", "meta-llama-3-70b-instruct", "meta")
    assert alias["max_model_len"] == alias["max_input_tokens"] == 512 and alias["created_at"].endswith("Z")
    version = alias["latest_version"]["id"]
    assert len(version) == 64 and version == listed["data"][0]["latest_version"]["id"]
    assert alias["capabilities"]["chat"] == {"supported": True}
    assert alias["meta"]["n_params"] > 1000


def test_the_list_waits_for_no_large_file(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(known: KnownModel) -> str:
        await asyncio.sleep(60)
        return "never"

    monkeypatch.setattr(models, "digest_of", slow)
    facts = asyncio.run(models._facts(KnownModel("tiny", tiny), 0.01))
    assert facts.digest is None and facts.header is not None
    assert model_body("tiny", facts, "http://here")["latest_version"] is None


def test_a_damaged_model_is_listed_without_its_figures(tmp_path: Path) -> None:
    facts = asyncio.run(models._facts(KnownModel("broken", tmp_path), None))
    body = model_body("broken", facts, "http://here")
    assert body["meta"] == {} and body["latest_version"] is None and body["created"] == 0
    assert body["capabilities"]["completion"] == {"supported": False}


@pytest.mark.parametrize("id", ["tiny", ALIAS, "cadran/tiny", "tiny:latest"])
def test_a_model_is_found_by_each_of_its_names(client: openai.OpenAI, server: LiveServer, id: str) -> None:
    found = client.models.retrieve(id)  # the package writes the slash as %2F
    assert found.id == id and found.object == "model" and found.created > 0
    assert httpx.get(f"{server.url}/v1/models/{id}").json()["id"] == id


def test_an_unknown_model_is_404_and_none_can_be_deleted(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="tiny") as missing:
        client.models.retrieve("meta/none")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.PermissionDeniedError):
        client.models.delete("tiny")


def test_a_slash_in_the_name_of_a_model_is_no_matter_for_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=ALIAS, messages=MESSAGES, max_tokens=2)  # type: ignore[arg-type]
    assert answer.model == ALIAS


def test_both_dialects_of_tokenize_and_back(server: LiveServer) -> None:
    def post(path: str, **body: object) -> httpx.Response:
        return httpx.post(f"{server.url}{path}", json=body)

    text = "Été 😀 <|im_end|>"
    llama = post("/tokenize", content=text, with_pieces=True).json()
    vllm = post("/v1/tokenize", model="tiny", prompt=text, return_token_strs=True).json()
    ids = [token["id"] for token in llama["tokens"]]
    assert vllm["tokens"][1:] == ids and vllm["count"] == len(ids) + 1 and vllm["max_model_len"] == 512
    assert vllm["token_strs"][-1] == llama["tokens"][-1]["piece"] == "<|im_end|>"
    pieces = [token["piece"] for token in llama["tokens"]]
    assert b"".join(bytes(p) if isinstance(p, list) else p.encode() for p in pieces).decode() == text
    for path in ("/detokenize", "/v1/detokenize"):
        assert post(path, tokens=ids).json() == {"content": text, "prompt": text}
    assert len(post("/tokenize", content=text, parse_special=False).json()["tokens"]) > len(ids)
    assert post("/tokenize").status_code == post("/detokenize", tokens=[10**6]).status_code == 400
    assert post("/tokenize", content="a", model="none").status_code == 404


def test_a_template_shows_what_the_model_reads(server: LiveServer) -> None:
    shown = httpx.post(f"{server.url}/apply-template", json={"messages": MESSAGES}).json()["prompt"]
    assert shown == "<|im_start|>user\nÇa va ?<|im_end|>\n<|im_start|>assistant\n"
    counted = httpx.post(f"{server.url}/tokenize", json={"content": shown}).json()["tokens"]
    assert counted == httpx.post(f"{server.url}/tokenize", json={"messages": MESSAGES}).json()["tokens"]


@pytest.mark.parametrize("path", ["/tokenize", "/apply-template"])
def test_a_conversation_without_messages_is_refused_by_the_field(server: LiveServer, path: str) -> None:
    answer = httpx.post(f"{server.url}{path}", json={"model": "tiny", "messages": []})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "messages"
