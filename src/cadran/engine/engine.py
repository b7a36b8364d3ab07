"""The engine: a model, its tokenizer and its chat template behind one call that streams text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from cadran.engine.sampler import SamplingParams, choose
from cadran.engine.torch_runner import TorchRunner
from cadran.errors import UserError
from cadran.model.checkpoint import load_model
from cadran.model.transformer import Transformer
from cadran.tokenizer.chat_template import find_template, stored_template, tokenizer_configuration
from cadran.tokenizer.renderer import ChatRenderer, choose_renderer
from cadran.tokenizer.stream import IncrementalDecoder
from cadran.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from cadran.tokenizer.template_renderer import TemplateRenderer

Message = dict[str, str]
Renderer: TypeAlias = "ChatRenderer | TemplateRenderer"


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
        renderer: of conversations; None for a model that only continues texts.
    """

    def __init__(self, model: Transformer, tokenizer: Tokenizer, renderer: "Renderer | None") -> None:
        self.model, self.tokenizer, self.renderer = model, tokenizer, renderer
        self._runner = TorchRunner(model)

    @classmethod
    def load(cls, path: Path, template: str | None = None, adapter: Path | None = None) -> "Engine":
        """Open a model.

        Args:
            path: a model directory, or a ``.gguf`` file.
            template: a named chat template to use instead of the model's own.
            adapter: folder of a LoRA adapter in PEFT's format, which is applied unmerged.

        Raises:
            UserError: it is no model, or it is damaged; there is no such template, or the adapter does not fit.
        """
        if path.is_file():
            from cadran.model.gguf.reader import GgufFile
            from cadran.tokenizer.gguf_vocabulary import tokenizer_from_gguf

            with GgufFile.open(path) as file:
                serialised, configuration = tokenizer_from_gguf(file.metadata)
            tokenizer = Tokenizer(serialised, config=configuration)
            stored = stored_template(configuration)
        else:
            tokenizer = Tokenizer.load(path)
            configuration, stored = tokenizer_configuration(path), find_template(path)
        chats = stored is not None or template is not None
        renderer = choose_renderer(tokenizer, stored, template, configuration) if chats else None
        model = load_model(path)
        if adapter is not None:
            from cadran.model.lora_files import load_adapter

            load_adapter(model, adapter)
        return cls(model, tokenizer, renderer)

    @property
    def chats(self) -> bool:
        """Whether it knows turns; a base model only continues texts."""
        return self.renderer is not None

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
        decoder = IncrementalDecoder(self.tokenizer, skip_special=True, continues=True)
        waiting, position = self._runner.rewind(ids), len(ids)
        limit = min(self.context, position + params.max_tokens)
        while position < limit:
            # Some embeddings have more rows than there are tokens; those rows mean nothing.
            logits = self._runner.advance(waiting)[: self.tokenizer.vocabulary_size]
            token = choose(logits, params, position)
            if token in stop:
                yield Event(decoder.flush(), None, "stop")
                return
            position += 1
            yield Event(decoder.push(token), token)
            waiting = [token]
        yield Event(decoder.flush(), None, "length")

    def generate(self, prompt: str, params: SamplingParams) -> Iterator[Event]:
        """Continue a text as a document would go on (no chat template).

        Raises:
            UserError: there is nothing to continue, and the model knows no beginning of text.
        """
        ids = [*self.opening_ids, *self.tokenizer.encode(prompt)]
        if not ids:
            raise UserError("the prompt is empty and this model knows no beginning of a text; give it a few words")
        return self.stream(ids, params, self.tokenizer.eos_ids)

    @property
    def opening_ids(self) -> list[int]:
        """What the model was taught that a text begins with."""
        if self.tokenizer.adds_bos and self.tokenizer.bos is not None:
            return [self.tokenizer.bos]
        # The documents that Cadran trains on begin where the one before ended.
        return [self.tokenizer.end_of_text] if self.tokenizer.is_ours else []

    def chat(self, messages: Sequence[Message], params: SamplingParams) -> Iterator[Event]:
        """Answer a conversation; the oldest turns are forgotten when the context cannot hold them and an answer.

        Args:
            messages: ``role`` and ``content``, a leading system message is never forgotten.
            params: how to choose.

        Raises:
            UserError: the model knows no turns, or its template refuses these.
        """
        if self.renderer is None:
            raise UserError("this model has no chat template; name its format with --template, or use none with --raw")
        kept = list(messages)
        first = 1 if kept and kept[0]["role"] == "system" else 0
        # Half of the context is the least an answer is given, unless fewer tokens were asked for.
        room = min(params.max_tokens, self.context // 2)
        ids = self.renderer.render(kept, add_generation_prompt=True).ids
        while len(ids) + room > self.context and len(kept) > first + 1:
            del kept[first : first + 2 if kept[first]["role"] == "user" else first + 1]
            ids = self.renderer.render(kept, add_generation_prompt=True).ids
        return self.stream(ids, params, self.renderer.stop_ids)
