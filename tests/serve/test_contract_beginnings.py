"""The beginning of a text (BOS) stands where it should exactly once, and a second turn reads only what is new.

Source: api-contracts 12.8 and 12.14.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from contract_families import bound
from live import LiveServer
from tiny import tiny_model, tiny_tokenizer

BOS = "<s>"
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WRITES = {"in the template": True, "not in the template": False}
ADDS = {"added by the tokenizer": True, "added by nobody": False}


def with_beginning(folder: Path, writes: bool, adds: bool) -> Path:
    """A tiny model with a beginning of a text of its own.

    Args:
        folder: need not exist.
        writes: whether the chat template writes it.
        adds: whether the tokenizer is said to add it.
    """
    tiny_model(folder)
    words = folder / "tokenizer.json"  # with another name among its special tokens it is not one of ours
    words.write_text(words.read_text().replace("<|pad|>", BOS))
    file = folder / "tokenizer_config.json"
    said = json.loads(file.read_text())
    said |= {
        "bos_token": BOS,
        "pad_token": BOS,
        "add_bos_token": adds,
        "chat_template": ("{{ bos_token }}" if writes else "") + TEMPLATE,
    }
    file.write_text(json.dumps(said))
    return folder


@pytest.fixture(scope="module")
def beginnings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A model for each case, named after it."""
    root = tmp_path_factory.mktemp("beginnings")
    cases = itertools.product((True, False), (True, False))
    live = LiveServer(
        models=[str(with_beginning(root / f"{writes}-{adds}", writes, adds)) for writes, adds in cases],
        memory=None,
    )
    yield live
    live.close()


def read(live: LiveServer, path: str, model: str, **body: Any) -> list[int]:
    """The ids of the prompt as the engine was given them."""
    seen: list[list[int]] = []
    httpx.post(f"{live.url}/models/load", json={"model": model}).raise_for_status()
    engine = next(s.engine for s in live.call(lambda: live.service.shelf.served) if s.known.name == model)
    stream = engine.stream

    def watched(prompt: Any, *arguments: Any, **options: Any) -> Any:
        seen.append(list(prompt))
        return stream(prompt, *arguments, **options)

    engine.stream = watched
    try:
        httpx.post(live.url + path, json={"model": model, "max_tokens": 1, **body}, timeout=60).raise_for_status()
    finally:
        del engine.stream
    (ids,) = seen
    return ids


TURN = [{"role": "user", "content": "In summer"}]
CHAT: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": TURN}),
    ("/v1/responses", {"input": "In summer"}),
    ("/v1/messages", {"messages": TURN}),
    ("/api/chat", {"messages": TURN}),
    ("/api/generate", {"prompt": "In summer"}),
]
PLAIN: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "In summer"}),
    ("/v1/completions", {"prompt": f"{BOS}In summer"}),
    ("/api/generate", {"prompt": "In summer", "raw": True}),
    ("/api/generate", {"prompt": f"{BOS}In summer", "raw": True}),
    ("/completion", {"prompt": "In summer"}),
    ("/completion", {"prompt": f"{BOS}In summer"}),
    ("/completion", {"prompt": [f"{BOS}In", 40, " summer"]}),
    ("/completion", {"prompt": ["In", 40, " summer"]}),
    ("/v1/completions", {"prompt": "def add", "suffix": "):"}),
    ("/v1/fim/completions", {"prompt": "def add", "suffix": "):"}),
    ("/infill", {"input_prefix": "def add", "input_suffix": "):"}),
    ("/api/generate", {"prompt": "def add", "suffix": "):"}),
]


@pytest.mark.parametrize("adds", ADDS.values(), ids=ADDS)
@pytest.mark.parametrize("writes", WRITES.values(), ids=WRITES)
def test_a_text_begins_once(beginnings: LiveServer, writes: bool, adds: bool) -> None:
    bos = tiny_tokenizer().pad
    model = f"{writes}-{adds}"
    for path, body in CHAT:  # as the model was taught: what its template writes, whatever is said of plain texts
        ids = read(beginnings, path, model, **body)
        assert ids.count(bos) == (1 if writes else 0) and (ids[0] == bos) == writes, (path, body)
    for path, body in PLAIN:
        ids = read(beginnings, path, model, **body)
        written = BOS in json.dumps(body)
        assert ids.count(bos) == (1 if adds or written else 0), (path, body)
        assert bos not in ids or ids[0] == bos, (path, body)


def test_a_conversation_goes_on_behind_its_one_beginning(beginnings: LiveServer) -> None:
    """Of Ollama's ``context``: ids of the first turn, the second turn behind them."""
    bos = tiny_tokenizer().pad
    asked = {"model": "True-True", "prompt": "In summer", "stream": False, "options": {"num_predict": 2}}
    first = httpx.post(f"{beginnings.url}/api/generate", json=asked).raise_for_status().json()
    assert first["context"].count(bos) == 1
    ids = read(beginnings, "/api/generate", "True-True", prompt="and then?", context=first["context"])
    assert ids[: len(first["context"])] == first["context"] and ids.count(bos) == 1


