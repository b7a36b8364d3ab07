"""What requests may hold, what is left out of them, and what a model answers that cannot do something.

Source: api-contracts 0 to 2, 7 and 8.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from contract_families import MESSAGES, QUESTION, SUFFIX, WAYS, bound, openai_of
from live import LiveServer, reserved_port
from tiny import tiny_model, tiny_tokenizer

from cadran.engine.grammar import GrammarCompiler
from cadran.serve.answering import PING_SECONDS
from cadran.serve.openai.chat_request import ChatRequest
from cadran.serve.settings import ServeSettings

VENDOR: dict[str, Any] = {
    "vendor_field": {"deep": [1, None]}, "prompt_cache_key": "k", "safety_identifier": "s", "x-y": "é", "user": "u",
    "prompt_cache_retention": "24h", "prompt_cache_options": {"a": 1}, "moderation": {"a": 1}, "store": False,
    "metadata": {"a": "b"}, "service_tier": "auto", "container": "c", "cache_control": {"type": "ephemeral"},
}  # fmt: skip
"""Fields that no server of this machine has to know."""

BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 2, "verbosity": "low"},
    "/v1/completions": {"prompt": QUESTION, "max_tokens": 2},
    "/v1/responses": {"input": QUESTION, "max_output_tokens": 2},
    "/v1/responses/input_tokens": {"input": QUESTION},
    "/v1/embeddings": {"input": QUESTION},
    "/v1/rerank": {"query": "a", "documents": ["b"]},
    "/v1/decisions": {"input": "a", "questions": [{"type": "predicate", "instructions": "b", "vendor": 1}]},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 2},
    "/v1/messages/count_tokens": {"messages": MESSAGES},
    "/v1/models/cadran/tiny/predictions": {"input": {"prompt": QUESTION, "max_tokens": 2, "vendor": 1}},
    "/api/chat": {"messages": MESSAGES, "options": {"num_predict": 2, "num_thread": 3, "vendor": 1}},
    "/api/generate": {"prompt": QUESTION, "options": {"num_predict": 2, "use_mmap": True, "num_batch": 7}},
    "/api/embed": {"input": QUESTION},
    "/api/embeddings": {"prompt": QUESTION},
    "/api/show": {},
    "/infill": {"input_prefix": QUESTION, "n_predict": 2},
    "/completion": {"prompt": QUESTION, "n_predict": 2},
    "/v1/fim/completions": {"prompt": QUESTION, "max_tokens": 2},
    "/tokenize": {"content": QUESTION},
    "/detokenize": {"tokens": [40]},
    "/apply-template": {"messages": MESSAGES},
}


@pytest.mark.parametrize("path", BODIES)
def test_fields_that_nobody_knows_are_passed_over(server: LiveServer, path: str) -> None:
    plain = httpx.post(server.url + path, json={"model": "tiny", **BODIES[path]})
    answer = httpx.post(server.url + path, json={"model": "tiny", **BODIES[path], **VENDOR})
    assert plain.is_success and answer.status_code == plain.status_code, answer.text
    if answer.headers["content-type"] == "application/json":
        # Responses repeat what they were asked with; nothing else may be there or gone.
        assert answer.json().keys() == plain.json().keys()


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = ServeSettings()
    assert PING_SECONDS == 15
    assert (settings.queue, settings.body_limit, settings.grace, settings.stored_responses) == (512, 64 << 20, 30, 1000)
    assert (settings.host, settings.slots, settings.metrics_compat, settings.origins) == ("127.0.0.1", False, False, [])


def asked(**body: Any) -> Any:
    return ChatRequest.model_validate({"messages": MESSAGES, **body}).asked()


def test_messages_of_every_kind_are_read() -> None:
    turns: list[dict[str, Any]] = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
        {"role": "user", "content": "Add", "name": "anna", "vendor": 1},
        {
            "role": "assistant", "content": None, "reasoning": "hm", "refusal": None, "annotations": [],
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "2"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}], "reasoning_content": "ha"},
        {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": ""}},
        {"role": "function", "name": "add", "content": "3"},
    ]  # fmt: skip
    told = asked(messages=turns).messages
    assert [turn["role"] for turn in told] == ["system", "user", "assistant", "tool", "assistant", "assistant", "tool"]
    assert [turn["content"] for turn in told] == ["Be brief.", "Add", "", "2", "No.", "", "3"]
    assert told[2]["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1}}
    assert told[5]["tool_calls"][0]["function"] == {"name": "add", "arguments": {}}
    assert (told[2]["reasoning_content"], told[4]["reasoning_content"]) == ("hm", "ha")
    assert told[3]["tool_call_id"] == "c1"


def test_names_of_one_thing_have_their_order() -> None:
    assert asked(max_completion_tokens=7, max_tokens=9).max_tokens == 7
    assert asked(max_tokens=9).max_tokens == 9 and asked().max_tokens is None
    assert asked(stop=["a", "b", "c", "d", "e", "f"]).stop == ("a", "b", "c", "d", "e", "f")
    assert asked(stop="a").stop == ("a",)
    schema = {"type": "object", "properties": {}}
    form = {"type": "json_schema", "json_schema": {"name": "n", "description": "d", "schema": schema, "strict": "true"}}
    assert asked(response_format=form).grammar == {"json_schema": schema}
    assert asked(response_format={"type": "json_object"}).grammar == {"json_object": True}
    assert asked(tools=[{"type": "function", "function": {"name": "now"}}]).tools[0].parameters["properties"] == {}
    for name, given, grammar in (
        ("guided_json", schema, {"json_schema": schema}),
        ("guided_regex", "a+", {"regex": "a+"}),
        ("guided_choice", ["a"], {"choice": ["a"]}),
        ("guided_grammar", "root ::= x", {"ebnf": "root ::= x"}),
        ("grammar", "root ::= x", {"ebnf": "root ::= x"}),
        ("structured_outputs", {"json": schema}, {"json_schema": schema}),
        ("structured_outputs", {"regex": "a+"}, {"regex": "a+"}),
        ("structured_outputs", {"grammar": "g"}, {"ebnf": "g"}),
    ):
        assert asked(**{name: given}).grammar == grammar


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
        {"type": "file", "file": {"file_data": "AA=="}},
    ],
)
def test_what_is_no_text_is_refused_by_its_kind_in_every_family(server: LiveServer, part: dict[str, Any]) -> None:
    turn = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, part]}]
    with pytest.raises(openai.BadRequestError, match=part["type"]) as refused:
        openai_of(server.url).chat.completions.create(model="tiny", messages=turn)  # type: ignore[arg-type]
    assert refused.value.param == "messages.0.content"
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
    others = {
        "/v1/messages": {"messages": [{"role": "user", "content": [image]}], "max_tokens": 2},
        "/v1/responses": {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        "/api/chat": {"messages": [{"role": "user", "content": "a", "images": ["AA=="]}]},
        "/api/generate": {"prompt": "a", "images": ["AA=="]},
    }
    for path, body in others.items():
        assert httpx.post(server.url + path, json={"model": "tiny", **body}).status_code == 400, path


def test_log_probabilities_are_the_models_own_whatever_was_drawn_with(server: LiveServer) -> None:
    client = openai_of(server.url)
    drawn: Any = client.completions.create(
        model="tiny", prompt=QUESTION, temperature=1.7, top_p=0.8, seed=4, logprobs=0, max_tokens=12,
        presence_penalty=1.5, logit_bias={"40": 5},
        extra_body={"return_token_ids": True, "top_k": 9, "ignore_eos": True},
    ).choices[0]  # fmt: skip
    ids = drawn.prompt_token_ids + drawn.token_ids
    scored: Any = client.completions.create(model="tiny", prompt=ids, echo=True, logprobs=0, max_tokens=0).choices[0]
    wanted = scored.logprobs.token_logprobs[len(drawn.prompt_token_ids) :]
    assert drawn.logprobs.token_logprobs == pytest.approx(wanted, abs=0.02)
    assert len(wanted) == 12


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A model of 128 tokens that was never taught to fill in, and which says ``z`` for ever."""
    folder = tiny_model(tmp_path_factory.mktemp("plain") / "tiny", context=128)
    words = folder / "tokenizer.json"
    words.write_text(words.read_text().replace("<|fim_", "<|gap_"))
    live = LiveServer(bound(grammar={"regex": "z{500}"}), models=[str(folder)])
    yield live
    live.close()


