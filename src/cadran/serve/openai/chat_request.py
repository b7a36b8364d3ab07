"""The request of ``POST /v1/chat/completions`` and what it means. Source: api-contracts 1.1."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cadran.serve.api_error import ApiError
from cadran.serve.asked import GenerateRequest, Message, Tool, ToolChoice
from cadran.serve.large_body import piecewise
from cadran.serve.openai.sampling_fields import SamplingFields
from cadran.serve.tools.told_arguments import told_arguments

_TAKEN = ("messages", "tools", "add_generation_prompt", "now")
"""Variables of a template that have fields of their own."""

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Part(_Open):
    """A part of a message; only text is read."""

    type: str = "text"
    text: str | None = None
    refusal: str | None = None


class CalledFunction(_Open):
    """What was called; ``arguments`` is JSON text."""

    name: str
    arguments: str | dict[str, Any] | None = None


class ToolCall(_Open):
    """A call in a message of the assistant."""

    id: str | None = None
    type: str | None = None
    function: CalledFunction


class ChatMessage(_Open):
    """One turn."""

    role: Role
    content: str | Annotated[list[Part], piecewise(Part)] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    function_call: CalledFunction | None = None


class FunctionSpec(_Open):
    """A function that may be called."""

    name: str = Field(min_length=1)
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolSpec(_Open):
    """A tool."""

    type: str = "function"
    function: FunctionSpec | None = None


class JsonSchema(_Open):
    """A named schema."""

    name: str = "answer"
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | str | None = None


class ResponseFormat(_Open):
    """What the answer must be. ``schema`` beside the type is how llama.cpp and others write it."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: JsonSchema | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class Prediction(_Open):
    """What the answer will probably be."""

    type: str = "content"
    content: str | list[Part] = ""


