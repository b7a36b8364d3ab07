"""Responses, asked by the ``openai`` package itself: plain, streamed, parsed, refused."""

import json
from typing import Any, Literal

import httpx
import openai
import pytest
from live import LiveServer
from pydantic import BaseModel

ASKED: dict[str, Any] = {"model": "tiny", "input": "Ça va, l'été ?", "max_output_tokens": 12}
SAY = "L'été 😀 \u2028 ça va"


def said(*texts: str) -> dict[str, Any]:
    """Makes the model say one of these."""
    return {"structured_outputs": {"choice": list(texts)}}


@pytest.fixture(scope="module")
def client(server: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_stream_says_what_the_plain_answer_says(client: openai.OpenAI) -> None:
    seed = {"seed": 5}
    plain = client.responses.create(**ASKED, extra_body=seed)
    events = list(client.responses.create(**ASKED, stream=True, extra_body=seed))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:4]] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip
    assert [event.type for event in events[-4:]] == [
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.incomplete",
    ]  # fmt: skip
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    final = events[-1].response
    assert deltas == final.output_text == plain.output_text
    assert plain.status == final.status == "incomplete"
    assert plain.incomplete_details and plain.incomplete_details.reason == "max_output_tokens"
    assert plain.usage and final.usage and plain.usage.output_tokens == final.usage.output_tokens == 12
    assert (
        plain.usage.input_tokens
        == final.usage.input_tokens
        == client.responses.input_tokens.count(model="tiny", input=ASKED["input"]).input_tokens
    )
    assert plain.usage.total_tokens == plain.usage.input_tokens + 12


def test_accumulator_ends_with_what_was_said(client: openai.OpenAI) -> None:
    with client.responses.stream(model="tiny", input="Dis-le", extra_body=said(SAY)) as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert final.output_text == SAY == snapshots[-1]
    assert final.status == "completed" and final.completed_at and final.completed_at >= final.created_at
    assert final.output[0].id.startswith("msg_") and final.id.startswith("resp_")
    assert client.responses.retrieve(final.id).output_text == SAY


def test_parse_gives_the_model_that_the_schema_came_from(client: openai.OpenAI) -> None:
    class Place(BaseModel):
        name: Literal["rivière", "ville"]
        calm: bool

    parsed = client.responses.parse(model="tiny", input="Où ?", text_format=Place)
    assert parsed.status == "completed" and isinstance(parsed.output_parsed, Place)
    with client.responses.stream(model="tiny", input="Où ?", text_format=Place) as stream:
        assert isinstance(stream.get_final_response().output_parsed, Place)
    assert parsed.text and parsed.text.format and parsed.text.format.type == "json_schema"


def test_conversation_goes_on_from_the_response_before_without_its_instructions(client: openai.OpenAI) -> None:
    first = client.responses.create(
        model="tiny", input="Un", instructions="Parle fort.", extra_body=said("deux, et trois")
    )
    follow = {"model": "tiny", "input": "quatre"}
    whole = [
        {"role": "user", "content": "Un"},
        {"role": "assistant", "content": "deux, et trois"},
        {"role": "user", "content": "quatre"},
    ]
    counted = client.responses.input_tokens.count(**follow, previous_response_id=first.id)
    assert counted.input_tokens == client.responses.input_tokens.count(model="tiny", input=whole).input_tokens
    second = client.responses.create(**follow, previous_response_id=first.id, extra_body=said("cinq"))
    assert second.usage and second.usage.input_tokens == counted.input_tokens
    assert second.previous_response_id == first.id and second.instructions is None
    third = client.responses.input_tokens.count(model="tiny", input="six", previous_response_id=second.id)
    assert third.input_tokens > counted.input_tokens


def test_reference_means_the_item_that_was_stored(client: openai.OpenAI) -> None:
    first = client.responses.create(model="tiny", input="Un", extra_body=said("deux"))
    by_reference = [
        {"role": "user", "content": "Un"},
        {"type": "item_reference", "id": first.output[0].id},
        {"role": "user", "content": "trois"},
    ]
    whole = [*by_reference]
    whole[1] = {"role": "assistant", "content": "deux"}
    count = client.responses.input_tokens.count
    assert count(model="tiny", input=by_reference).input_tokens == count(model="tiny", input=whole).input_tokens
    with pytest.raises(openai.NotFoundError, match="no item"):
        count(model="tiny", input=[{"type": "item_reference", "id": "msg_0123"}])