def test_without_a_limit_the_rest_of_the_context_is_filled(plain: LiveServer) -> None:
    for path, body in (
        ("/v1/chat/completions", {"messages": MESSAGES}),
        ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": -1}),
        ("/v1/completions", {"prompt": QUESTION, "max_tokens": -1}),
    ):
        answer = httpx.post(plain.url + path, json={"model": "tiny", **body}).raise_for_status().json()
        assert answer["usage"]["total_tokens"] in (127, 128), path
        assert answer["choices"][0]["finish_reason"] == "length"
    told = httpx.post(f"{plain.url}/api/chat", json={"messages": MESSAGES, "stream": False}).json()
    assert told["eval_count"] + told["prompt_eval_count"] in (127, 128) and told["done_reason"] == "length"


def test_a_model_that_cannot_fill_in_says_so_everywhere(plain: LiveServer) -> None:
    for path, body in (
        ("/v1/completions", {"prompt": "a", "suffix": "b"}),
        ("/v1/fim/completions", {"prompt": "a", "suffix": "b"}),
        ("/infill", {"input_prefix": "a", "input_suffix": "b"}),
        ("/api/generate", {"prompt": "a", "suffix": "b"}),
    ):
        for stream in (False, True):
            answer = httpx.post(plain.url + path, json={"model": "tiny", **body, "stream": stream})
            assert answer.status_code == 400 and "not taught to fill in" in answer.text, path
    shown = httpx.post(f"{plain.url}/api/show", json={"name": "tiny"}).raise_for_status().json()
    assert ".Suffix" not in shown["template"] and "insert" not in shown["capabilities"]


