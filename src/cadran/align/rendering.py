"""Conversations as a model reads them in training: as in serving, but on a day that never changes."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cadran.tokenizer.renderer import ChatRenderer, Rendered

if TYPE_CHECKING:
    from cadran.tokenizer.template_renderer import TemplateRenderer

TRAINING_DATE = datetime(2025, 1, 1)
"""What templates that write the date are told, so that the same rows are the same tokens tomorrow."""


def rendered(
    messages: Sequence[Mapping[str, Any]],
    renderer: "ChatRenderer | TemplateRenderer",
    *,
    add_generation_prompt: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> Rendered:
    """Ids and supervised spans, see the renderers.

    Raises:
        UserError: the renderer refuses the conversation.
    """
    if isinstance(renderer, ChatRenderer):
        return renderer.render(messages, add_generation_prompt, tools)
    return renderer.render(list(messages), add_generation_prompt, tools, now=TRAINING_DATE)
