"""Items: what a conversation consists of for the Responses API, and the messages that they mean to a chat template.

Only what is known of an item is kept, so that what is stored of a request is bounded by what the model reads.
Source: api-contracts 3.1.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from cadran.serve.api_error import ApiError
from cadran.serve.asked import Message
from cadran.serve.tools.told_arguments import told_arguments

Item = dict[str, Any]
"""One of: message, function_call, function_call_output, reasoning, item_reference; all with an ``id``."""
NewId = Callable[[str], str]
"""From a prefix such as ``msg`` to a new id."""

_ROLES = ("user", "assistant", "system", "developer")
_TEXT_PARTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")


def read_items(given: str | Sequence[Any] | None, new_id: NewId) -> list[Item]:
    """The ``input`` of a request, every item in full form.

    Raises:
        ApiError: an item is of an unknown type, lacks a field or is not text.
    """
    if given is None:
        return []
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    return [_item(raw, f"input.{number}", new_id) for number, raw in enumerate(given)]


def _item(raw: Any, field: str, new_id: NewId) -> Item:
    if not isinstance(raw, dict):
        raise ApiError("invalid", f"{field} is no object; give an item", param=field)
    kind = raw.get("type") or ("message" if "role" in raw else "item_reference" if "id" in raw else None)
    match kind:
        case "message":
            return _message(raw, field, new_id)
        case "function_call":
            arguments = raw.get("arguments") or "{}"
            if not isinstance(arguments, str):
                problem = "the arguments of a call are no string; send them as JSON text"
                raise ApiError("invalid", problem, param=f"{field}.arguments")
            return {
                "id": _id(raw, "fc", new_id),
                "type": "function_call",
                "call_id": _text(raw, "call_id", field),
                "name": _text(raw, "name", field),
                "arguments": arguments,
                "status": "completed",
            }
        case "function_call_output":
            return {
                "id": _id(raw, "fco", new_id),
                "type": "function_call_output",
                "call_id": _text(raw, "call_id", field),
                "output": joined(raw.get("output"), f"{field}.output"),
                "status": "completed",
            }
        case "reasoning":
            summary, content = raw.get("summary") or [], raw.get("content") or []
            return {
                "id": _id(raw, "rs", new_id),
                "type": "reasoning",
                "summary": [{"type": "summary_text", "text": text} for text in _texts(summary, f"{field}.summary")],
                "content": [{"type": "reasoning_text", "text": text} for text in _texts(content, f"{field}.content")],
                "status": "completed",
            }
        case "item_reference":
            return {"type": "item_reference", "id": _text(raw, "id", field)}
    raise ApiError(
        "invalid",
        f"{field} is an item of the type {kind!r}; use message, function_call, function_call_output, reasoning or "
        "item_reference",
        param=field,
    )


def _message(raw: dict[str, Any], field: str, new_id: NewId) -> Item:
    role = raw.get("role")
    if role not in _ROLES:
        raise ApiError("invalid", f"{field} has the role {role!r}; use one of {', '.join(_ROLES)}", param=field)
    texts = _texts(raw.get("content"), f"{field}.content")
    content: list[dict[str, Any]]
    if role == "assistant":
        content = [{"type": "output_text", "text": text, "annotations": []} for text in texts]
    else:
        content = [{"type": "input_text", "text": text} for text in texts]
    return {"id": _id(raw, "msg", new_id), "type": "message", "role": role, "content": content, "status": "completed"}


def _id(raw: dict[str, Any], prefix: str, new_id: NewId) -> str:
    given = raw.get("id")
    return given if isinstance(given, str) and 0 < len(given) <= 128 else new_id(prefix)


def _text(raw: dict[str, Any], name: str, field: str) -> str:
    value = raw.get(name)
    if not isinstance(value, str) or not value:
        raise ApiError("invalid", f"{field} lacks its {name}; give a text", param=f"{field}.{name}")
    return value


def _texts(content: Any, field: str) -> list[str]:
    if isinstance(content, str):
        return [content]
    if content is None:
        return []
    if not isinstance(content, list):
        raise ApiError("invalid", f"{field} is neither a text nor a list of parts", param=field)
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, dict) else type(part).__name__
        said = None
        if isinstance(part, str):
            said = part
        elif kind in _TEXT_PARTS:
            said = part.get("text")
        elif kind == "refusal":
            said = part.get("refusal")
        elif kind == "input_json":  # of decisions
            said = json.dumps(part.get("data"), ensure_ascii=False)
        if not isinstance(said, str):
            raise ApiError("invalid", f"{kind} cannot be read by a model of text; send input_text", param=field)
        texts.append(said)
    return texts


def joined(content: Any, field: str) -> str:
    """The text of a content, its parts put together.

    Raises:
        ApiError: a part is no text.
    """
    return "".join(_texts(content, field))


def arguments_of(text: str) -> dict[str, Any] | None:
    """The arguments of a call as an object; None where they are none."""
    try:
        content = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def messages_of(items: Sequence[Item], instructions: str | None = None) -> list[Message]:
    """A conversation as chat templates read it.

    What the assistant did in a row (reasoning, text, calls) is one message. System messages at the beginning are one.

    Args:
        items: without references.
        instructions: come before all.

    Raises:
        ApiError: an output belongs to no call.
    """
    system = [instructions] if instructions else []
    messages: list[dict[str, Any]] = []
    calls: dict[str, str] = {}
    answered = {item["call_id"] for item in items if item["type"] == "function_call_output"}
    turn: dict[str, Any] | None = None
    thought = ""

    def answer() -> dict[str, Any]:
        nonlocal thought
        begun: dict[str, Any] = {"role": "assistant", "content": ""}
        if thought:
            begun["reasoning_content"], thought = thought, ""
        messages.append(begun)
        return begun

    for item in items:
        match item["type"]:
            case "reasoning":
                thought = "".join(part["text"] for part in item.get("content") or item.get("summary") or ())
                turn = None
            case "message" if item["role"] == "assistant":
                if turn is None or turn["content"] or "tool_calls" in turn:
                    turn = answer()
                turn["content"] = _said(item)
            case "message":
                turn, thought = None, ""
                if item["role"] != "user" and not messages:
                    system.append(_said(item))
                else:
                    role = "user" if item["role"] == "user" else "system"
                    messages.append({"role": role, "content": _said(item)})
            case "function_call":
                if item["call_id"] not in answered and arguments_of(item["arguments"]) is None:
                    continue  # an answer that was cut within it
                turn = turn or answer()
                calls[item["call_id"]] = item["name"]
                function = {"name": item["name"], "arguments": told_arguments(item["arguments"])}
                turn.setdefault("tool_calls", []).append(
                    {"id": item["call_id"], "type": "function", "function": function}
                )
            case "function_call_output":
                turn = None
                id = item["call_id"]
                if id not in calls:
                    raise ApiError("invalid", f"no call has the id {id!r}; send the function_call too", param="input")
                messages.append({"role": "tool", "tool_call_id": id, "name": calls[id], "content": item["output"]})
    if system:
        messages.insert(0, {"role": "system", "content": "\n\n".join(system)})
    return list(messages)


def _said(item: Item) -> str:
    return "".join(part.get("text") or part.get("refusal") or "" for part in item["content"])
