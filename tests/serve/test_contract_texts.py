"""Texts that have broken clients and servers, through every family, whole and streamed (api-contracts 0 and 12.2-3).

A way that cuts characters, swallows what was held back or ends with another's word fails here by its name.
"""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from contract_families import MESSAGES, QUESTION, SUFFIX, WAYS, Way, bound
from live import LiveServer
from tiny import tiny_model, tiny_tokenizer

from cadran.serve.replicate.output import streamable

TEXT = "é 😀 \u2028漢\u2029 🌊 ü\x85 e\u0301\x0b\x0c\x1c\x1d\x1e 👩‍👩‍👧 \r\n fin ST"
"""Several of its characters are three or four tokens; it ends with what may be the beginning of ``STOP``."""
RIVER = "the river is calm today, abcx abcd ST"
BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
EVERY = pytest.mark.parametrize("way", WAYS, ids=[way.name for way in WAYS])
STOPPING = pytest.mark.parametrize("way", [way for way in WAYS if way.stops], ids=lambda way: way.name)


@pytest.fixture(scope="module")
def unicode(tiny: Path) -> Iterator[LiveServer]:
    live = LiveServer(bound(grammar={"choice": [TEXT]}), models=[str(tiny)])
    yield live
    live.close()


@pytest.fixture(scope="module")
def river(tiny: Path) -> Iterator[LiveServer]:
    live = LiveServer(bound(grammar={"choice": [RIVER]}), models=[str(tiny)])
    yield live
    live.close()


