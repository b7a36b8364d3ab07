"""The one chat renderer: messages to ids, and to the spans that a model may learn from.

Training, evaluation and serving all come through here, so a model reads at work what it read at school. The ids equal
those that ``transformers`` makes from the template stored with the checkpoint, with one difference that is wanted:
``<|im_end|>`` typed inside a message is text and cannot end the turn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cadran.errors import UserError
from cadran.tokenizer.template import CHAT_TEMPLATE, ROLES
from cadran.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Rendered:
    """A conversation as the model reads it.

    Attributes:
        ids: token ids.
        spans: half-open ranges of ``ids`` that are targets: each answer and the ``<|im_end|>`` that stops it.
    """

    ids: list[int]
    spans: list[tuple[int, int]]

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
            raise UserError("The chat template of this model is not ours (ChatML); use the model without chat (--raw).")
        self.tokenizer = tokenizer
        self._headers = {role: [tokenizer.im_start, *tokenizer.encode(f"{role}\n")] for role in ROLES}
        self._line_break = tokenizer.encode("\n")

    @property
    def stop_ids(self) -> tuple[int, int]:
        """Ids after which an answer is over: end of turn, and end of text for a model that never learnt turns."""
        return self.tokenizer.im_end, self.tokenizer.end_of_text

    def render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False) -> Rendered:
        """Ids and supervised spans of a conversation.

        Each message is stripped of the white space around it: header and content then have the same tokens apart as
        together, because no token starts with a line break and goes on with anything visible.

        Args:
            messages: mappings with a ``role`` (system, user, assistant or tool) and a ``content`` string.
            add_generation_prompt: open an answer at the end.

        Raises:
            UserError: no message, an unknown role, a content that is not a string or not Unicode.
        """
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
