"""How a model writes reasoning and tool calls, as far as its chat template tells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cadran.engine.engine import Engine
from cadran.serve.asked import GenerateRequest, Message
from cadran.serve.tools.output_reader import OutputReader, PlainReader


@dataclass(frozen=True, slots=True)
class Prompted:
    """A conversation made ready for one answer.

    Attributes:
        ids: what the model reads.
        grammar: what the answer must match, None for anything.
        shown_ids: special tokens that must appear in the text for the reader to see.
        parallel: whether the answer may go on after its first complete call.
    """

    ids: tuple[int, ...]
    grammar: Mapping[str, Any] | None = None
    shown_ids: frozenset[int] = frozenset()
    parallel: bool = True


class OutputFormat:
    """Of one model; made once when it is opened.

    Args:
        engine: the model.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def knows_tools(self) -> bool:
        """Whether the template itself writes tools."""
        return False

    @property
    def thinks(self) -> bool:
        """Whether the template knows reasoning."""
        return False

    def prompted(self, request: GenerateRequest, messages: Sequence[Message]) -> Prompted:
        """The ids of a conversation, tools included, with the grammar that a prescribed call needs.

        Args:
            request: ``tools``, ``tool_choice``, ``thinking``, ``template_variables``, ``prefill`` and ``grammar``.
            messages: of the request.

        Raises:
            UserError: the template refuses them.
        """
        renderer = self._engine.renderer
        assert renderer is not None
        ids = renderer.render(messages, add_generation_prompt=True).ids
        if request.prefill:
            ids = [*ids, *self._engine.tokenizer.encode(request.prefill)]
        return Prompted(tuple(ids), request.grammar)

    def reader(self, request: GenerateRequest, prompted: Prompted) -> OutputReader:
        """For one answer to what was ``prompted``."""
        return PlainReader()
