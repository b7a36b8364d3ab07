"""From requests to what they mean and from events to bytes, without a server."""

import json
from collections.abc import Iterable
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from tiny import tiny_tokenizer

from cadran.engine.request import Scored
from cadran.engine.sampler import SamplingParams
from cadran.serve.answering import Translator
from cadran.serve.api_error import ApiError
from cadran.serve.asked import GenerateRequest
from cadran.serve.collected import Answer, Call, Collected
from cadran.serve.events import (
    Admitted,
    CallArguments,
    CallBegan,
    CallEnded,
    Event,
    Failed,
    Finished,
    Prefilled,
    Reasoned,
    Spoke,
    Used,
)
from cadran.serve.openai.chat_answer import ChatHead, ChatStream, chat_body
from cadran.serve.openai.chat_request import ChatRequest
from cadran.serve.openai.completion_answer import CompletionHead, CompletionStream, Prompt
from cadran.serve.openai.completion_request import CompletionRequest
from cadran.serve.openai.embeddings import EmbeddingRequest
from cadran.serve.openai.logprobs import TextLogprobs
from cadran.serve.openai.rerank import RerankRequest
from cadran.serve.openai.tokenization import TokenizeRequest
from cadran.tokenizer.tokenizer import Tokenizer

TOKENIZER = tiny_tokenizer()
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**31, 2**63, 2**64, -(2**63), 10**40, -1]),
    st.floats(),
    st.sampled_from(["", "auto", "none", "required", "text", "json_object", "json_schema", "content", "\ud800", "é"]),
    st.text(max_size=5),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)
ROLES = st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"])
FUNCTION = st.fixed_dictionaries({"name": st.text(max_size=3) | JSON}, optional={"parameters": JSON, "arguments": JSON})
CALL = st.fixed_dictionaries({"function": FUNCTION | JSON}, optional={"id": JSON, "type": JSON})
MESSAGE = st.fixed_dictionaries(
    {"role": ROLES, "content": st.text(max_size=4) | JSON},
    optional={
        "tool_calls": st.lists(CALL, max_size=2) | JSON,
        "name": JSON,
        "function_call": FUNCTION,
        "reasoning": JSON,
    },
)


