"""The request of ``POST /v1/messages`` and what it means. Source: api-contracts 5.1."""

import logging
import secrets
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from cadran.serve.anthropic.content import checked, checked_data
from cadran.serve.anthropic.conversation import Blocks, MessageSpec, conversation
from cadran.serve.anthropic.errors import NO_THREADS
from cadran.serve.anthropic.tools import MOST_TOOLS, ToolChoiceSpec, ToolSpec, choice_of, tools_of
from cadran.serve.api_error import ApiError
from cadran.serve.asked import GenerateRequest
from cadran.serve.large_body import piecewise

log = logging.getLogger(__name__)

MAX_TOKENS = 4096
"""Of an answer, where a client does not say."""

MOST_MESSAGES = 100_000
"""In one request, as the API has it."""

MOST_STOPS, MOST_CHARACTERS = 128, 1024
"""Stop sequences, and characters of each: an answer holds an automaton of them."""

Shown = Literal["whole", "omitted", "hidden"]
"""How much of the reasoning the client wants: all, a block without its text, or none."""

_EFFORT = {"xhigh": "high", "max": "high"}  # templates know low, medium and high

Stop = Annotated[str, Field(max_length=MOST_CHARACTERS)]


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Thinking(_Open):
    """Whether the model may think first."""

    type: str
    budget_tokens: int | None = None
    display: str | None = None


class Format(_Open):
    """What the answer must be."""

    type: str
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class OutputConfig(_Open):
    """How the answer is to be."""

    effort: str | None = None
    format: Format | None = None


class StructuredOutputs(_Open):
    """Beyond the API: a prescribed answer, as vLLM has it."""

    json_: dict[str, Any] | str | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: Annotated[list[str], Field(fail_fast=True)] | None = None
    grammar: str | None = None

    def grammar_of(self) -> dict[str, Any] | None:
        """As ``GenerateRequest.grammar``."""
        asked = {"json_schema": self.json_, "regex": self.regex, "choice": self.choice, "ebnf": self.grammar}
        given = next(({kind: value} for kind, value in asked.items() if value is not None), None)
        return None if given is None else checked_data(given, "structured_outputs")


class MessagesRequest(_Open):
    """The body. Fields that are not named here change nothing and are passed over."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model: str = ""
    # Of the lists, the first wrong entry says enough: a complaint about each of millions would take gigabytes.
    messages: Annotated[
        list[MessageSpec], Field(fail_fast=True, min_length=1, max_length=MOST_MESSAGES), piecewise(MessageSpec)
    ]
    max_tokens: int | None = Field(default=None, ge=0)
    system: str | Blocks | None = None
    stream: bool | None = None
    stop_sequences: Annotated[list[Stop], Field(fail_fast=True)] = Field(default=[], max_length=MOST_STOPS)
    temperature: float | None = Field(default=None, ge=0, le=10, allow_inf_nan=False)
    top_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    top_k: int | None = None
    tools: Annotated[list[ToolSpec], Field(fail_fast=True)] = Field(default=[], max_length=MOST_TOOLS)
    tool_choice: ToolChoiceSpec | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: Format | None = None  # where it was before output_config
    thread: Any = None
    compaction: Any = None
    mcp_servers: Any = None
    seed: int | None = None
    structured_outputs: StructuredOutputs | None = None

    @field_validator("stop_sequences", "tools", mode="before")
    @classmethod
    def _given(cls, value: object) -> object:
        return [] if value is None else value

    @property
    def warms(self) -> bool:
        """Whether only the prompt is to be read: ``max_tokens`` 0, for the answers that follow."""
        return self.max_tokens == 0

    @property
    def shown(self) -> Shown:
        """How much of the reasoning the client wants. One that has not asked may trip over blocks of thinking."""
        if self.thinking is None or self.thinking.type == "disabled":
            return "hidden"
        return "omitted" if self.thinking.display == "omitted" else "whole"

    def asked(self) -> GenerateRequest:
        """What it means.

        Raises:
            ApiError: it asks for what is not there, or contradicts itself.
        """
        self._check_extent()
        messages, prefill = conversation(self.system, self.messages)
        tools = tools_of(self.tools)
        choice = self.tool_choice
        return GenerateRequest(
            model=checked(self.model, "model"),
            messages=messages,
            prefill=prefill,
            tools=tools,
            tool_choice=choice_of(choice, tools),
            parallel_tools=choice is None or not choice.disable_parallel_tool_use,
            sampling=self._sampling(),
            max_tokens=MAX_TOKENS if self.max_tokens is None else max(self.max_tokens, 1),
            stop=tuple(checked(text, "stop_sequences") for text in self.stop_sequences if text),
            grammar=self._grammar(),
            thinking=self._thinking(),
            template_variables=self._variables(),
        )

    def _check_extent(self) -> None:
        """Refuse what cannot be passed over: an answer to a part of the conversation, or one instead of a summary."""
        if self.thread is not None:
            raise ApiError(
                "invalid",
                "thread: conversations are not kept here; send the whole conversation without it",
                param="thread",
                code=NO_THREADS,
            )
        if self.compaction is not None:
            raise ApiError("invalid", "compaction: conversations are not summarised here; ask for a summary")
        if self.mcp_servers:
            log.warning("the servers of tools that a request names are not asked")

    def _sampling(self) -> dict[str, Any]:
        chosen: dict[str, Any] = {
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": 1.0 if self.top_p is None else max(self.top_p, 1e-9),
            # The API has no seed: asked again, it answers anew.
            "seed": secrets.randbits(63) if self.seed is None else self.seed % 2**64,
        }
        if self.top_k is not None:
            chosen["top_k"] = min(max(self.top_k, 0), 2**31 - 1)
        return chosen

    def _grammar(self) -> dict[str, Any] | None:
        asked = self.output_format if self.output_config is None else self.output_config.format or self.output_format
        if asked is None or asked.type == "text":
            return None if self.structured_outputs is None else self.structured_outputs.grammar_of()
        field = "output_config.format"
        if asked.type != "json_schema":
            raise ApiError("invalid", f"{field}: only json_schema is known", param=field)
        if asked.schema_ is None:
            raise ApiError("invalid", f"{field}: there is no schema", param=field)
        return {"json_schema": checked_data(asked.schema_, f"{field}.schema")}

    def _thinking(self) -> bool | None:
        # As the API has it, who does not ask for thinking gets none.
        asked = "disabled" if self.thinking is None else self.thinking.type
        return {"enabled": True, "disabled": False}.get(asked)

    def _variables(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.output_config is not None and (effort := self.output_config.effort):
            found["reasoning_effort"] = _EFFORT.get(effort, checked(effort, "output_config.effort"))
        if self.thinking is not None and self.thinking.type == "enabled" and self.thinking.budget_tokens is not None:
            found["thinking_budget"] = self.thinking.budget_tokens
        return found
