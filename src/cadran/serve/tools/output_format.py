"""How a model writes reasoning and tool calls, as far as its chat template tells; else the way of the Hermes models.

Decisions. A call that is prescribed (``required``, a named tool) is forced by grammar, arguments and all; one named
tool is called once, others up to 16 times. With ``auto`` nothing is forced, also for strict tools: the model is read,
not led. A prescribed form of the answer applies after the reasoning of a model that thinks, and calls stay possible
beside it; only for a grammar of the asker's own, which cannot be part of another, reasoning is turned off.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cadran.engine.engine import Engine
from cadran.serve.asked import GenerateRequest, Message, Tool
from cadran.serve.tools.call_syntax import HERMES, CallSyntax, Reasoning
from cadran.serve.tools.marked_reader import MarkedReader
from cadran.serve.tools.output_grammar import OutputGrammar
from cadran.serve.tools.output_reader import OutputReader, PlainReader
from cadran.serve.tools.probes import Derived, derive
from cadran.serve.tools.tool_history import native_messages, with_tools, without_system, written_messages
from cadran.tokenizer.template_renderer import TemplateRenderer

_RESERVED = frozenset({"self", "messages", "tools", "add_generation_prompt", "now"})
_TAIL = 64  # tokens of a prompt among which the opening mark of reasoning would stand


@dataclass(frozen=True, slots=True)
class Prompted:
    """A conversation made ready for one answer.

    Attributes:
        ids: what the model reads.
        grammar: what the answer must match, None for anything.
        shown_ids: special tokens that must appear in the text for the reader to see.
        parallel: whether the answer may go on after its first complete call.
        stop_ids: further ids that end the answer.
        thinking: the answer begins within reasoning.
        calls: whether calls are to be read in it.
    """

    ids: tuple[int, ...]
    grammar: Mapping[str, Any] | None = None
    shown_ids: frozenset[int] = frozenset()
    parallel: bool = True
    stop_ids: tuple[int, ...] = ()
    thinking: bool = False
    calls: bool = False


class OutputFormat:
    """Of one model; made once when it is opened.

    Args:
        engine: the model.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._grammars = OutputGrammar(engine.tokenizer)

    @cached_property
    def _derived(self) -> Derived:
        renderer = self._engine.renderer
        return derive(renderer.template) if isinstance(renderer, TemplateRenderer) else Derived()

    @property
    def knows_tools(self) -> bool:
        """Whether the template itself writes tools."""
        return self._derived.syntax is not None

    @property
    def thinks(self) -> bool:
        """Whether the template knows reasoning."""
        return self._derived.reasoning is not None

    @property
    def _syntax(self) -> CallSyntax:
        return self._derived.syntax or HERMES

    def prompted(self, request: GenerateRequest, messages: Sequence[Message]) -> Prompted:
        """The ids of a conversation, tools included, with the grammar that a prescribed call needs.

        Args:
            request: ``tools``, ``tool_choice``, ``thinking``, ``template_variables``, ``prefill`` and ``grammar``.
            messages: of the request.

        Raises:
            UserError: the template refuses them, or the schema of a tool that must be called cannot be enforced.
        """
        derived, tokenizer = self._derived, self._engine.tokenizer
        tools = shown_tools(request)
        answer = None if request.grammar is None else self._grammars.answer(request.grammar)
        alone = request.grammar is not None and answer is None and not _must_call(request)
        reasoning = derived.reasoning
        ids = self._rendered(request, messages, tools, False if alone else request.thinking)
        thinking = reasoning is not None and self._open(ids, reasoning)
        if reasoning is not None and thinking and (alone or request.thinking is False):
            ids += tokenizer.encode(f"\n{reasoning.close}\n\n", special=True)
            thinking = False
        if request.prefill:
            ids += tokenizer.encode(request.prefill)
            if reasoning is not None:
                opened, closed = request.prefill.rfind(reasoning.open), request.prefill.rfind(reasoning.close)
                thinking = opened > closed if max(opened, closed) >= 0 else thinking
        marks = [] if reasoning is None else [reasoning.open, reasoning.close]
        calls = bool(tools) and not alone
        if calls:
            marks += self._syntax.marks
        return Prompted(
            tuple(ids),
            grammar=self._grammar(request, tools, answer, thinking),
            shown_ids=self._grammars.special_ids(marks),
            parallel=request.parallel_tools,
            stop_ids=self._call_ends if calls else (),
            thinking=thinking,
            calls=calls,
        )

    def reader(self, request: GenerateRequest, prompted: Prompted) -> OutputReader:
        """For one answer to what was ``prompted``."""
        reasoning = self._derived.reasoning
        if not prompted.calls and reasoning is None:
            return PlainReader()
        syntax = self._syntax if prompted.calls else None
        return MarkedReader(syntax, _callable(request), reasoning, prompted.thinking)

    @cached_property
    def _call_ends(self) -> tuple[int, ...]:
        ends = self._derived.call_ends
        return tuple(self._grammars.special_ids([ends])) if ends else ()

    def _rendered(
        self, request: GenerateRequest, messages: Sequence[Message], tools: Sequence[Tool], thinking: bool | None
    ) -> list[int]:
        renderer, derived = self._engine.renderer, self._derived
        assert renderer is not None
        if derived.syntax is None:
            told = written_messages(messages, HERMES)
            told = with_tools(told, tools, HERMES) if tools else told
        else:
            told = native_messages(messages, derived)
            told = with_tools(told, tools, None) if tools and not derived.shows_tools else told
        if not isinstance(renderer, TemplateRenderer):
            return list(renderer.render(told, add_generation_prompt=True).ids)
        if not derived.takes_system and any(message.get("role") == "system" for message in told):
            told = without_system(told)
        variables = {name: value for name, value in request.template_variables.items() if name not in _RESERVED}
        if thinking is not None:  # the two names in use
            variables |= {"enable_thinking": thinking, "thinking": thinking}
        native = [tool.to_template() for tool in tools] if tools and derived.shows_tools else None
        return list(renderer.render(told, True, native, **variables).ids)

    def _open(self, ids: Sequence[int], reasoning: Reasoning) -> bool:
        """Whether the prompt ends within reasoning."""
        tail = self._engine.tokenizer.decode(ids[-_TAIL:]).rstrip()
        return tail.endswith(reasoning.open.strip())

    def _grammar(
        self, request: GenerateRequest, tools: Sequence[Tool], answer: str | None, thinking: bool
    ) -> Mapping[str, Any] | None:
        grammars, reasoning = self._grammars, self._derived.reasoning
        if request.thinking is False and not thinking:
            reasoning = None
        must = bool(tools) and _must_call(request)
        if must:
            named = len(request.tool_choice.names) == 1
            body, rules = grammars.calls(self._syntax, _callable(request), request.parallel_tools and not named)
        elif answer is None:
            return request.grammar
        elif tools:
            body, rules = grammars.calls(self._syntax, _callable(request), request.parallel_tools)
            body, rules = "answer | calls", [f"answer: {answer}", f"calls: {body}", *rules]
        elif reasoning is None:
            return request.grammar
        else:
            body, rules = "answer", [f"answer: {answer}"]
        return {"ebnf": grammars.whole(body, rules, reasoning, thinking)}


def shown_tools(request: GenerateRequest) -> tuple[Tool, ...]:
    """The tools that the model is told of: none when none may be called, and with ``auto`` those that may."""
    choice = request.tool_choice
    if choice.mode == "none":
        return ()
    return _callable(request) if choice.mode == "auto" else request.tools


def _callable(request: GenerateRequest) -> tuple[Tool, ...]:
    names = request.tool_choice.names
    return tuple(tool for tool in request.tools if not names or tool.name in names)


def _must_call(request: GenerateRequest) -> bool:
    return request.tool_choice.mode == "required"
