"""The ``ollama`` package itself, against a server."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ollama
import pytest
from live import LiveServer
from tiny import tiny_model

MESSAGES = [{"role": "user", "content": "Ça va, l'été ?"}]
OPTIONS = {"num_predict": 12, "seed": 3}


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[ollama.Client]:
    with ollama.Client(host=server.url) as client:
        yield client


def test_chat_streams_what_it_answers_whole(client: ollama.Client) -> None:
    whole = client.chat("tiny", MESSAGES, options=OPTIONS)
    parts = list(client.chat("tiny", MESSAGES, options=OPTIONS, stream=True))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    last = parts[-1]
    assert last.done_reason == whole.done_reason == "length"
    assert last.eval_count == whole.eval_count == 12
    assert last.prompt_eval_count == whole.prompt_eval_count
    assert last.total_duration and last.total_duration > 1000  # nanoseconds
    assert last.total_duration >= (last.eval_duration or 0)


def test_the_asynchronous_client_is_answered_alike(server: LiveServer, client: ollama.Client) -> None:
    async def asked() -> tuple[str, str]:
        async with ollama.AsyncClient(host=server.url) as other:
            whole = await other.chat("tiny", MESSAGES, options=OPTIONS)
            parts = [part async for part in await other.chat("tiny", MESSAGES, options=OPTIONS, stream=True)]
            return whole.message.content or "", "".join(part.message.content or "" for part in parts)

    whole, streamed = asyncio.run(asked())
    assert whole == streamed == client.chat("tiny", MESSAGES, options=OPTIONS).message.content


def test_generate_goes_on_from_the_context_it_gave(client: ollama.Client) -> None:
    first = client.generate("tiny", "Hello", options=OPTIONS)
    parts = list(client.generate("tiny", "Hello", options=OPTIONS, stream=True))
    assert "".join(part.response or "" for part in parts) == first.response
    assert parts[-1].context == first.context and first.context
    second = client.generate("tiny", "and then?", context=first.context, options=OPTIONS)
    assert second.prompt_eval_count and second.prompt_eval_count > len(first.context)
    assert second.context and list(second.context)[: len(first.context)] == list(first.context)


def test_raw_and_system_are_read_as_they_say(client: ollama.Client) -> None:
    raw = client.generate("tiny", "Hello", raw=True, options=OPTIONS)
    plain = client.generate("tiny", "Hello", options=OPTIONS)
    told = client.generate("tiny", "Hello", system="Be brief.", options=OPTIONS)
    assert raw.prompt_eval_count and plain.prompt_eval_count and told.prompt_eval_count
    assert raw.prompt_eval_count < plain.prompt_eval_count < told.prompt_eval_count
    assert raw.context is None


def test_suffix_is_filled_in(client: ollama.Client) -> None:
    told = client.generate("tiny", "def add(a, b):\n    ", suffix="\n    return total\n", options=OPTIONS)
    parts = list(client.generate("tiny", "def add(a, b):\n    ", "\n    return total\n", options=OPTIONS, stream=True))
    assert "".join(part.response or "" for part in parts) == told.response


def test_format_is_a_schema_or_any_json(client: ollama.Client) -> None:
    schema = {"type": "object", "properties": {"é": {"enum": [1, 2]}}, "required": ["é"], "additionalProperties": False}
    told = client.chat("tiny", MESSAGES, format=schema, options={"num_predict": 100, "seed": 1})
    assert json.loads(told.message.content or "")["é"] in (1, 2)
    some = client.chat("tiny", MESSAGES, format="json", options={"num_predict": 200, "seed": 1})
    assert (some.message.content or "").lstrip().startswith("{")


def test_log_probabilities_are_told_in_both_ways(client: ollama.Client) -> None:
    asked: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "options": {"num_predict": 4, "temperature": 0}}
    whole = client.chat("tiny", MESSAGES, **asked)
    parts = list(client.chat("tiny", MESSAGES, stream=True, **asked))
    streamed = [entry for part in parts for entry in part.logprobs or []]
    assert whole.logprobs and [entry.token for entry in streamed] == [entry.token for entry in whole.logprobs]
    assert len(streamed) == 4 and all(len(entry.top_logprobs or []) == 2 for entry in streamed)


def test_embed_gives_vectors_of_length_one(client: ollama.Client) -> None:
    told = client.embed("tiny", ["a river", "un été"])
    assert len(told.embeddings) == 2
    for vector in told.embeddings:
        assert sum(number * number for number in vector) == pytest.approx(1, abs=1e-4)
    assert list(client.embed("tiny", "a river").embeddings[0]) == pytest.approx(list(told.embeddings[0]), abs=1e-4)
    short = client.embed("tiny", "a river", dimensions=8).embeddings[0]
    assert len(short) == 8 and sum(number * number for number in short) == pytest.approx(1, abs=1e-4)
    assert len(client.embeddings("tiny", "a river").embedding) == len(told.embeddings[0])


def test_embed_refuses_what_is_too_long_unless_told_to_cut(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="512"):
        client.embed("tiny", "river " * 1000)
    assert len(client.embed("tiny", "river " * 1000, truncate=True).embeddings) == 1


def test_a_prompt_is_cut_only_when_that_is_asked_for(client: ollama.Client) -> None:
    talk = [{"role": role, "content": f"{n} " * 40} for n in range(20) for role in ("user", "assistant")]
    talk += [{"role": "user", "content": "end"}]
    with pytest.raises(ollama.ResponseError, match="512") as refused:
        client.chat("tiny", talk)
    assert refused.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="100"):
        client.chat("tiny", MESSAGES * 20, options={"num_ctx": 100})


def test_models_are_listed_shown_and_told_to_be_open(client: ollama.Client) -> None:
    client.chat("tiny", MESSAGES, options=OPTIONS)
    listed = {model.model: model for model in client.list().models}
    assert set(listed) == {"tiny:latest", "meta/meta-llama-3-70b-instruct:latest"}
    tiny = listed["tiny:latest"]
    assert tiny.digest and len(tiny.digest) == 64 and tiny.size and tiny.details and tiny.details.family == "qwen3"
    for name in ("tiny", "tiny:latest", "meta/meta-llama-3-70b-instruct"):
        shown = client.show(name)
        assert shown.capabilities and "completion" in shown.capabilities and "insert" in shown.capabilities
        assert shown.template and ".Suffix" in shown.template
        assert shown.parameters and shown.parameters.startswith("num_ctx                        512")
        assert shown.modelinfo and shown.modelinfo["general.architecture"] == "qwen3"
    running = client.ps().models
    assert [model.model for model in running] == ["tiny:latest"]
    assert running[0].digest == tiny.digest and running[0].context_length == 512 and running[0].expires_at


def test_errors_are_the_servers_own_words(client: ollama.Client) -> None:
    for stream in (False, True):
        with pytest.raises(ollama.ResponseError, match="tiny") as unknown:
            list(client.chat("nobody", MESSAGES, stream=stream))
        assert unknown.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="images") as refused:
        client.generate("tiny", "What is it?", images=[b"abcd"])
    assert refused.value.status_code == 400


def test_nobody_takes_a_model_away(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="cadran models rm") as refused:
        client.delete("tiny")
    assert refused.value.status_code == 403
    with pytest.raises(ollama.ResponseError) as unknown:
        client.delete("nobody")
    assert unknown.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="alias") as copied:
        client.copy("tiny", "other")
    assert copied.value.status_code == 403
    with pytest.raises(ollama.ResponseError) as made:
        client.create("other", from_="tiny", system="Be brief.")
    assert made.value.status_code == 400
    with pytest.raises(ollama.ResponseError) as pushed:
        client.push("tiny")
    assert pushed.value.status_code == 501


def test_keep_alive_opens_keeps_and_closes(tiny: Path, tmp_path: Path) -> None:
    live = LiveServer(models=[str(tiny)], database=f"sqlite:///{tmp_path / 'state.db'}")
    try:
        with ollama.Client(host=live.url) as client:
            assert client.ps().models == []
            opened = client.generate("tiny", keep_alive="5m")
            assert (opened.done_reason, opened.response) == ("load", "")
            (model,) = client.ps().models
            assert model.expires_at and 200 < model.expires_at.timestamp() - time.time() <= 300
            assert client.chat("tiny", keep_alive=-1).done_reason == "load"
            assert client.ps().models[0].expires_at and client.ps().models[0].expires_at.year == 9999
            assert client.chat("tiny", keep_alive=0).done_reason == "unload"
            assert client.ps().models == []
            client.chat("tiny", MESSAGES, options=OPTIONS, keep_alive=0)
            live.settle()
            begun = time.monotonic()
            while client.ps().models:
                assert time.monotonic() - begun < 60, "it stayed open"
                time.sleep(0.02)
            with pytest.raises(ollama.ResponseError, match="keep_alive"):
                client.chat("tiny", MESSAGES, keep_alive="soon")
    finally:
        live.close()


def test_a_local_path_is_pulled_and_then_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CADRAN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)  # no runs here
    source = tiny_model(tmp_path / "source")
    live = LiveServer(database=f"sqlite:///{tmp_path / 'state.db'}")
    try:
        with ollama.Client(host=live.url) as client:
            assert client.list().models == []
            lines = list(client.pull(str(source), stream=True))
            assert [lines[0].status, lines[-1].status] == ["pulling manifest", "success"]
            assert [model.model for model in client.list().models] == ["source:latest"]
            assert client.chat("source", MESSAGES, options=OPTIONS).eval_count == 12
            assert client.pull("source").status == "success"  # it is here already
            with pytest.raises(ollama.ResponseError, match="no model") as unknown:
                client.pull("no such model")
            assert unknown.value.status_code == 404
            with pytest.raises(ollama.ResponseError, match=r"config\.json"):
                client.pull(str(tmp_path))
            with pytest.raises(ollama.ResponseError, match=r"config\.json"):
                list(client.pull(str(tmp_path), stream=True))
    finally:
        live.close()


def test_only_a_server_for_this_machine_alone_pulls(tiny: Path, tmp_path: Path) -> None:
    from cadran.serve.api_error import ApiError
    from cadran.serve.ollama.pull import _origin
    from cadran.serve.service import Service
    from cadran.serve.settings import ServeSettings

    service = Service(ServeSettings(models=[str(tiny)], host="0.0.0.0", database=f"sqlite:///{tmp_path / 'state.db'}"))
    with pytest.raises(ApiError) as refused:
        _origin(service, "smollm2")
    assert refused.value.kind == "permission"