def test_a_gap_ends_at_every_mark(tiny: Path) -> None:
    """A model that goes on with a mark of its own has filled the gap."""
    for mark in ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|endoftext|>"):
        (id,) = tiny_tokenizer().encode(mark, special=True)
        live = LiveServer(bound(logit_bias=((id, 100.0),)), models=[str(tiny)])
        try:
            ends: dict[str, tuple[str, Any]] = {}
            for way in WAYS:
                if way.name in ("fim", "infill"):
                    said = way.ask(live.url, True, 9, ())
                    ends[way.name] = said.text, said.finish
            asked = {"model": "tiny", "prompt": "a", "suffix": SUFFIX}
            told = httpx.post(f"{live.url}/v1/completions", json=asked).raise_for_status().json()["choices"][0]
            ends["completions"] = told["text"], told["finish_reason"]
            told = httpx.post(f"{live.url}/api/generate", json={**asked, "stream": False}).raise_for_status().json()
            ends["generate"] = told["response"], told["done_reason"]
        finally:
            live.close()
        assert ends == {
            "fim": ("", "stop"),
            "infill": ("", "eos"),
            "completions": ("", "stop"),
            "generate": ("", "stop"),
        }


def test_a_schema_is_compiled_once(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    compile = GrammarCompiler._made
    monkeypatch.setattr(
        GrammarCompiler,
        "_made",
        lambda self, key, kind, translate: made.append(kind) or compile(self, key, kind, translate),
    )
    schema = {
        "type": "object", "properties": {"repeated": {"enum": ["a", "b"]}}, "required": ["repeated"],
        "additionalProperties": False,
    }  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    for _ in range(3):
        answer: Any = openai_of(server.url).chat.completions.create(
            model="tiny", messages=MESSAGES, response_format=form, max_tokens=40  # type: ignore[arg-type]
        )  # fmt: skip
        assert json.loads(answer.choices[0].message.content)["repeated"] in ("a", "b")
        httpx.post(
            f"{server.url}/api/chat", json={"model": "tiny", "messages": MESSAGES, "format": schema}
        ).raise_for_status()
    assert len(made) == 1


def test_ollama_is_found_at_its_own_port_too(tiny: Path) -> None:
    with reserved_port() as port:
        live = LiveServer(models=[str(tiny)], ollama_port=port)
        try:
            for url in (live.url, f"http://127.0.0.1:{port}"):
                assert httpx.get(url, headers={"accept": "*/*"}).text == "Ollama is running"
                assert httpx.get(f"{url}/v1/models").json()["data"][0]["id"] == "tiny"
        finally:
            live.close()
