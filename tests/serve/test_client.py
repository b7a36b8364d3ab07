"""``cadran.Client`` and ``cadran chat --url`` against a live server."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from live import LiveServer

import cadran
from cadran.client.wire import Piece, ServerError, read_line
from cadran.errors import UserError

OPTIONS = {"max_tokens": 12, "seed": 5}


@pytest.fixture
def client(server: LiveServer) -> "cadran.Client":
    return cadran.Client(server.url)


def test_the_pieces_of_a_stream_make_the_whole_answer(client: "cadran.Client") -> None:
    whole = client.chat("tiny", "Ça va ?", **OPTIONS)
    pieces = list(client.stream("tiny", "Ça va ?", **OPTIONS))
    assert "".join(piece.text for piece in pieces) == whole.text == str(whole)
    assert [piece.finish for piece in pieces if piece.finish] == [whole.finish] == ["length"]
    assert pieces[-1].usage == whole.usage or (pieces[-1].usage and pieces[-1].usage.generated == 12)
    assert whole.usage.generated == 12 and whole.message["role"] == "assistant"


def test_the_async_client_gets_the_same_answer(server: LiveServer, client: "cadran.Client") -> None:
    async def ask() -> tuple[str, str, list[str]]:
        async with cadran.AsyncClient(server.url + "/v1") as other:
            whole = await other.chat("tiny", "Ça va ?", **OPTIONS)
            pieces = [piece async for piece in other.stream("tiny", "Ça va ?", **OPTIONS)]
            return whole.text, "".join(piece.text for piece in pieces), await other.models()

    whole, streamed, names = asyncio.run(ask())
    assert whole == streamed == client.chat("tiny", "Ça va ?", **OPTIONS).text
    assert names == client.models() and "tiny" in names


def test_closing_a_stream_frees_its_place(server: LiveServer, client: "cadran.Client") -> None:
    stream = client.stream("tiny", "Encore", max_tokens=400, ignore_eos=True)
    next(stream)
    stream.close()
    server.settle()
    assert server.call(lambda: server.service.admission.running) == 0


def test_a_refusal_is_one_sentence_with_its_status(client: "cadran.Client") -> None:
    with pytest.raises(ServerError, match="there is no model 'gpt' here") as refused:
        client.chat("gpt", "Hello")
    assert refused.value.status == 404
    with pytest.raises(ServerError) as streamed:
        list(client.stream("gpt", "Hello"))
    assert str(streamed.value) == str(refused.value)


def test_no_server_is_one_sentence_that_says_how_to_start_one() -> None:
    with pytest.raises(ServerError, match="cadran serve") as refused:
        cadran.Client("http://127.0.0.1:9").chat("tiny", "Hello")
    assert refused.value.status == 0
    with pytest.raises(UserError, match="http://127"):
        cadran.Client("127.0.0.1:8000")


def test_another_kind_of_server_is_recognised() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(502, text="<html>bad gateway"))
    with pytest.raises(ServerError, match="status 502"):
        cadran.Client(transport=transport).models()


def test_an_answer_that_fails_on_its_way_raises() -> None:
    assert read_line("") is None and read_line(": ping") is None and read_line("data: [DONE]") is None
    assert read_line('data: {"choices":[{"delta":{"content":"é"}}]}') == Piece("é")
    with pytest.raises(ServerError, match="the engine failed"):
        read_line('data: {"error":{"message":"the engine failed"}}')


def test_embeddings_and_tokens_come_as_numbers(client: "cadran.Client") -> None:
    first, second = client.embed("tiny", ["la rivière", "the river"])
    assert len(first) == len(second) > 0 and abs(sum(value * value for value in first) - 1) < 1e-4
    assert client.tokenize("tiny", "la rivière") and client.tokenize("tiny", "la") != client.tokenize("tiny", "le")


def chat_command(url: str, lines: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = Path(sys.executable).parent / "cadran"
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [command, "chat", *arguments, "--url", url, "--max-tokens", "8"],
        input=lines, capture_output=True, text=True, env=environment, timeout=60, check=False,
    )  # fmt: skip


def test_the_command_talks_with_a_model_of_a_server(server: LiveServer, client: "cadran.Client") -> None:
    done = chat_command(server.url, "Ça va ?\n", "tiny")
    whole = client.chat("tiny", "Ça va ?", max_tokens=8, temperature=0.7, top_p=0.95, seed=0)
    assert done.returncode == 0, done.stderr
    assert whole.text.strip() in done.stdout


def test_the_command_names_the_models_when_one_is_not_there(server: LiveServer) -> None:
    done = chat_command(server.url, "", "gpt")
    assert done.returncode == 2
    assert "the server has no model gpt; those there are: " in done.stderr and "tiny" in done.stderr


def test_importing_the_package_imports_no_http() -> None:
    code = "import sys, cadran; assert 'httpx' not in sys.modules; cadran.Client; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
