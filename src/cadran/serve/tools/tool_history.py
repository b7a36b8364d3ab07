"""Conversations with tools as a template takes them: in its own terms where it has some, else written out as text."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cadran.serve.asked import Message, Tool
from cadran.serve.tools.call_syntax import CallSyntax
from cadran.serve.tools.probes import Derived

_SHORT = 9


def native_messages(messages: Sequence[Message], derived: Derived) -> list[dict[str, Any]]:
    """The messages for a template that knows calls.

    Args:
        messages: of the request.
        derived: what the template wants.
    """
    assert derived.syntax is not None
    names = _names(messages)
    told: list[dict[str, Any]] = []
    for message in messages:
        copy = dict(message)
        if copy.get("tool_calls"):
            copy["tool_calls"] = [_native_call(call, derived) for call in copy["tool_calls"]]
        if copy.get("role") == "tool":
            copy.setdefault("name", names.get(str(copy.get("tool_call_id")), "tool"))
        if isinstance(copy.get("tool_call_id"), str) and derived.short_ids:
            copy["tool_call_id"] = _short(copy["tool_call_id"])
        told.append(copy)
    return told if derived.syntax.separator is not None else list(_one_by_one(told))


def with_tools(messages: Sequence[Message], tools: Sequence[Tool], syntax: CallSyntax | None) -> list[dict[str, Any]]:
    """The messages with the tools described in the system message.

    Args:
        messages: of the request.
        tools: that may be called.
        syntax: how calls are to be written, in the style ``object``; None for a model that knows how.
    """
    described = _described(tools, syntax)
    first = messages[0] if messages and messages[0].get("role") == "system" else None
    system = str(first.get("content") or "").strip() if first is not None else ""
    told = {"role": "system", "content": f"{system}\n\n{described}" if system else described}
    return [told, *(dict(message) for message in messages[first is not None :])]


def written_messages(messages: Sequence[Message], syntax: CallSyntax) -> list[dict[str, Any]]:
    """The messages for a template that knows no tools: calls and their results are texts.

    Args:
        messages: of the request.
        syntax: how calls are to be written, in the style ``object``.
    """
    told: list[dict[str, Any]] = []
    results = False
    for message in messages:
        content = str(message.get("content") or "")
        if message.get("role") == "tool":
            content = f"<tool_response>\n{content}\n</tool_response>"
            if results:
                told[-1]["content"] += "\n" + content
            else:
                told.append({"role": "user", "content": content})
            results = True
        elif results and message.get("role") == "user":  # some templates want the roles in turn
            told[-1]["content"] += "\n\n" + content
            results = False
        else:
            copy = {key: value for key, value in message.items() if key != "tool_calls"}
            calls = [_written(call["function"], syntax) for call in message.get("tool_calls") or ()]
            copy["content"] = "\n".join([content, *calls] if content else calls) if calls else message.get("content")
            told.append(copy)
            results = False
    return told


def without_system(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The same with the system message at the head of the first user message, for templates that take none."""
    told = [dict(message) for message in messages if message.get("role") != "system"]
    system = "\n\n".join(str(message.get("content") or "") for message in messages if message.get("role") == "system")
    for message in told if system else ():
        if message.get("role") == "user":
            message["content"] = f"{system}\n\n{message.get('content') or ''}"
            return told
    return [{"role": "user", "content": system}, *told] if system else told


def _described(tools: Sequence[Tool], syntax: CallSyntax | None) -> str:
    listed = "\n".join(json.dumps(tool.to_template()["function"], ensure_ascii=False) for tool in tools)
    shown = f"You can call these tools, which are described one a line as JSON:\n<tools>\n{listed}\n</tools>"
    if syntax is None:
        return shown
    example = _write("NAME", '{"ARGUMENT": VALUE}', syntax)
    return (
        f"{shown}\nTo call one, write its name and its arguments as JSON between these tags; to call several, "
        "write several such blocks:\n"
        f"{example}"
    )


def _written(function: Mapping[str, Any], syntax: CallSyntax) -> str:
    return _write(str(function["name"]), json.dumps(function.get("arguments") or {}, ensure_ascii=False), syntax)


def _write(name: str, arguments: str, syntax: CallSyntax) -> str:
    name = json.dumps(name, ensure_ascii=False)[1:-1]
    return f"{syntax.call_open}{syntax.head}{name}{syntax.after_name}{arguments}{syntax.tail}{syntax.call_close}"


def _native_call(call: Mapping[str, Any], derived: Derived) -> dict[str, Any]:
    function = dict(call["function"])
    arguments = function.get("arguments") or {}
    function["arguments"] = json.dumps(arguments, ensure_ascii=False) if derived.text_arguments else arguments
    copy = {**call, "function": function}
    if derived.short_ids:
        copy["id"] = _short(str(copy.get("id") or ""))
    return copy


def _short(id: str) -> str:
    if len(id) == _SHORT and id.isalnum() and id.isascii():
        return id
    return hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()[:_SHORT]


def _names(messages: Sequence[Message]) -> dict[str, str]:
    """Names of the tools that were called, by the id of the call."""
    calls = [call for message in messages for call in message.get("tool_calls") or ()]
    return {str(call.get("id")): str(call["function"]["name"]) for call in calls}


def _one_by_one(messages: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Several calls of one answer as several answers, each with its result."""
    place = 0
    while place < len(messages):
        message = messages[place]
        place += 1
        calls = message.get("tool_calls") or ()
        if len(calls) < 2:
            yield message
            continue
        results = []
        while place < len(messages) and messages[place].get("role") == "tool":
            results.append(messages[place])
            place += 1
        for number, call in enumerate(calls):
            yield {**message, "content": message.get("content") if not number else "", "tool_calls": [call]}
            mine = [result for result in results if result.get("tool_call_id") == call.get("id")] or results[:1]
            for result in mine:
                results.remove(result)
                yield result
        yield from results
