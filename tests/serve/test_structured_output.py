"""Prescribed forms of the answer, through the real ``openai`` package; every result is checked by ``jsonschema``."""

import json
from enum import Enum
from typing import Any

import jsonschema
import openai
import pytest
from live import LiveServer
from pydantic import BaseModel, ConfigDict, Field

ASKED: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Go"}], "max_tokens": 400}


@pytest.fixture(scope="module")
def client(server: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def closed(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "type": "object", "properties": properties, "required": list(properties), "additionalProperties": False, **more,
    }  # fmt: skip


SCHEMAS = {
    "ref": closed(
        {"one": {"$ref": "#/$defs/leaf"}, "two": {"$ref": "#/$defs/leaf"}},
        **{"$defs": {"leaf": closed({"on": {"type": "boolean"}})}},
    ),
    "any of null": closed({"maybe": {"anyOf": [{"type": "boolean"}, {"type": "null"}]}}),
    "enum": closed({"colour": {"enum": ["red", "vert", "été", 'a"b', 3, None]}}),
    "no further properties": closed({"a": {"type": "null"}}),
    "bounds": closed({"n": {"type": "integer", "minimum": 10, "maximum": 12}, "m": {"type": "integer", "minimum": -3,
                                                                                  "exclusiveMaximum": 0}}),
    "empty object": closed({}),
    "unicode names": closed({"prénom": {"type": "boolean"}, "数": {"enum": [1]}, "😀": {"type": "null"}}),
    "array": {"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 4},
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEMAS)
def test_answers_fit_their_schema(client: openai.OpenAI, name: str) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMAS[name], "strict": True}}
    for seed in range(3):
        choice = client.chat.completions.create(**ASKED, seed=seed, response_format=form).choices[0]  # type: ignore
        assert choice.finish_reason == "stop", choice.message.content
        text = choice.message.content or ""
        jsonschema.validate(json.loads(text), SCHEMAS[name])
        assert "\n\n" not in text and "  " not in text


class Colour(Enum):
    RED = "red"
    GREEN = "vert"


class Leaf(BaseModel):
    on: bool
    colour: Colour


class Tree(BaseModel):
    model_config = ConfigDict(extra="forbid")
    left: Leaf
    right: Leaf | None
    count: int = Field(ge=0, le=5)
    straße: bool
    marks: list[Colour] = Field(max_length=2)


def test_parse_of_the_sdk_gives_the_model(client: openai.OpenAI) -> None:
    for seed in range(3):
        parsed = client.chat.completions.parse(**ASKED, seed=seed, response_format=Tree).choices[0].message.parsed
        assert isinstance(parsed, Tree) and 0 <= parsed.count <= 5


def test_a_form_and_tools_go_together(client: openai.OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMAS["bounds"]}}
    tools = [{"type": "function", "function": {"name": "now", "description": "The time."}}]
    kinds = set()
    for seed in range(8):
        choice = client.chat.completions.create(**ASKED, seed=seed, response_format=form, tools=tools).choices[0]  # type: ignore
        calls = choice.message.tool_calls or ()
        kinds.add(bool(calls))
        if calls:
            assert {call.function.name for call in calls} == {"now"}
        else:
            jsonschema.validate(json.loads(choice.message.content or ""), SCHEMAS["bounds"])
    assert kinds, "nothing was said"


def test_json_object_is_an_object(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(
        **{**ASKED, "max_tokens": 100}, response_format={"type": "json_object"}, seed=2
    ).choices[0]
    assert (choice.message.content or "").startswith("{")
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content or ""), dict)