def bodies(model: type[BaseModel], **likely: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Bodies with some of the fields, most of them absent: of any value, or of one that may pass."""
    names = [field.alias or name for name, field in model.model_fields.items()]
    extra = ["echo", "best_of", "use_beam_search", "tfs_z", "truncate_prompt_tokens", "logits_processors"]
    some = st.dictionaries(st.sampled_from([*names, *extra]), JSON, max_size=4)
    return st.builds(lambda one, other: {**other, **one}, some, st.fixed_dictionaries({}, optional=likely))


CHAT = bodies(
    ChatRequest,
    messages=st.lists(MESSAGE, min_size=1, max_size=3),
    tools=st.lists(st.fixed_dictionaries({"type": st.just("function"), "function": FUNCTION}), max_size=2),
    response_format=st.fixed_dictionaries({"type": SCALARS}, optional={"json_schema": JSON, "schema": JSON}),
    tool_choice=st.fixed_dictionaries({}, optional={"function": FUNCTION, "type": SCALARS, "allowed_tools": JSON}),
    prediction=st.fixed_dictionaries({"content": JSON}),
    logit_bias=st.dictionaries(st.text("0123456789² x", max_size=12), st.floats(-120, 120), max_size=3),
)
COMPLETION = bodies(
    CompletionRequest,
    prompt=st.text(max_size=4) | st.lists(st.text(max_size=4)) | st.lists(st.integers(-1, 2**32)) | st.just([[1], []]),
    suffix=st.text(max_size=3),
    max_tokens=st.integers(-2, 5),
    logprobs=st.integers(-1, 22),
)


def meaning(model: type[BaseModel], body: dict[str, Any]) -> Any:
    """What a body means; None when it is refused as a request may be."""
    try:
        return model.model_validate(body).asked()  # type: ignore[attr-defined]
    except (ValidationError, ApiError):
        return None


def complete(request: GenerateRequest) -> bool:
    """Whether the sampler takes what was translated: every range was checked before."""
    SamplingParams(**{**request.sampling, "max_tokens": 1})
    return request.answers >= 1 and 0 <= request.top <= 64 and (request.max_tokens is None or request.max_tokens >= 1)


@settings(max_examples=250, deadline=None)
@given(CHAT)
def test_any_chat_body_is_a_request_or_a_refusal(body: dict[str, Any]) -> None:
    request = meaning(ChatRequest, body)
    assert request is None or (complete(request) and request.messages)


@settings(max_examples=250, deadline=None)
@given(COMPLETION)
def test_any_completion_body_is_requests_or_a_refusal(body: dict[str, Any]) -> None:
    requests = meaning(CompletionRequest, body)
    assert requests is None or (requests and all(complete(request) for request in requests))


@settings(max_examples=100, deadline=None)
@given(bodies(EmbeddingRequest), bodies(RerankRequest), bodies(TokenizeRequest))
def test_the_other_bodies_are_too(embed: dict[str, Any], rank: dict[str, Any], tokenize: dict[str, Any]) -> None:
    for model, body in ((EmbeddingRequest, embed), (RerankRequest, rank)):
        asked = meaning(model, body)
        assert asked is None or len(asked) >= 1
    try:
        request = TokenizeRequest.model_validate(tokenize).conversation()
        assert request is None or request.messages
    except (ValidationError, ApiError):
        pass


def test_a_million_wrong_entries_make_a_handful_of_complaints() -> None:
    with pytest.raises(ValidationError) as refused:
        CompletionRequest.model_validate({"prompt": [{}] * 10**6, "stop": [0] * 10**6, "stop_token_ids": ["x"] * 10**6})
    assert refused.value.error_count() < 12


def head(**changed: Any) -> ChatHead:
    fields = {"id": "chatcmpl-1", "created": 1, "model": "m", "fingerprint": "fp_1", "top": None}
    return ChatHead(**{**fields, "tokenizer": TOKENIZER, **changed})


def told(translator: Translator, events: Iterable[Event]) -> list[dict[str, Any]]:
    """The chunks of a stream; its last line is checked to be the end where nothing failed."""
    raw = b"".join(piece for event in events for piece in translator.feed(event))
    assert raw.isascii()
    lines = [line.removeprefix("data: ") for line in raw.decode().split("\n\n") if line]
    if not any(isinstance(event, Failed) for event in events):
        assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


CALLS: list[Event] = [
    Admitted(3), Prefilled(0), Reasoned(0, "hm"), Spoke(0, "I "), CallBegan(0, 0, "a", "add"),
    CallArguments(0, 0, '{"a"'), CallArguments(0, 0, ": 1}"), CallEnded(0, 0), CallBegan(0, 1, "b", "now"),
    CallEnded(0, 1), Finished(0, "tools"), Used(3, 0, 9, 1),
]  # fmt: skip


def test_names_and_ids_of_calls_come_once_and_arguments_are_never_empty() -> None:
    chunks = told(ChatStream(head(), 1, usage=True), CALLS)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
    assert [call["id"] for call in calls if "id" in call] == ["call_a", "call_b"]
    assert [call["function"]["name"] for call in calls if "name" in call["function"]] == ["add", "now"]
    for index, arguments in ((0, '{"a": 1}'), (1, "{}")):
        assert "".join(call["function"]["arguments"] for call in calls if call["index"] == index) == arguments
    assert [delta["role"] for delta in deltas if "role" in delta] == ["assistant"]
    assert all(delta.get("content", "") is not None for delta in deltas)
    assert not any({"content", "reasoning_content"} <= set(delta) for delta in deltas)
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks if chunk["choices"]]
    assert reasons == [None] * (len(reasons) - 1) + ["tool_calls"]
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 1}
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


def test_a_whole_answer_of_calls_has_no_content() -> None:
    answer = Answer(calls=[Call("a", "add", '{"a": 1}', True), Call("b", "now")], reason="tools")
    body = chat_body(head(), Collected([answer], {}, Used(3, 0, 9)))
    message = body["choices"][0]["message"]
    assert message["content"] is None and body["choices"][0]["finish_reason"] == "tool_calls"
    assert [call["function"]["arguments"] for call in message["tool_calls"]] == ['{"a": 1}', "{}"]
    assert "tool_calls" not in chat_body(head(), Collected([Answer("a")], {}, Used()))["choices"][0]["message"]


def test_who_knows_functions_is_told_of_a_function_call() -> None:
    body = {"messages": [{"role": "user", "content": "a"}], "functions": [{"name": "add"}], "function_call": "auto"}
    request = ChatRequest.model_validate(body)
    assert request.legacy and not request.asked().parallel_tools and request.asked().tools[0].name == "add"
    answer = Answer(calls=[Call("a", "add", "{}", True)], reason="tools")
    choice = chat_body(head(legacy=True), Collected([answer], {}, Used()))["choices"][0]
    assert choice["message"]["function_call"] == {"name": "add", "arguments": "{}"}
    assert choice["finish_reason"] == "function_call" and "tool_calls" not in choice["message"]
    events = [CallBegan(0, 0, "a", "add"), CallArguments(0, 0, "{}"), CallEnded(0, 0), Finished(0, "tools"), Used()]
    deltas = [chunk["choices"][0]["delta"] for chunk in told(ChatStream(head(legacy=True), 1, usage=False), events)]
    assert [delta["function_call"] for delta in deltas[:2]] == [{"name": "add", "arguments": ""}, {"arguments": "{}"}]


def test_a_failure_in_a_stream_is_an_error_event() -> None:
    events: list[Event] = [Admitted(1), Spoke(0, "a"), Failed(ApiError("internal", "broken"))]
    for translator in (ChatStream(head(), 1, usage=False), CompletionStream(completion_head(), usage=False)):
        assert told(translator, events)[-1] == {
            "error": {"message": "broken", "type": "server_error", "param": None, "code": None}
        }


def completion_head(**changed: Any) -> CompletionHead:
    return CompletionHead(
        **{"id": "cmpl-1", "created": 1, "model": "m", "fingerprint": None, "tokenizer": TOKENIZER, **changed}
    )


def test_an_echo_comes_before_each_answer_of_its_own_prompt() -> None:
    prompts = [Prompt((1,), "one "), Prompt((2,), "two ")]
    events: list[Event] = [
        Admitted(2), Prefilled(0, (), 2), Spoke(3, "d"), Prefilled(0, (), 0), Spoke(0, "a"), Spoke(2, "c"),
        Spoke(1, "b"), *(Finished(index, "eos") for index in range(4)), Used(),
    ]  # fmt: skip
    chunks = told(CompletionStream(completion_head(prompts=prompts, answers=2, drawn=2), usage=False), events)
    texts = ["".join(c["choices"][0]["text"] for c in chunks if c["choices"][0]["index"] == i) for i in range(4)]
    assert texts == ["one a", "one b", "two c", "two d"]


def test_a_blank_that_only_the_tokens_have_moves_no_offset() -> None:
    class Words:
        """As a SentencePiece vocabulary writes a text's first word."""

        def token_bytes(self, id: int) -> bytes:
            return (b" one", b" two", b"\xe6", b"\xbc\xa2")[id]

        def is_hidden(self, id: int) -> bool:
            return False

    scored = TextLogprobs(cast(Tokenizer, Words()), 0)
    told = scored.echo([Scored(0), Scored(1, -1.0)], "one two")
    assert told["text_offset"] == [0, 3] and told["token_logprobs"] == [None, -1.0]
    more = scored.more([Scored(2, -2.0), Scored(3, -3.0), Scored(0, -1.0)])
    assert more["text_offset"] == [7, 7, 8] and more["tokens"] == ["bytes:\\xe6", "bytes:\\xbc\\xa2", " one"]


def test_impossible_tokens_have_a_finite_log_probability() -> None:
    (id,) = TOKENIZER.encode("z")
    scored = Scored(id, float("-inf"), ((id, float("-inf")),))
    plain = TextLogprobs(TOKENIZER, 1).more([scored])
    assert plain["token_logprobs"] == [-9999.0] and plain["top_logprobs"] == [{"z": -9999.0}]
    events: list[Event] = [Spoke(0, "z", (scored,)), Finished(0, "eos"), Used()]
    entry = told(ChatStream(head(top=1), 1, usage=False), events)[0]["choices"][0]["logprobs"]["content"][0]
    assert entry["logprob"] == entry["top_logprobs"][0]["logprob"] == -9999.0