ANSWER = "zqxzqjzqkzvzqwzqxzqjzqkzvzqwzqxzqjzqkzvzqw"
"""Has one tokenisation alone: no two of its characters are a token."""


def test_the_answer_of_the_tests_has_one_tokenisation() -> None:
    assert len(tiny_tokenizer().encode(ANSWER)) == len(ANSWER)


BLOCK = 32
"""Positions that are kept together; less than one of them may be read again."""


@pytest.fixture(scope="module")
def saying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """Says ``ANSWER`` always."""
    folder = tiny_model(tmp_path_factory.mktemp("turns") / "tiny", context=4096)
    live = LiveServer(bound(grammar={"choice": [ANSWER]}), models=[str(folder)])
    yield live
    live.close()


def usage(live: LiveServer, messages: list[Any], **more: Any) -> tuple[int, int, int, Any]:
    """Tokens of the prompt, of those remembered, of the answer; and the answer."""
    asked = {"model": "tiny", "messages": messages, "max_tokens": 300, **more}
    told = httpx.post(f"{live.url}/v1/chat/completions", json=asked, timeout=60).raise_for_status().json()
    used = told["usage"]
    cached = used["prompt_tokens_details"]["cached_tokens"]
    return used["prompt_tokens"], cached, used["completion_tokens"], told["choices"][0]["message"]


def test_the_second_turn_reads_only_what_is_new(saying: LiveServer) -> None:
    turns: list[Any] = [{"role": "system", "content": "Be brief. " * 20}, {"role": "user", "content": "Why?"}]
    total = 0
    for number in range(4):
        prompt, cached, written, message = usage(saying, turns)
        assert message["content"] == ANSWER
        assert total - BLOCK <= cached <= prompt, (number, total, cached)
        total = prompt + written
        turns += [message, {"role": "user", "content": f"And {number}?"}]
    assert total > 300


CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "unit": "\u20ac"}}\n</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}]


def test_the_turn_after_a_call_reads_only_its_result(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "tiny", context=4096)
    live = LiveServer(bound(grammar={"choice": [CALL]}), models=[str(folder)])
    try:
        turns: list[Any] = [{"role": "user", "content": "Why?"}]
        total = 0
        for number in range(3):
            prompt, cached, written, message = usage(live, turns, tools=TOOLS)
            (call,) = message["tool_calls"]
            assert json.loads(call["function"]["arguments"]) == {"a": 1, "unit": "\u20ac"}
            assert total - BLOCK <= cached <= prompt, (number, total, cached)
            total = prompt + written
            turns += [message, {"role": "tool", "tool_call_id": call["id"], "content": f"{number}"}]
        assert total > 500
    finally:
        live.close()


FORGETS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content and loop.last %}<think>\n"
    "{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_the_turn_after_a_thought_that_is_taken_out_reads_no_question_again(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "tiny", context=4096)
    (folder / "chat_template.jinja").write_text(FORGETS)
    live = LiveServer(bound(grammar={"choice": [f"<think>\n{ANSWER}\n</think>\n\n{ANSWER}"]}), models=[str(folder)])
    try:
        turns: list[Any] = [{"role": "user", "content": "Why? " * 20}]
        before = 0
        for number in range(3):
            prompt, cached, _, message = usage(live, turns)
            assert (message["content"], message["reasoning_content"]) == (ANSWER, ANSWER)
            assert before - BLOCK <= cached < prompt, (number, before, cached)
            before = prompt
            turns += [message, {"role": "user", "content": f"And {number}?"}]
    finally:
        live.close()


def test_the_families_remember_for_each_other(saying: LiveServer) -> None:
    said = "A question that nobody asked before. " * 8
    read = {}
    for path, body in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": said}]}),
        ("/v1/responses", {"input": said}),
        ("/v1/messages", {"messages": [{"role": "user", "content": said}]}),
    ):
        told = httpx.post(saying.url + path, json={"model": "tiny", "max_tokens": 2, **body}).json()["usage"]
        match path:
            case "/v1/chat/completions":
                read[path] = told["prompt_tokens"], told["prompt_tokens_details"]["cached_tokens"]
            case "/v1/responses":
                read[path] = told["input_tokens"], told["input_tokens_details"]["cached_tokens"]
            case _:
                cached = told["cache_read_input_tokens"]
                read[path] = told["input_tokens"] + cached, cached
    (whole, first), *others = read.values()
    assert first < whole / 2
    assert all(count == whole and whole - BLOCK <= cached <= whole for count, cached in others), read
