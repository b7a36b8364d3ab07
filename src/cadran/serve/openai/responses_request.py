"""The request of ``POST /v1/responses`` and what it means. Source: api-contracts 3.1."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cadran.serve.answering import to_json
from cadran.serve.api_error import ApiError
from cadran.serve.asked import GenerateRequest, Tool, ToolChoice
from cadran.serve.openai.responses_items import Item, messages_of
from cadran.serve.openai.sampling_fields import SamplingFields

LOGPROBS = "message.output_text.logprobs"


class TextFormat(BaseModel):
    """What the answer must be; the schema is flat here."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None
    description: str | None = None


class TextConfig(BaseModel):
    """About the answer's text."""

    model_config = ConfigDict(extra="allow")

    format: TextFormat | None = None
    verbosity: str | None = None


class ReasoningConfig(BaseModel):
    """About what the model thinks before."""

    model_config = ConfigDict(extra="allow")

    effort: str | None = None
    summary: str | None = None


class ResponsesRequest(SamplingFields):
    """The body."""

    input: str | list[dict[str, Any]] | None = None
    instructions: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    max_tool_calls: int | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    include: list[str] | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    store: bool | None = None
    truncation: Literal["auto", "disabled"] | None = None
    background: bool | None = None
    metadata: dict[str, str] | None = Field(default=None, max_length=16)
    user: str | None = None

    @property
    def wants_logprobs(self) -> bool:
        """Whether the answer's tokens are told with log-probabilities."""
        return LOGPROBS in (self.include or ()) or bool(self.top_logprobs)

    @property
    def wants_summary(self) -> bool:
        """Whether reasoning is told as a summary."""
        return self.reasoning is not None and self.reasoning.summary is not None

    def asked(self, items: Sequence[Item]) -> GenerateRequest:
        """What it means.

        Args:
            items: of the whole conversation, references resolved.

        Raises:
            ApiError: it asks for what is not there, or contradicts itself.
        """
        for name in ("conversation", "prompt"):
            if getattr(self, name):
                raise ApiError("invalid", f"{name} is not supported here; leave it out", param=name)
        if self.background and self.store is False:
            problem = "a response made in the background is asked for later, so it has to be stored; leave store out"
            raise ApiError("invalid", problem, param="store")
        if self.n not in (None, 1):
            raise ApiError("invalid", "a response is one answer; leave n out", param="n")
        if any(len(key) > 64 or len(value) > 512 for key, value in (self.metadata or {}).items()):
            problem = "metadata has a key of more than 64 or a value of more than 512 characters; shorten it"
            raise ApiError("invalid", problem, param="metadata")
        messages = messages_of(items, self.instructions)
        if not messages:
            raise ApiError("invalid", "there is nothing to answer; give input", param="input")
        tools = self._tools()
        effort = self.reasoning.effort if self.reasoning is not None else None
        return GenerateRequest(
            model=self.model,
            messages=tuple(messages),
            tools=tools,
            tool_choice=self._choice(tools),
            parallel_tools=self.parallel_tool_calls is not False,
            sampling=self.sampling(),
            max_tokens=self.max_output_tokens or self.max_tokens,
            stop=self.stops,
            stop_ids=tuple(self.stop_token_ids or ()),
            ignore_end=self.ignore_eos,
            grammar=self._grammar(),
            logprobs=self.wants_logprobs,
            top=self.top_logprobs or 0,
            thinking=None if effort is None else effort != "none",
            template_variables={} if effort is None else {"reasoning_effort": effort},
            adapter=self.lora,
        )

    def _grammar(self) -> dict[str, Any] | None:
        format = self.text.format if self.text is not None else None
        if format is None or format.type == "text":
            return self.prescribed()
        if format.type == "json_object":
            return {"json_object": True}
        if format.schema_ is None:
            raise ApiError("invalid", "text.format has no schema; give one", param="text.format.schema")
        return {"json_schema": format.schema_}

    def _tools(self) -> tuple[Tool, ...]:
        found = []
        for number, raw in enumerate(self.tools or ()):
            field, kind, name = f"tools.{number}", raw.get("type", "function"), raw.get("name")
            if kind != "function":
                problem = f"tools of the type {kind!r} are not run here; use functions"
                raise ApiError("invalid", problem, param=field)
            parameters, description = raw.get("parameters"), raw.get("description")
            if not isinstance(name, str) or not name:
                raise ApiError("invalid", f"{field} has no name; give it one", param=f"{field}.name")
            if parameters is not None and not isinstance(parameters, dict):
                raise ApiError("invalid", f"{field} has parameters that are no schema", param=f"{field}.parameters")
            if description is not None and not isinstance(description, str):
                raise ApiError("invalid", f"{field} has a description that is no text", param=f"{field}.description")
            found.append(
                Tool(
                    name,
                    description or "",
                    parameters or {"type": "object", "properties": {}},
                    raw.get("strict") is True,
                )
            )
        return tuple(found)

    def _choice(self, tools: Sequence[Tool]) -> ToolChoice:
        match self.tool_choice:
            case None | "auto":
                return ToolChoice()
            case "none":
                return ToolChoice("none")
            case "required":
                choice = ToolChoice("required")
            case {"type": "function", "name": str(name)}:
                choice = ToolChoice("required", (name,))
            case {"type": "allowed_tools", "mode": "auto" | "required" as mode, "tools": [*allowed]}:
                choice = ToolChoice(mode, tuple(_name(tool) for tool in allowed))
            case _:
                problem = "tool_choice is none, auto, required, a function or allowed_tools"
                raise ApiError("invalid", problem, param="tool_choice")
        known = {tool.name for tool in tools}
        if choice.mode == "required" and not known:
            raise ApiError("invalid", "tool_choice asks for a call and there are no tools", param="tool_choice")
        for name in choice.names:
            if name not in known:
                raise ApiError("invalid", f"tool_choice names {name!r}, which is no tool", param="tool_choice")
        return choice

    def told(self, model: str, stored: bool) -> dict[str, Any]:
        """The fields of the response that repeat the request.

        Args:
            model: name of it.
            stored: whether the response can be retrieved later.

        Raises:
            ApiError: a schema holds what JSON cannot.
        """
        told: dict[str, Any] = {
            "model": model,
            "background": bool(self.background),
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "max_tool_calls": self.max_tool_calls,
            "metadata": dict(self.metadata or {}),
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "previous_response_id": self.previous_response_id,
            "reasoning": {
                "effort": self.reasoning.effort if self.reasoning is not None else None,
                "summary": self.reasoning.summary if self.reasoning is not None else None,
            },
            "service_tier": "default",
            "store": stored,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "text": self._text(),
            "tool_choice": "auto" if self.tool_choice is None else self.tool_choice,
            "tools": [
                {
                    "type": "function",
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": dict(tool.parameters),
                    "strict": tool.strict,
                }
                for tool in self._tools()
            ],
            "top_logprobs": self.top_logprobs or 0,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "truncation": self.truncation or "disabled",
            "user": self.user,
        }
        try:
            to_json(told)
        except (ValueError, RecursionError) as error:
            problem = "a schema holds NaN or Infinity, or is nested too deeply; repair it"
            raise ApiError("invalid", problem, param="tools") from error
        return told

    def _text(self) -> dict[str, Any]:
        format: dict[str, Any] = {"type": "text"}
        if self.text is not None and self.text.format is not None:
            asked = self.text.format
            format = {"type": asked.type}
            if asked.type == "json_schema":
                format |= {"name": asked.name or "answer", "schema": asked.schema_, "strict": asked.strict}
                format["description"] = asked.description
        verbosity = self.text.verbosity if self.text is not None else None
        return {"format": format, "verbosity": verbosity or "medium"}


def _name(tool: object) -> str:
    match tool:
        case {"type": "function", "name": str(name)}:
            return name
    raise ApiError("invalid", "tool_choice allows something that is no function", param="tool_choice")
