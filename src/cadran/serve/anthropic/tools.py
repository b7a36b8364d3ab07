"""The tools of a request and whether they must be called. Source: api-contracts 5.1."""

import logging
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from cadran.serve.anthropic.content import checked, checked_data
from cadran.serve.api_error import ApiError
from cadran.serve.asked import Tool, ToolChoice

log = logging.getLogger(__name__)


MOST_TOOLS = 1024
"""In one request."""


class ToolSpec(BaseModel):
    """A tool. Those without a schema are run by somebody else's servers or known to somebody else's models."""

    model_config = ConfigDict(extra="allow")

    type: str | None = None
    name: str = ""
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class ToolChoiceSpec(BaseModel):
    """Whether tools must be called."""

    model_config = ConfigDict(extra="allow")

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


def tools_of(specs: Sequence[ToolSpec]) -> tuple[Tool, ...]:
    """The tools that the model may call. Those of Anthropic's own are left out with a warning in the log.

    Raises:
        ApiError: one has no name or no usable schema, or two have the same name.
    """
    tools: dict[str, Tool] = {}
    absent: set[str] = set()
    for number, spec in enumerate(specs):
        field = f"tools.{number}"
        schema = spec.input_schema
        if schema is None and spec.type not in (None, "custom"):
            absent.add(str(spec.type)[:100])
            continue
        if not spec.name:
            raise ApiError("invalid", f"{field}: a tool has a name", param=field)
        if spec.name in tools:
            raise ApiError(
                "invalid", f"{field}: there are two tools called {spec.name[:100]!r}; rename one", param=field
            )
        if schema is None:
            raise ApiError("invalid", f"{field}: a tool has an input_schema", param=field)
        if schema.get("type", "object") != "object":
            raise ApiError("invalid", f"{field}: the input_schema is one of an object", param=field)
        tools[spec.name] = Tool(
            checked(spec.name, field),
            checked(spec.description or "", field),
            {"type": "object", **checked_data(schema, f"{field}.input_schema")},
            bool(spec.strict),
        )
    if absent:
        log.warning("tools that are not to be had here were left out", extra={"tools": sorted(absent)[:10]})
    return tuple(tools.values())


def choice_of(asked: ToolChoiceSpec | None, tools: Sequence[Tool]) -> ToolChoice:
    """Whether and which tools must be called.

    Raises:
        ApiError: a call is asked for that no tool can be.
    """
    if asked is None or asked.type == "auto":
        return ToolChoice()
    if asked.type == "none":
        return ToolChoice("none")
    if asked.type == "tool" and asked.name not in {tool.name for tool in tools}:
        raise ApiError(
            "invalid", f"tool_choice names {(asked.name or '')[:100]!r}, which is no tool here", param="tool_choice"
        )
    if not tools:
        raise ApiError("invalid", "tool_choice asks for a call and there are no tools", param="tool_choice")
    return ToolChoice("required", (asked.name,) if asked.type == "tool" and asked.name else ())
