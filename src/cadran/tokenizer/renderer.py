"""Chat renderers: messages to ids, and to the spans that a model may learn from.

Training, evaluation and serving all come through here, so a model reads at work what it read at school. The ids equal
those that ``transformers`` makes from the template stored with the checkpoint, with one difference that is wanted:
``<|im_end|>`` typed inside a message is text and cannot end the turn. ``ChatRenderer`` is for the models trained here;
``renderer_for`` gives it, or the renderer of a foreign checkpoint's own template.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cadran.errors import UserError
from cadran.tokenizer.template import CHAT_TEMPLATE, ROLES
from cadran.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from cadran.tokenizer.template_renderer import TemplateRenderer


@dataclass(frozen=True)
class Rendered:
    """A conversation as the model reads it.

    Attributes:
        ids: token ids.
        spans: half-open ranges of ``ids`` that are targets: each answer and the token that stops it.
        injectable: special tokens typed by someone else than the assistant became special ids, because the template
            looks into the text and the names could not be hidden from it; a server may want to refuse that.
    """

    ids: list[int]
    spans: list[tuple[int, int]]
    injectable: bool = False

    @property
    def supervised(self) -> list[bool]:
        """For each id, whether predicting it counts in the loss."""
        mask = [False] * len(self.ids)
        for start, end in self.spans:
            mask[start:end] = [True] * (end - start)
        return mask


class ChatRenderer:
    """Renders conversations in ChatML with a given tokenizer.

    Args:
        tokenizer: must have ``<|im_start|>`` and ``<|im_end|>``.
        template: the template stored with the model, when there is one.

    Raises:
        UserError: the template is not ours, or the tokenizer lacks the ChatML tokens.
    """

    def __init__(self, tokenizer: Tokenizer, template: str | None = None) -> None:
        if template is not None and template != CHAT_TEMPLATE:
            raise UserError("The chat template of this model is not ours (ChatML); open it with renderer_for.")
        self.tokenizer = tokenizer
        self._headers = {role: [tokenizer.im_start, *tokenizer.encode(f"{role}\n")] for role in ROLES}
        self._line_break = tokenizer.encode("\n")

    @property
    def stop_ids(self) -> tuple[int, int]:
        """Ids after which an answer is over: end of turn, and end of text for a model that never learnt turns."""
        return self.tokenizer.im_end, self.tokenizer.end_of_text

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> Rendered:
        """Ids and supervised spans of a conversation.

        Each message is stripped of the white space around it: header and content then have the same tokens apart as
        together, because no token starts with a line break and goes on with anything visible.

        Args:
            messages: mappings with a ``role`` (system, user, assistant or tool) and a ``content`` string.
            add_generation_prompt: open an answer at the end.
            tools: none: the models trained here were not taught to call any.

        Raises:
            UserError: no message, an unknown role, a content that is not a string or not Unicode, or tools.
        """
        if tools:
            raise UserError("This model was not taught to call tools; leave them out, or take another model.")
        if not messages:
            raise UserError("The conversation is empty; give it at least one message.")
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        for number, message in enumerate(messages, start=1):
            role, content = message.get("role"), message.get("content")
            if role not in ROLES:
                raise UserError(f"Message {number} has the role {role!r}; use one of {', '.join(ROLES)}.")
            if not isinstance(content, str):
                kind = type(content).__name__
                raise UserError(f"Message {number} has a content of type {kind}; write it as a string.")
            ids += self._headers[role]
            start = len(ids)
            ids += self.tokenizer.encode(content.strip())
            ids.append(self.tokenizer.im_end)
            if role == "assistant":
                spans.append((start, len(ids)))
            ids += self._line_break
        if add_generation_prompt:
            ids += self._headers["assistant"]
        return Rendered(ids, spans)


def renderer_for(
    folder: Path, tokenizer: Tokenizer, template_name: str | None = None
) -> "ChatRenderer | TemplateRenderer":
    """The chat renderer of a model folder.

    Args:
        folder: of the model.
        tokenizer: the model's own.
        template_name: a named template to use instead of the stored one.

    Returns:
        Ours when the stored template is ours; else one that runs the template.

    Raises:
        UserError: the model stores no template and none was named, or the template cannot be used.
    """
    from cadran.tokenizer.chat_template import find_template, tokenizer_configuration

    stored = None if template_name is not None else find_template(folder)
    return choose_renderer(tokenizer, stored, template_name, tokenizer_configuration(folder))


def choose_renderer(
    tokenizer: Tokenizer,
    stored: str | Mapping[str, str] | None,
    template_name: str | None = None,
    configuration: Mapping[str, Any] | None = None,
) -> "ChatRenderer | TemplateRenderer":
    """As ``renderer_for``, for a model that is not a folder (GGUF).

    Args:
        tokenizer: the model's own.
        stored: the model's chat template (``chat_template.stored_template``), None when it has none.
        template_name: a named template to use instead of the stored one.
        configuration: names the special tokens; that of the tokenizer when absent.
    """
    from cadran.tokenizer.chat_template import ChatTemplate, template_variables
    from cadran.tokenizer.template_renderer import TemplateRenderer
    from cadran.tokenizer.templates.named import NAMES, named_template, needed_tokens

    known = ", ".join(NAMES)
    if template_name is not None:
        stored = named_template(template_name)
        for token in needed_tokens(template_name):
            if len(ids := tokenizer.encode(token, special=True)) != 1 or not tokenizer.is_special(ids[0]):
                raise UserError(
                    f"The template {template_name} needs the token {token}, which this model lacks; "
                    f"name another with --template ({known}), or use none with --raw."
                )
    elif stored is None:
        raise UserError(
            "This model has no chat template, and a guess would spoil its answers; "
            f"name its format with --template NAME ({known}), or use none with --raw."
        )
    if stored == CHAT_TEMPLATE:
        return ChatRenderer(tokenizer)
    variables = template_variables(tokenizer.config if configuration is None else configuration)
    return TemplateRenderer(tokenizer, ChatTemplate(stored, variables))
