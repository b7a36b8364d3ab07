import asyncio
import math
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

import engine
import serving
from cadran.model.gguf.reader import GgufFile
from engine_peers import models
from engine_peers.llama_server import LlamaServer
from interleaved import Result
from worker import WorkerFailed

DECODE = engine.Line("m135", "q8_0", "decode 128 0", 2.3, bound=True)


def test_shapes_have_the_parameters_of_their_names():
    sizes = {name: sum(math.prod(size) for _, size in shape.tensors()) for name, shape in models.SHAPES.items()}
    assert sizes == {"m135": 134_515_008, "m30": 27_402_752}


def test_models_of_a_shape_are_the_same_each_time_and_open(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "CACHE", tmp_path)
    monkeypatch.setattr(models, "SHAPES", {"m30": models.Shape("m30", 1, 64, 1, 1, 64, 300, context=64)})
    with pytest.warns(UserWarning, match="a few tokens"):
        pure = models.gguf("m30", "q4_0-pure")
    kept = (tmp_path / "models" / "m30" / "model.safetensors").read_bytes()
    with GgufFile.open(tmp_path / "models" / "m30-q4_0.gguf") as mixed, GgufFile.open(pure) as file:
        assert mixed.tensors["token_embd.weight"].kind == "Q8_0"
        assert file.tensors["token_embd.weight"].kind == "Q4_0"
        for name in mixed.tensors.keys() - {"token_embd.weight"}:
            assert bytes(mixed.tensors[name].data) == bytes(file.tensors[name].data)
        read = sum(len(tensor.data) for tensor in file.tensors.values())
    assert models.weight_bytes(pure) == read
    for path in (tmp_path / "models" / "m30").iterdir():
        path.unlink()
    (tmp_path / "models" / "m30").rmdir()
    assert (models.folder("m30") / "model.safetensors").read_bytes() == kept


def test_bar_is_against_the_best_peer_unless_the_line_names_one():
    result = Result({"cadran": (300.0, 310.0), "llama.cpp": (100.0, 100.0), "openvino": (120.0, 125.0)})
    assert engine.best_peer(result, DECODE) == "openvino"
    assert engine.best_peer(result, engine.LINES["deep-8"]) == "llama.cpp"
    assert engine.best_peer(Result({"cadran": (1.0,)}), DECODE) == "cadran"


def test_bars_say_the_ratio_and_the_share_of_the_bandwidth():
    result = Result({"cadran": (240.0,), "llama.cpp": (100.0,)})
    ratio, share = engine.bars_of(DECODE, result, "llama.cpp", 10**8, [3.0e10, 3.0e10])
    assert (ratio["figure"], ratio["met"]) == (2.4, True)
    assert (share["figure"], share["met"]) == (pytest.approx(0.8), False)
    assert engine.bars_of(DECODE, Result({"llama.cpp": (1.0,)}), "llama.cpp", 1, []) == []


def test_a_peer_that_fails_is_named_and_left_out(monkeypatch):
    class Side:
        closed = 0

        def __init__(self, name):
            self.name = name

        def ask(self, request):
            if self.name == "openvino":
                raise WorkerFailed("openvino: no such processor")
            return 100.0 if request.startswith("decode") else 1e10

        def close(self):
            Side.closed += 1

    monkeypatch.setattr(engine, "start", lambda side, line, threads: Side(side))
    monkeypatch.setattr(engine, "gguf", lambda name, kind: None)
    monkeypatch.setattr(engine, "weight_bytes", lambda path: 10**8)
    console = Console(record=True, width=200)
    found = engine.measure_line(DECODE, ["cadran", "llama.cpp", "openvino"], 2, 1, console)
    assert list(found["figures"]) == ["cadran", "llama.cpp"]
    assert Side.closed == 3
    assert "left out: openvino: no such processor" in console.export_text()


class Scripted:
    """A server whose answers are one token too short for prompts that begin with ``short``, by a clock of its own."""

    def __init__(self, short=None):
        self.short, self.now = short, 0.0

    async def stream(self, prompt, tokens):
        yield "", 1
        await asyncio.sleep(0)  # until the others have begun, too
        self.now += 1
        for _ in range(tokens - 1 - (prompt[0] == self.short)):
            yield "x", 1

    def close(self):
        pass


def test_time_to_first_text_does_not_count_an_empty_piece(monkeypatch):
    server = Scripted()
    monkeypatch.setattr(serving, "time", SimpleNamespace(perf_counter=lambda: server.now))
    turn = asyncio.run(serving.all_clients(server, [[1], [2]], 5))
    assert (turn.first_median, turn.first_worst, turn.tokens_per_second) == (1.5, 2.0, 5.0)


def test_an_answer_of_another_length_is_no_figure():
    with pytest.raises(WorkerFailed, match="1 answers of 2 were not 5 tokens long but 4"):
        asyncio.run(serving.all_clients(Scripted(short=2), [[1], [2]], 5))


def llama_server(port):
    server = object.__new__(LlamaServer)
    server.port = port
    return server


@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request"])
def test_stream_of_llama_server_is_read_piece_by_piece(status):
    async def answer(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"POST /completion ")
        events = ['{"content":"a","stop":false}', '{"content":"","stop":true,"tokens_predicted":7}']
        body = "".join(f"data: {event}\n\n" for event in events)
        writer.write(f"HTTP/1.1 {status}\r\nContent-Type: text/event-stream\r\n\r\n{body}".encode())
        await writer.drain()
        writer.close()

    async def read():
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            return [piece async for piece in llama_server(port).stream([1, 2], 7)]

    if status.startswith("200"):
        assert asyncio.run(read()) == [("a", 0), ("", 7)]
    else:
        with pytest.raises(WorkerFailed, match="400 Bad Request"):
            asyncio.run(read())


def test_random_weights_are_near_the_spread():
    shape = models.Shape("t", 1, 64, 1, 1, 64, 300)
    weights = dict(models._weights(shape, np.random.default_rng(1)))
    assert weights["model.norm.weight"].tolist() == [1.0] * 64
    assert np.std(weights["model.embed_tokens.weight"]) == pytest.approx(0.02, rel=0.05)