@pytest.fixture(scope="module")
def broken(tiny: Path) -> Iterator[LiveServer]:
    """Says nothing but the first byte of a character of three."""
    tokenizer = tiny_tokenizer()
    lead = next(id for id in range(tokenizer.vocabulary_size) if tokenizer.token_bytes(id) == b"\xe6")
    live = LiveServer(bound(logit_bias=((lead, 100.0),)), models=[str(tiny)])
    yield live
    live.close()


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Its context ends before its answer does."""
    folder = tiny_model(tmp_path_factory.mktemp("narrow") / "tiny", context=128)
    live = LiveServer(bound(grammar={"regex": "z{500}"}), models=[str(folder)])
    yield live
    live.close()


def received(way: Way, stream: bool, text: str) -> str:
    """A text as it arrives: the client of replicate cuts streams at other line ends than ``\\n``."""
    return streamable(text) if stream and way.name == "predictions" else text


@BOTH
@EVERY
def test_every_character_arrives(unicode: LiveServer, way: Way, stream: bool) -> None:
    said = way.ask(unicode.url, stream, 200, ("STOP",) if way.stops else ())
    assert said.text == received(way, stream, TEXT)
    assert said.finish == way.finishes[0]


@BOTH
@EVERY
def test_bytes_that_are_no_text_become_replacements(broken: LiveServer, way: Way, stream: bool) -> None:
    said = way.ask(broken.url, stream, 3, ())
    assert (said.text, said.finish, said.written) == ("\ufffd\ufffd\ufffd", way.finishes[2], 3)


@BOTH
@STOPPING
@pytest.mark.parametrize(
    ("stops", "left", "found"),
    [
        (("lm tod",), "the river is ca", "lm tod"),
        (("abcy", "abcd"), "the river is calm today, abcx ", "abcd"),
        (("the",), "", "the"),
    ],
)
def test_a_stop_string_ends_the_text_before_it(
    river: LiveServer, way: Way, stream: bool, stops: tuple[str, ...], left: str, found: str
) -> None:
    said = way.ask(river.url, stream, 100, stops)
    assert (said.text, said.finish) == (left, way.finishes[1])
    if way.name in ("messages", "infill", "completion"):
        assert said.stop == found


@BOTH
@STOPPING
def test_what_was_held_back_comes_out_at_the_end(river: LiveServer, way: Way, stream: bool) -> None:
    said = way.ask(river.url, stream, 100, ("STOP", "today, abd"))
    assert (said.text, said.finish, said.stop) == (RIVER, way.finishes[0], None)


@BOTH
@EVERY
def test_the_limit_and_the_full_context_have_their_words(narrow: LiveServer, way: Way, stream: bool) -> None:
    cut = way.ask(narrow.url, stream, 5, ())
    assert (cut.text, cut.finish, cut.written) == ("zzzzz", way.finishes[2], 5)
    full = way.ask(narrow.url, stream, 400, ())
    assert full.finish == way.finishes[3]
    assert full.written is not None and full.read is not None
    assert set(full.text) == {"z"} and full.written == len(full.text) and full.read + full.written in (127, 128)


@BOTH
def test_tokens_are_counted_alike_everywhere(river: LiveServer, stream: bool) -> None:
    asked = {"model": "tiny", "messages": MESSAGES}
    counted = httpx.post(f"{river.url}/tokenize", json=asked).raise_for_status().json()["count"]
    plain = httpx.post(f"{river.url}/tokenize", json={"model": "tiny", "prompt": QUESTION}).json()["count"]
    told = httpx.post(f"{river.url}/v1/messages/count_tokens", json=asked).raise_for_status().json()
    assert told == {"input_tokens": counted}
    for way in WAYS:
        said = way.ask(river.url, stream, 7, ())
        assert said.written == 7, way.name
        if way.name not in ("fim", "infill"):
            assert said.read == (counted if way.chats else plain), way.name


STREAMS = {
    "/v1/chat/completions": {"messages": MESSAGES, "n": 2, "logprobs": True, "top_logprobs": 2},
    "/v1/completions": {"prompt": QUESTION, "logprobs": 2, "echo": True},
    "/v1/responses": {"input": QUESTION, "include": ["message.output_text.logprobs"]},
    "/v1/messages": {"messages": MESSAGES},
    "/api/chat": {"messages": MESSAGES, "logprobs": True},
    "/api/generate": {"prompt": QUESTION},
    "/v1/fim/completions": {"prompt": QUESTION, "suffix": SUFFIX},
    "/infill": {"input_prefix": QUESTION, "input_suffix": SUFFIX},
    "/completion": {"prompt": QUESTION, "n_probs": 2},
}


@pytest.mark.parametrize("path", [*STREAMS, "/v1/models/cadran/tiny/predictions"])
def test_what_goes_over_the_wire_is_ascii_in_whole_records(unicode: LiveServer, path: str) -> None:
    with httpx.Client(base_url=unicode.url, timeout=60) as http:
        if path in STREAMS:
            whole = http.post(path, json={"model": "tiny", **STREAMS[path]})
            streamed = http.post(path, json={"model": "tiny", **STREAMS[path], "stream": True})
        else:
            asked = {"input": {"prompt": QUESTION}}
            whole = http.post(path, json=asked, headers={"prefer": "wait"})
            streamed = http.get(http.post(path, json={**asked, "stream": True}).json()["urls"]["stream"])
    assert whole.headers["content-type"] in ("application/json", "application/x-ndjson")
    assert whole.is_success and whole.content.isascii() and int(whole.headers.get("content-length", 1))
    told = streamed.headers
    assert streamed.status_code == 200 and told["cache-control"] == "no-cache" and told["x-accel-buffering"] == "no"
    if path.startswith("/v1/models"):
        assert not set("\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r") & set(streamed.text)
    else:
        assert streamed.content.isascii() and not set(b"\x0b\x0c\x1c\x1d\x1e\r") & set(streamed.content)
    if path.startswith("/api"):
        assert told["content-type"] == "application/x-ndjson"
        assert b"\n\n" not in streamed.content and streamed.content.endswith(b"}\n")
    else:
        assert told["content-type"] == "text/event-stream"
        assert b"\n\n\n" not in streamed.content and streamed.content.endswith(b"\n\n")
