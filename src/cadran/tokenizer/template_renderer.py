"""The renderer of a foreign checkpoint: its own chat template, and the ids that ``transformers`` makes of it.

The template writes the special tokens itself, BOS included, so nothing is added to its text. What a user typed is
another matter: ``<|im_end|>`` inside a message must not end the turn. A conversation that holds the name of a special
token is therefore rendered with the name hidden (``special_names``), and the name is encoded as text. Everything else
in it, and every conversation without such names, has exactly the ids of ``transformers``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

from cadran.errors import UserError
from cadran.tokenizer.chat_template import ChatTemplate
from cadran.tokenizer.renderer import Rendered
from cadran.tokenizer.special_names import HidingEncoder, SpecialNames, choose_marks
from cadran.tokenizer.tokenizer import Tokenizer

_QUESTION, _ANSWER = "a question", "an answer"

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]] | None
Encoder = Callable[[str], list[int]]


class _Chat(NamedTuple):
    """What a template is given."""

    messages: Messages
    tools: Tools
    extra: Mapping[str, Any]


class TemplateRenderer:
    """Renders conversations with a checkpoint's chat template.

    Args:
        tokenizer: the checkpoint's own.
        template: the checkpoint's own, or a named one.
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate) -> None:
        self.tokenizer, self.template = tokenizer, template
        self._special = SpecialNames(tokenizer)

    def text(self, messages: Messages, add_generation_prompt: bool = False, tools: Tools = None, **extra: Any) -> str:
        """The conversation as the template writes it; see ``ChatTemplate.render``."""
        return self.template.render(messages, tools, add_generation_prompt, **extra)

    def render(
        self, messages: Messages, add_generation_prompt: bool = False, tools: Tools = None, **extra: Any
    ) -> Rendered:
        """Ids and supervised spans of a conversation.

        Args:
            messages: mappings, usually with ``role`` and ``content``.
            add_generation_prompt: open an answer at the end. There are no spans then: such a text is continued, not
                learnt.
            tools: JSON schemas of functions.
            **extra: further variables of the template, and ``now`` (see ``ChatTemplate.render``).

        Returns:
            The ids of ``transformers``. A span is an answer as the model has to write it after the generation prompt,
            with the token that stops it; or what the template puts in ``{% generation %}``. An answer that the
            template writes otherwise once the conversation goes on (its reasoning taken out) is no target there.

        Raises:
            UserError: see ``ChatTemplate.render``; or a text that is not Unicode.
        """
        chat = _Chat(messages, tools, extra)
        text, answers = self._write(chat, add_generation_prompt)
        encode: Encoder = partial(self.tokenizer.encode, special=True)
        injectable = False
        if names := self._special.within(chat):
            hidden = self._hidden(chat, names, text, add_generation_prompt)
            if hidden is None:
                injectable = True
            else:
                chat, encode = hidden
                text, answers = self._write(chat, add_generation_prompt)
        ids = encode(text)
        if add_generation_prompt:
            return Rendered(ids, [], injectable)
        if self.template.marks_answers(tools):
            spans = [(_common(ids, encode(text[:start])), _common(ids, encode(text[:end]))) for start, end in answers]
        else:
            spans = list(self._answers(chat, text, ids, encode))
        return Rendered(ids, [(start, end) for start, end in spans if start < end], injectable)

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids after which an answer is over: what the template writes after one, and the ends of text."""
        return tuple(dict.fromkeys((*self._turn_ends(), *self.tokenizer.eos_ids)))

    def _write(self, chat: _Chat, prompt: bool) -> tuple[str, list[tuple[int, int]]]:
        return self.template.render_marked(chat.messages, chat.tools, prompt, **chat.extra)

    def _turn_ends(self) -> list[int]:
        """The special token that the template writes right after an answer, if it writes one."""
        conversation = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
        try:
            _, found, rest = self.template.render(conversation).rpartition(_ANSWER)
        except UserError:  # it wants other conversations than this one
            return []
        first = self.tokenizer.encode(rest.lstrip(), special=True)[:1] if found else []
        return [id for id in first if self.tokenizer.is_special(id)]

    def _hidden(self, chat: _Chat, names: list[str], text: str, prompt: bool) -> tuple[_Chat, HidingEncoder] | None:
        """The conversation without names of special tokens, and the encoder that knows what stands for them.

        Templates may look into answers, for the reasoning in them; if this one does, those are left as they are.

        Returns:
            None if the template does not write ``text`` when the names are hidden: it looks at them elsewhere.
        """
        marks = choose_marks(names, chat, text)
        if marks is None:
            return None
        encode = HidingEncoder(self.tokenizer, marks)
        for spared in (None, "assistant"):
            messages = [
                message if spared and message.get("role") == spared else self._special.hidden(message, marks)
                for message in chat.messages
            ]
            hidden = _Chat(messages, self._special.hidden(chat.tools, marks), self._special.hidden(chat.extra, marks))
            try:
                if encode.shown(self._write(hidden, prompt)[0]) == text:
                    return hidden, encode
            except UserError:
                continue
        return None

    def _answers(self, chat: _Chat, text: str, ids: list[int], encode: Encoder) -> Iterator[tuple[int, int]]:
        """What the template adds to the generation prompt when an answer is there, up to its stop token."""
        stops = set(self.stop_ids)
        for number, message in enumerate(chat.messages):
            if message.get("role") != "assistant":
                continue
            try:
                before, _ = self._write(chat._replace(messages=chat.messages[:number]), True)
                after, _ = self._write(chat._replace(messages=chat.messages[: number + 1]), False)
            except UserError:  # some templates refuse half a conversation
                continue
            if not after.startswith(before):
                continue
            written = after[: _common(text, after)]
            start, end = _common(ids, encode(before)), _common(ids, encode(written))
            stopped = next((place + 1 for place in range(start, end) if ids[place] in stops), None)
            if stopped is not None:  # what follows a stop is never generated
                yield start, stopped
            elif written == after:
                yield start, end


def _common(left: Sequence[Any], right: Sequence[Any]) -> int:
    """Length of the common beginning."""
    pairs = zip(left, right, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(left), len(right)))