def test_logprobs_are_told_when_they_are_included(client: openai.OpenAI) -> None:
    asked = {**ASKED, "max_output_tokens": 5, "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    answer = client.responses.create(**asked, extra_body={"seed": 1})
    entries = answer.output[0].content[0].logprobs
    assert len(entries) == 5 and all(len(entry.top_logprobs) == 2 and entry.logprob <= 0 for entry in entries)
    streamed = list(client.responses.create(**asked, stream=True, extra_body={"seed": 1}))
    told = [entry for event in streamed if event.type == "response.output_text.delta" for entry in event.logprobs]
    assert [(entry.token, entry.logprob) for entry in told] == [(entry.token, entry.logprob) for entry in entries]


def test_request_is_repeated_in_the_response(client: openai.OpenAI) -> None:
    tool = {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}, "strict": True}
    answer = client.responses.create(
        **ASKED, metadata={"a": "b"}, temperature=0.5, top_p=0.9, tools=[tool], tool_choice="none", store=False,
        reasoning={"effort": "low"}, truncation="disabled", parallel_tool_calls=False, user="u",
        service_tier="auto", prompt_cache_key="k", safety_identifier="s", extra_body={"vendor": [1]},
    )  # fmt: skip
    assert answer.metadata == {"a": "b"} and answer.temperature == 0.5 and answer.top_p == 0.9
    assert answer.tools[0].name == "add" and answer.tools[0].strict and answer.tool_choice == "none"
    assert answer.reasoning and answer.reasoning.effort == "low" and answer.parallel_tool_calls is False
    assert answer.store is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("conversation", "conv_1", "conversation"),
        ("prompt", {"id": "p"}, "prompt"),
        ("n", 2, "n"),
        ("tools", [{"type": "web_search"}], "tools.0"),
        ("tools", [{"type": "custom", "name": "x"}], "tools.0"),
        ("tools", [{"type": "function"}], "tools.0.name"),
        ("tools", [{"type": "function", "name": "f", "parameters": {"minimum": float("nan")}}], "tools"),
        ("tool_choice", {"type": "function", "name": "unknown"}, "tool_choice"),
        ("tool_choice", "required", "tool_choice"),
        ("tool_choice", {"type": "web_search_preview"}, "tool_choice"),
        ("text", {"format": {"type": "json_schema"}}, "text.format.schema"),
        ("text", {"format": {"type": "grammar"}}, "text.format.type"),
        ("top_logprobs", 21, "top_logprobs"),
        ("metadata", {"a": "b" * 513}, "metadata"),
        ("input", None, "input"),
        ("input", [], "input"),
        ("input", [{"type": "web_search_call", "id": "w"}], "input.0"),
        ("input", [{"role": "robot", "content": "x"}], "input.0"),
        ("input", [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}], "input.0.content"),
        ("input", [{"type": "function_call", "call_id": "c", "name": "f", "arguments": 3}], "input.0.arguments"),
        ("input", [{"type": "function_call_output", "call_id": "c", "output": "1"}], "input"),
        ("input", [{"type": "reasoning", "summary": 3}], "input.0.summary"),
    ],
)
def test_what_cannot_be_done_is_400_with_the_field(server: LiveServer, field: str, value: Any, param: str) -> None:
    body = json.dumps({**ASKED, field: value})  # NaN too, which httpx refuses to write
    answer = httpx.post(f"{server.url}/v1/responses", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param and error["type"] == "invalid_request_error"


@pytest.mark.parametrize("id", ["resp_1", "resp_" + "0" * 24, "\ud800", "a" * 1000, "resp_" + "0" * 24 + "\n"])
def test_unknown_previous_response_is_404(server: LiveServer, id: str) -> None:
    body = json.dumps({**ASKED, "previous_response_id": id})
    answer = httpx.post(f"{server.url}/v1/responses", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 404 and answer.json()["error"]["param"] == "previous_response_id"


def test_unknown_model_is_404_with_the_list(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="tiny"):
        client.responses.create(model="gpt", input="x")


def test_conversation_that_is_too_long_is_refused_or_loses_its_oldest_turns(client: openai.OpenAI) -> None:
    long = [
        {"role": "developer", "content": "Court."},
        *({"role": role, "content": f"{number} l'été"} for number in range(60) for role in ("user", "assistant")),
        {"role": "user", "content": "fin"},
    ]
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="tiny", input=long, max_output_tokens=4)
    assert refused.value.code == "context_length_exceeded"
    answer = client.responses.create(model="tiny", input=long, max_output_tokens=4, truncation="auto")
    assert answer.usage and 300 < answer.usage.input_tokens <= 508 and answer.truncation == "auto"
