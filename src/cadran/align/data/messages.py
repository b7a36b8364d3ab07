"""Message objects as people write them, brought to one form: role, content, and the tool calls of the assistant.

Read are ``role``/``content`` (OpenAI, Hugging Face) and ``from``/``value`` (ShareGPT), contents given in parts, calls
with or without the ``function`` level. The text itself is never touched: no strip, no joining of turns.
"""

import json
from collections.abc import Mapping
from typing import Any

from cadran.align.data.refused import Refused, keys_found, kind_of, quoted

Turn = dict[str, Any]

ROLES = {
    "system": "system", "developer": "system", "système": "system",
    "user": "user", "human": "user", "prompter": "user", "utilisateur": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
    "function_call": "assistant", "tool_call": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "function_response": "tool", "tool_response": "tool",
}  # fmt: skip
_SPEAKER = ("role", "from")
_SAID = ("content", "value")
_CALLING = ("function_call", "tool_call")
_REASONING = ("reasoning_content", "thinking", "reasoning")


def looks_like_messages(value: Any) -> bool:
    """Whether a value is a list of objects that name a speaker; what they say is not looked at."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, Mapping) and any(key in each for key in _SPEAKER) for each in value)
    )


def role_of(message: Any) -> str:
    """The role of a message object in our names, "" when it has none that is known."""
    if not isinstance(message, Mapping):
        return ""
    role = next((message[key] for key in _SPEAKER if message.get(key) is not None), None)
    return ROLES.get(role.strip().lower(), "") if isinstance(role, str) else ""


def messages_of(value: Any, field: str) -> list[Turn]:
    """The messages in a field.

    Args:
        value: a list of message objects, or a single one.
        field: its name, for a refusal.

    Returns:
        New objects with ``role`` and ``content`` (a string); of the assistant perhaps ``tool_calls`` (and then
        ``content`` may be "") and ``reasoning_content``; of a tool perhaps ``tool_call_id`` and ``name``.

    Raises:
        Refused: something in it is of another form.
    """
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, (list, tuple)):
        raise Refused(f"{field} is {kind_of(value)}; write a list of messages")
    if not value:
        raise Refused(f"{field} is an empty list; give it a question and an answer")
    return [_message(each, number) for number, each in enumerate(value, start=1)]


def tools_of(value: Any) -> list[dict[str, Any]] | None:
    """The functions on offer, each as ``{"type": "function", "function": schema}``; None when there are none.

    Raises:
        Refused: they are not a list of JSON schemas.
    """
    if isinstance(value, str):
        value = _parsed(value, "tools") if value.strip() else None
    if value is None or value == []:
        return None
    if not isinstance(value, list):
        raise Refused(f"tools is {kind_of(value)}; write a list of JSON schemas")
    tools: list[dict[str, Any]] = []
    for number, tool in enumerate(value, start=1):
        schema = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(schema, Mapping) or not isinstance(schema.get("name"), str):
            raise Refused(f"tool {number} has no name; write it as a JSON schema of a function")
        tools.append({"type": "function", "function": dict(schema)})
    return tools


def _message(value: Any, number: int) -> Turn:
    if not isinstance(value, Mapping):
        raise Refused(f"message {number} is {kind_of(value)}; write an object with role and content")
    said = next((value[key] for key in _SPEAKER if value.get(key) is not None), None)
    if not isinstance(said, str):
        raise Refused(f"message {number} has no role but {keys_found(value)}; write role and content")
    role = ROLES.get(said.strip().lower())
    if role is None:
        raise Refused(f"message {number} has the role {quoted(said)}; write system, user, assistant or tool")
    if value.get("weight", 1) != 1:
        raise Refused(f"message {number} has a weight, and every answer counts the same here; leave the message out")
    content = next((value[key] for key in _SAID if value.get(key) is not None), None)
    calls = value.get("tool_calls") or value.get("function_call")
    if said.strip().lower() in _CALLING:
        content, calls = None, _parsed(content, f"message {number}") if isinstance(content, str) else content
    turn: Turn = {"role": role, "content": _text(content, number, bool(calls))}
    if calls and role != "assistant":
        raise Refused(f"message {number} calls a tool as {role}; only the assistant calls tools")
    if role == "assistant":
        if reasoning := next((value[key] for key in _REASONING if isinstance(value.get(key), str)), None):
            turn["reasoning_content"] = reasoning
        if calls:
            turn["tool_calls"] = _calls(calls, number)
    if role == "tool":
        turn |= {key: value[key] for key in ("name", "tool_call_id") if isinstance(value.get(key), str)}
    return turn


def _text(content: Any, number: int, calls: bool) -> str:
    """A content as one string; parts are joined as they are."""
    if content is None and calls:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = []
        for part in content:
            text = part.get("text") if isinstance(part, Mapping) else part
            if not isinstance(text, str):
                kind = quoted(part.get("type", "part")) if isinstance(part, Mapping) else kind_of(part)
                raise Refused(f"message {number} holds a part that is no text ({kind}); give text only")
            parts.append(text)
        return "".join(parts)
    missing = "has no content" if content is None else f"has a content that is {kind_of(content)}"
    raise Refused(f"message {number} {missing}; write a string")


def _calls(value: Any, number: int) -> list[dict[str, Any]]:
    calls = []
    for call in value if isinstance(value, list) else [value]:
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
            raise Refused(f"message {number} calls a tool without a name; write name and arguments")
        arguments = function.get("arguments", function.get("parameters"))
        if isinstance(arguments, str):
            arguments = _parsed(arguments, f"message {number}") if arguments.strip() else {}
        if not isinstance(arguments, (Mapping, type(None))):
            raise Refused(f"message {number} calls a tool with {kind_of(arguments)}; write its arguments as an object")
        identity = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
        named = {"name": function["name"], "arguments": dict(arguments or {})}
        calls.append({**identity, "type": "function", "function": named})
    return calls


def _parsed(text: str, field: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Refused(f"{field} holds {quoted(text, 30)}, which is not JSON; write a JSON object there") from None
