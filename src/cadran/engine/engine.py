"""The engine: a model, its tokenizer and its chat template behind one call that streams text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cadran.engine.sampler import SamplingParams, choose
from cadran.engine.torch_runner import TorchRunner
from cadran.errors import UserError
from cadran.files import read_json
from cadran.model.checkpoint import load_model
from cadran.model.transformer import Transformer
from cadran.tokenizer.renderer import ChatRenderer
from cadran.tokenizer.stream import IncrementalDecoder
from cadran.tokenizer.tokenizer import Tokenizer

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Event:
    """A piece of an answer.

    Attributes:
        text: whole characters, possibly none yet.
        token: id of the token that brought it; None in the last event when text was only waiting.
        finish: ``stop`` at a stop token, ``length`` when the limit was reached, else None.
    """

    text: str
    token: int | None
    finish: Literal["stop", "length"] | None = None


class Engine:
    """Generates text with one model.

    Args:
        model: in evaluation mode.
        tokenizer: the model's own.
        chats: whether it was taught turns; a base model only continues texts.
    """

    def __init__(self, model: Transformer, tokenizer: Tokenizer, *, chats: bool = True) -> None:
        self.model, self.tokenizer, self.chats = model, tokenizer, chats
        self.renderer = ChatRenderer(tokenizer)
        self._runner = TorchRunner(model)

    @classmethod
    def load(cls, folder: Path) -> "Engine":
        """Open a model directory.

        Raises:
            UserError: it is none, or it is damaged.
        """
        model = load_model(folder)
        return cls(model, Tokenizer.load(folder), chats=_has_template(folder))

    @property
    def context(self) -> int:
        """Most tokens of prompt and answer together."""
        return self.model.config.context

    def stream(self, ids: Sequence[int], params: SamplingParams, stop: Sequence[int]) -> Iterator[Event]:
        """Continue a sequence of tokens.

        Args:
            ids: the prompt, at least one token.
            params: how to choose; generation also ends where the context does.
            stop: ids that end the answer and are not part of it.

        Raises:
            UserError: the prompt leaves no room for an answer.
        """
        if len(ids) >= self.context:
            raise UserError(
                f"the prompt has {len(ids)} tokens and this model reads {self.context} with its answer; shorten it"
            )
        decoder = IncrementalDecoder(self.tokenizer)
        waiting, position = self._runner.rewind(ids), len(ids)
        limit = min(self.context, position + params.max_tokens)
        while position < limit:
            token = choose(self._runner.advance(waiting), params, position)
            if token in stop:
                yield Event(decoder.flush(), None, "stop")
                return
            position += 1
            yield Event(decoder.push(token), token)
            waiting = [token]
        yield Event(decoder.flush(), None, "length")

    def generate(self, prompt: str, params: SamplingParams) -> Iterator[Event]:
        """Continue a text as a document would go on (no chat template)."""
        ids = [self.tokenizer.end_of_text, *self.tokenizer.encode(prompt)]
        return self.stream(ids, params, [self.tokenizer.end_of_text])

    def chat(self, messages: Sequence[Message], params: SamplingParams) -> Iterator[Event]:
        """Answer a conversation; the oldest turns are forgotten when the context cannot hold them and an answer.

        Args:
            messages: ``role`` and ``content``, a leading system message is never forgotten.
            params: how to choose.
        """
        kept = list(messages)
        first = 1 if kept and kept[0]["role"] == "system" else 0
        # Half of the context is the least an answer is given, unless fewer tokens were asked for.
        room = min(params.max_tokens, self.context // 2)
        ids = self.renderer.render(kept, add_generation_prompt=True).ids
        while len(ids) + room > self.context and len(kept) > first + 1:
            del kept[first : first + 2 if kept[first]["role"] == "user" else first + 1]
            ids = self.renderer.render(kept, add_generation_prompt=True).ids
        return self.stream(ids, params, self.renderer.stop_ids)


def _has_template(folder: Path) -> bool:
    """Whether the model's tokenizer configuration carries a chat template."""
    try:
        return "chat_template" in read_json(folder / "tokenizer_config.json")
    except (OSError, ValueError):
        return False
