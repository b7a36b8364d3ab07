"""Reasoning told apart from the answer, by a tiny model whose template thinks."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest
from live import LiveServer
from small_templates import THINKING
from tiny import tiny_model

ASKED: dict[str, Any] = {"model": "thinker", "messages": [{"role": "user", "content": "Why?"}], "seed": 1}
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "now", "description": "The time."}}]


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder: Path = tiny_model(tmp_path_factory.mktemp("thinking") / "thinker")
    (folder / "chat_template.jinja").write_text(THINKING)
    live = LiveServer(models=[str(folder)], database=f"sqlite:///{folder / 'state.db'}")
    yield live
    live.close()


@pytest.fixture(scope="module")
def client(thinker: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{thinker.url}/v1", api_key="none", max_retries=0)


def thinking(**more: Any) -> dict[str, Any]:
    """Further fields: the prompt begins the reasoning."""
    return {"chat_template_kwargs": {"opened": True}, **more}


def test_reasoning_and_answer_are_told_apart_in_both_forms(client: openai.OpenAI) -> None:
    text = "<think>\nHm.\n</think>\n\nYes."
    asked = {
        **ASKED,
        "max_tokens": 99,
        "extra_body": {"structured_outputs": {"grammar": f"root ::= {text!r}".replace("'", '"')}},
    }
    answer = client.chat.completions.create(**asked)
    message = answer.choices[0].message
    assert (message.content, message.model_extra["reasoning_content"]) == ("Yes.", "Hm.")
    deltas = [chunk.choices[0].delta for chunk in client.chat.completions.create(**asked, stream=True)]
    assert "".join(delta.content or "" for delta in deltas) == "Yes."
    assert "".join((delta.model_extra or {}).get("reasoning_content", "") for delta in deltas) == "Hm."
    assert answer.usage and answer.usage.completion_tokens_details
    thought = answer.usage.completion_tokens_details.reasoning_tokens
    assert thought and 0 < thought < answer.usage.completion_tokens


def test_stop_strings_do_not_count_in_reasoning(client: openai.OpenAI) -> None:
    grammar = 'root ::= "a STOP b</think>yes STOP no"'
    asked = {**ASKED, "max_tokens": 99, "stop": ["STOP"]}
    with_grammar = thinking(structured_outputs={"grammar": grammar})
    # A grammar of the asker's own turns reasoning off: the mark is text then, and the first stop counts.
    message = client.chat.completions.create(**asked, extra_body=with_grammar).choices[0].message
    assert message.content == "a "
    text = "<think>a STOP b</think>yes STOP no"
    opened = {"structured_outputs": {"grammar": f'root ::= "{text}"'}}
    message = client.chat.completions.create(**asked, extra_body=opened).choices[0].message
    assert (message.content, message.model_extra["reasoning_content"]) == ("yes ", "a STOP b")


def test_a_prompt_that_opens_reasoning_begins_with_it(client: openai.OpenAI) -> None:
    message = client.chat.completions.create(**ASKED, max_tokens=12, extra_body=thinking()).choices[0].message
    assert message.model_extra["reasoning_content"] and not message.content


def test_turned_off_reasoning_is_closed_in_the_prompt(client: openai.OpenAI) -> None:
    on = client.chat.completions.create(**ASKED, max_tokens=1)
    off = client.chat.completions.create(**ASKED, max_tokens=8, reasoning_effort="none")
    assert on.usage and off.usage and off.usage.prompt_tokens > on.usage.prompt_tokens
    assert off.choices[0].message.content is not None
    assert "reasoning_content" not in (off.choices[0].message.model_extra or {})
    both = thinking(chat_template_kwargs={"opened": True, "enable_thinking": False})
    message = client.chat.completions.create(**ASKED, max_tokens=8, extra_body=both).choices[0].message
    assert "reasoning_content" not in (message.model_extra or {})


def test_a_prescribed_form_holds_for_the_answer_after_the_reasoning(client: openai.OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
    for opened in ({}, thinking()):
        answer = client.chat.completions.create(
            **ASKED, response_format=form, max_tokens=400, temperature=2, extra_body=opened
        ).choices[0]
        if answer.finish_reason == "stop":
            jsonschema.validate(json.loads(answer.message.content or ""), SCHEMA)
        else:
            assert answer.message.model_extra["reasoning_content"]
    off = client.chat.completions.create(**ASKED, response_format=form, max_tokens=60, reasoning_effort="none")
    jsonschema.validate(json.loads(off.choices[0].message.content or ""), SCHEMA)


def test_prescribed_calls_may_follow_reasoning(client: openai.OpenAI) -> None:
    off = client.chat.completions.create(
        **ASKED, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, max_tokens=99, reasoning_effort="none"
    ).choices[0]
    assert [call.function.name for call in off.message.tool_calls or ()] == ["now"]
