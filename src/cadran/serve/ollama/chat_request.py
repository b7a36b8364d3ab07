"""The request of ``POST /api/chat`` and what it means. Source: api-contracts 7."""

from typing import Annotated, Any, Literal

from pydantic import Field

from cadran.serve.api_error import ApiError
from cadran.serve.asked import GenerateRequest, Tool
from cadran.serve.ide.open_body import OpenBody
from cadran.serve.large_body import piecewise
from cadran.serve.ollama.base_request import OllamaRequest
from cadran.serve.tools.told_arguments import told_arguments


class CalledFunction(OpenBody):
    """What was called."""

    name: str = ""
    arguments: dict[str, Any] | str | None = None


class ToolCall(OpenBody):
    """A call in a message of the assistant."""

    id: str | None = None
    function: CalledFunction


class ChatMessage(OpenBody):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: list[Any] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_name: str | None = None
    name: str | None = None
    tool_call_id: str | None = None


class FunctionSpec(OpenBody):
    """A function that may be called."""

    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ToolSpec(OpenBody):
    """A tool."""

    type: str | None = "function"
    function: FunctionSpec | None = None


class ChatRequest(OllamaRequest):
    """The body."""

    messages: Annotated[list[ChatMessage], Field(fail_fast=True), piecewise(ChatMessage)] = Field(default_factory=list)
    tools: list[ToolSpec] = Field(default_factory=list)

    def asked(self) -> GenerateRequest:
        """What it means. An answer that stands last is continued.

        Raises:
            ApiError: it asks for what is not there.
        """
        messages = _to_template(self.messages)
        prefill, last = "", messages[-1]
        if last["role"] == "assistant" and not last.get("tool_calls") and len(messages) > 1:
            prefill = str(messages.pop()["content"])
        thinking, variables = self.thinking()
        return GenerateRequest(
            model=self.model,
            messages=tuple(messages),
            prefill=prefill,
            tools=tuple(_tool(spec) for spec in self.tools),
            sampling=self.options.sampling(),
            max_tokens=self.options.max_tokens,
            stop=self.options.stops,
            grammar=self.grammar(),
            logprobs=self.logprobs,
            top=self.top,
            thinking=thinking,
            template_variables=variables,
            context=self.options.context,
        )


def _tool(spec: ToolSpec) -> Tool:
    function = spec.function
    if spec.type not in (None, "function") or function is None or not function.name:
        raise ApiError("invalid", "a tool is a function with a name; mend tools", param="tools")
    parameters = function.parameters or {"type": "object", "properties": {}}
    return Tool(function.name, function.description or "", parameters)


def _to_template(messages: list[ChatMessage]) -> list[dict[str, Any]]:
    """The messages as chat templates read them; calls without an id are given one, and their results the same."""
    told: list[dict[str, Any]] = []
    waiting: list[str] = []
    made = 0
    for message in messages:
        if message.images:
            raise ApiError("invalid", "images cannot be read by a model of text; send text", param="images")
        role = "system" if message.role == "developer" else message.role
        one: dict[str, Any] = {"role": role, "content": message.content or ""}
        if message.thinking:
            one["reasoning_content"] = message.thinking
        if message.tool_calls:
            calls = []
            for call in message.tool_calls:
                id = call.id or f"call{made:05d}"
                made += 1
                waiting.append(id)
                function = {"name": call.function.name, "arguments": _arguments(call.function.arguments)}
                calls.append({"id": id, "type": "function", "function": function})
            one["tool_calls"] = calls
        if role == "tool":
            id = message.tool_call_id or (waiting[0] if waiting else "")
            if id in waiting:
                waiting.remove(id)
            one["tool_call_id"] = id
        if name := message.tool_name or message.name:
            one["name"] = name
        told.append(one)
    return told


def _arguments(arguments: dict[str, Any] | str | None) -> dict[str, Any]:
    return arguments if isinstance(arguments, dict) else told_arguments(arguments or "")
