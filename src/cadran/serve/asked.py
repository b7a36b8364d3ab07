"""What is asked of a model, in the words of no API in particular: every family translates its requests into this."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Message = Mapping[str, Any]
"""As chat templates read it: ``role`` (system, user, assistant, tool), ``content`` (a string), and where they apply
``tool_calls`` (``[{"type": "function", "id": ..., "function": {"name": ..., "arguments": {...}}}]``, the arguments an
object), ``tool_call_id``, ``name`` and ``reasoning_content``."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call.

    Attributes:
        name: of it.
        description: what it does.
        parameters: JSON schema of its arguments; an object without properties when it takes none.
        strict: whether the arguments must fit the schema.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool = False

    def to_template(self) -> dict[str, Any]:
        """As chat templates want it."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether and which tools must be called.

    Attributes:
        mode: ``required`` forces at least one call, by grammar.
        names: the tools that may be called; empty for all. One name with ``required`` is a call that is prescribed.
    """

    mode: Literal["auto", "none", "required"] = "auto"
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One prompt to be answered, once or several times. Either ``messages`` or ``prompt`` is given.

    Attributes:
        model: name, as the client wrote it.
        messages: a conversation, rendered with the model's chat template.
        prompt: a text (names of special tokens in it are special) that is continued as it is, or ids.
        prefill: what the answer begins with; it is not repeated in the answer.
        tools: that may be called.
        tool_choice: whether they must.
        parallel_tools: whether one answer may call several.
        sampling: fields of ``SamplingParams`` by name, apart from ``max_tokens``; what is absent has the family's own
            default, which the family puts here.
        max_tokens: of each answer; None takes the rest of the context.
        stop: strings that end an answer and are not part of it.
        stop_ids: further ids that end it.
        ignore_end: go on after ids that would end the text.
        grammar: what the answer must match, as ``Engine.stream`` takes it.
        answers: how many.
        logprobs: whether each token's log-probability is wanted.
        top: how many of the likeliest tokens are wanted with each, 0 to 64.
        prompt_logprobs: whether the prompt's tokens are wanted with theirs.
        thinking: True or False turns it on or off where the template can; None leaves it to the template.
        template_variables: for the chat template, such as ``reasoning_effort``.
        guess: what the answer will probably contain.
        adapter: a LoRA adapter by name, over the model.
        context: most tokens of prompt and answer that the client wants; None takes the model's own.
    """

    model: str
    messages: tuple[Message, ...] | None = None
    prompt: str | tuple[int, ...] | None = None
    prefill: str = ""
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    parallel_tools: bool = True
    sampling: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    ignore_end: bool = False
    grammar: Mapping[str, Any] | None = None
    answers: int = 1
    logprobs: bool = False
    top: int = 0
    prompt_logprobs: bool = False
    thinking: bool | None = None
    template_variables: Mapping[str, Any] = field(default_factory=dict)
    guess: str = ""
    adapter: str | None = None
    context: int | None = None