class ChatRequest(SamplingFields):
    """The body."""

    messages: Annotated[list[ChatMessage], Field(fail_fast=True, min_length=1), piecewise(ChatMessage)]
    max_completion_tokens: int | None = Field(default=None, ge=-1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: list[ToolSpec] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    prediction: Prediction | None = None
    modalities: list[str] | None = None
    functions: list[FunctionSpec] | None = None
    function_call: str | dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    documents: list[Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    def asked(self) -> GenerateRequest:
        """What it means.

        Raises:
            ApiError: it asks for what is not there, or contradicts itself.
        """
        self.check()
        messages = [to_template(message, number) for number, message in enumerate(self.messages)]
        prefill = self._prefill(messages)
        tools = self._tools()
        effort = self.reasoning_effort
        variables = {name: value for name, value in (self.chat_template_kwargs or {}).items() if name not in _TAKEN}
        if self.documents:
            variables.setdefault("documents", self.documents)
        if effort is not None:
            variables.setdefault("reasoning_effort", effort)
        thinking = variables.pop("enable_thinking", None)
        return GenerateRequest(
            model=self.model,
            messages=tuple(messages),
            prefill=prefill,
            tools=tools,
            tool_choice=self._choice(tools),
            parallel_tools=self.parallel_tool_calls is not False and not self.legacy,
            sampling=self.sampling(),
            max_tokens=self._limit(),
            stop=self.stops,
            stop_ids=tuple(self.stop_token_ids or ()),
            ignore_end=self.ignore_eos,
            grammar=self._format(),
            answers=self.n or 1,
            logprobs=bool(self.logprobs or self.return_token_ids),
            top=max(self.top_logprobs or 0, self.prompt_logprobs or 0),
            prompt_logprobs=self.prompt_logprobs is not None,
            thinking=thinking if isinstance(thinking, bool) else None if effort is None else effort != "none",
            template_variables=variables,
            guess="" if self.prediction is None else text_of(self.prediction.content, "prediction"),
            adapter=self.lora,
        )

    @property
    def legacy(self) -> bool:
        """Whether it knows functions and no tools yet: then the answer does, too."""
        return bool(self.functions) and not self.tools

    def check(self) -> None:
        """See ``SamplingFields.check``."""
        super().check()
        extra = self.model_extra or {}
        if self.modalities not in (None, ["text"]):
            raise ApiError("invalid", "only text is made here; leave modalities out", param="modalities")
        if self.top_logprobs and not self.logprobs:
            raise ApiError("invalid", "top_logprobs wants logprobs: true", param="top_logprobs")
        if extra.get("echo"):
            raise ApiError("invalid", "echo is for /v1/completions; leave it out", param="echo")
        if (extra.get("best_of") or 1) != 1:
            raise ApiError("invalid", "best_of is for /v1/completions; use n", param="best_of")
        if self.add_generation_prompt is False and not self.continue_final_message:
            raise ApiError(
                "invalid",
                "without add_generation_prompt nobody's turn is open; set continue_final_message, or leave it out",
                param="add_generation_prompt",
            )

    def _limit(self) -> int | None:
        for name in ("max_completion_tokens", "max_tokens"):
            value: int | None = getattr(self, name)
            if value == 0:
                raise ApiError("invalid", f"{name} is 0; ask for one token at least", param=name)
            if value is not None:
                return None if value < 0 else value
        return None

    def _prefill(self, messages: list[Message]) -> str:
        """What the answer begins with: the last message, which is taken out."""
        if not self.continue_final_message:
            return ""
        last = messages.pop()
        if last["role"] != "assistant" or "tool_calls" in last:
            raise ApiError(
                "invalid", "only a text of the assistant can be continued; let it be the last message", param="messages"
            )
        if not messages:
            raise ApiError("invalid", "there is nothing before the message to be continued", param="messages")
        return str(last["content"])

    def _format(self) -> dict[str, Any] | None:
        asked = self.response_format
        if asked is None or asked.type == "text":
            return self.prescribed()
        named = None if asked.json_schema is None else asked.json_schema.schema_
        schema = asked.schema_ if named is None else named
        if schema is not None:
            return {"json_schema": schema}
        if asked.type == "json_object":
            return {"json_object": True}
        raise ApiError("invalid", "response_format has no schema; give one", param="response_format.json_schema")

    def _tools(self) -> tuple[Tool, ...]:
        specs = [(tool.type, tool.function) for tool in self.tools or ()]
        specs += [("function", function) for function in self.functions or ()]
        tools = []
        for type, function in specs:
            if type != "function" or function is None:
                raise ApiError(
                    "invalid", f"tools of the type {type[:40]!r} are not known here; use functions", param="tools"
                )
            tools.append(
                Tool(
                    function.name,
                    function.description or "",
                    function.parameters or {"type": "object", "properties": {}},
                    bool(function.strict),
                )
            )
        return tuple(tools)

    def _choice(self, tools: Sequence[Tool]) -> ToolChoice:
        asked = self.tool_choice if self.tool_choice is not None else self.function_call
        match asked:
            case None | "auto":
                return ToolChoice()
            case "none":
                return ToolChoice("none")
            case "required" | "any":
                choice = ToolChoice("required")
            case {"type": "allowed_tools", "allowed_tools": {"mode": "auto" | "required" as mode, "tools": [*allowed]}}:
                choice = ToolChoice(mode, tuple(_name(tool) for tool in allowed))
            case {"function": {"name": str(name)}} | {"name": str(name)}:
                choice = ToolChoice("required", (name,))
            case _:
                raise ApiError("invalid", "tool_choice is none, auto, required or a function", param="tool_choice")
        known = {tool.name for tool in tools}
        if choice.mode == "required" and not known:
            raise ApiError("invalid", "tool_choice asks for a call and there are no tools", param="tool_choice")
        for name in choice.names:
            if name not in known:
                raise ApiError("invalid", f"tool_choice names {name[:64]!r}, which is no tool", param="tool_choice")
        return choice


def _name(tool: object) -> str:
    match tool:
        case {"function": {"name": str(name)}} | {"name": str(name)}:
            return name
    raise ApiError("invalid", "tool_choice allows something that is no function", param="tool_choice")


def text_of(content: str | list[Part] | None, field: str) -> str:
    """The text of a content; parts are put together.

    Raises:
        ApiError: a part is no text.
    """
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for part in content:
        said = part.text if part.text is not None else part.refusal
        if said is None or part.type not in ("text", "refusal", "input_text", "output_text"):
            raise ApiError("invalid", f"{part.type[:40]!r} cannot be read by a model of text; send text", param=field)
        texts.append(said)
    return "".join(texts)


def to_template(message: ChatMessage, number: int) -> Message:
    """A message as chat templates read it.

    Args:
        message: of the request.
        number: its place, for complaints.

    Raises:
        ApiError: a part that is no text.
    """
    field = f"messages.{number}"
    role = {"developer": "system", "function": "tool"}.get(message.role, message.role)
    told: dict[str, Any] = {"role": role, "content": text_of(message.content, f"{field}.content")}
    if message.name is not None:
        told["name"] = message.name
    if message.tool_call_id is not None:
        told["tool_call_id"] = message.tool_call_id
    if thought := message.reasoning_content or message.reasoning:
        told["reasoning_content"] = thought
    calls = list(message.tool_calls or ())
    if message.function_call is not None:
        calls.append(ToolCall(function=message.function_call))
    if calls:
        told["tool_calls"] = [
            {
                "id": call.id or "",
                "type": "function",
                "function": {"name": call.function.name, "arguments": _arguments(call.function.arguments)},
            }
            for call in calls
        ]
    return told


def _arguments(arguments: str | dict[str, Any] | None) -> dict[str, Any]:
    return arguments if isinstance(arguments, dict) else told_arguments(arguments or "")
