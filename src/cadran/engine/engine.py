"""The engine: a model, its tokenizer and its chat template behind a few calls.

Threads and asyncio tasks may share one; their requests run together in one compute thread, and no answer depends on
what else is under way.
"""

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import copy
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from cadran.engine.adapters import NoSharingError, attaching, detaching
from cadran.engine.completion import Completion
from cadran.engine.compute_thread import ComputeThread, EngineClosedError
from cadran.engine.delivery import Delivery, Post
from cadran.engine.embedding import embedding
from cadran.engine.event import Event as Event  # where its readers have always found it
from cadran.engine.grammar import Grammar, GrammarCompiler
from cadran.engine.loading import (
    Drafting,
    Opened,
    Renderer,
    asked_runner,
    open_drafter,
    open_runner,
    open_tokenizer,
)
from cadran.engine.request import Request, Scored, check_asked
from cadran.engine.runner import Runner
from cadran.engine.sampler import SamplingParams
from cadran.engine.scheduler import Scheduler
from cadran.engine.statistics import Statistics
from cadran.errors import UserError
from cadran.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from cadran.model.transformer import Transformer

_GONE = -1  # instead of an adapter's number
Message = Mapping[str, Any]
Prompt = str | Sequence[int]


class Engine:
    """Generates, scores and embeds text with one model.

    Args:
        model: in evaluation mode, run by torch; its weights must not change while the engine lives. None when a
            runner is given.
        tokenizer: the model's own.
        renderer: of conversations; None for a model that only continues texts.
        opened: a runner that is ready, instead of the model.
        drafting: who guesses tokens for the model to verify; never changes a text.

    Attributes:
        model: as given, or the one the runner was made of; None with the native core.
        runner: what computes; only the engine's own thread may call it.
        runner_reason: why it is not the native core although it was free to be; else "".
    """

    def __init__(
        self,
        model: "Transformer | None",
        tokenizer: Tokenizer,
        renderer: "Renderer | None",
        *,
        opened: Opened | None = None,
        drafting: Drafting | None = None,
    ) -> None:
        if opened is None:
            if model is None:
                raise ValueError("an engine needs a model or a runner")
            from cadran.engine.torch_runner import TorchRunner

            opened = Opened(TorchRunner(model), model)
        self.model, self.tokenizer, self.renderer = opened.model, tokenizer, renderer
        self.runner, self.runner_reason = opened.runner, opened.reason
        # Some embeddings have more rows than there are tokens; those rows mean nothing.
        self.runner.vocabulary = min(self.runner.vocabulary, tokenizer.vocabulary_size)
        self._compute = _compute_thread(self.runner, drafting)
        self._path: Path | None = None
        self._adapter, self._shares = opened.adapter, False

    @classmethod
    def load(
        cls,
        path: Path,
        template: str | None = None,
        adapter: Path | None = None,
        *,
        runner: str | None = None,
        threads: int | None = None,
        context: int | None = None,
        kv: str = "f16",
        activations: str = "int16",
        draft: "Path | Literal['lookup'] | None" = None,
    ) -> "Engine":
        """Open a model.

        Args:
            path: a model directory, or a ``.gguf`` file.
            template: a named chat template to use instead of the model's own.
            adapter: folder of a LoRA adapter in PEFT's format, which is applied unmerged; see ``with_adapter``.
            runner: ``native``, ``torch`` or ``auto``; None takes what ``CADRAN_RUNNER`` says, else ``auto``.
            threads: of the computation; None takes what the machine gives.
            context: most tokens of prompt and answer together; None takes the model's own.
            kv: how the native core keeps keys and values, ``f32``, ``f16`` or ``int8``.
            activations: what the native core multiplies integer weights by: ``int16`` adds nothing to the weights' own
                rounding, ``int8`` reads prompts and serves many requests up to twice as fast.
            draft: a smaller model with the same vocabulary, whose guesses it verifies, or ``lookup``, which guesses
                that a text repeats itself. Faster where the guesses are often right, and never another text.

        Raises:
            UserError: it is no model, or it is damaged; there is no such template, the adapter or the draft model does
                not fit, or a setting is out of range.
        """
        choice = asked_runner(runner)
        # Reading the weights needs no Python: the tokenizer is opened meanwhile.
        with ThreadPoolExecutor(max_workers=1) as pool:
            opening = pool.submit(
                open_runner, path, choice, threads=threads, adapter=adapter, context=context, kv=kv,
                activations=activations,
            )  # fmt: skip
            tokenizer, renderer = open_tokenizer(path, template)
            opened = opening.result()
        drafting = None if draft is None else open_drafter(draft, choice, tokenizer, threads)
        engine = cls(None, tokenizer, renderer, opened=opened, drafting=drafting)
        engine._path = path
        return engine

    def with_adapter(self, folder: Path) -> "Engine":
        """The same model with a LoRA adapter upon it.

        Weights, memory and steps are shared: requests with and without it are computed together. Close it before the
        model; that ends its requests alone.

        Args:
            folder: of the adapter, in PEFT's format.

        Raises:
            NoSharingError: only the native core applies adapters to some requests and not to others, and only such as
                are low-rank maps upon the layers' matrices; ``Engine.load`` with the adapter opens a model of its own.
            UserError: it is no adapter, or it is another model's.
        """
        if self._path is None:
            raise NoSharingError("this model was made in memory; save it, and load it from there")
        number = self._compute.run(attaching(self.runner, self._path, folder)).result()
        with_it = copy(self)
        with_it._adapter, with_it._shares = number, True
        return with_it

    @property
    def chats(self) -> bool:
        """Whether it knows turns; a base model only continues texts."""
        return self.renderer is not None

    @property
    def context(self) -> int:
        """Most tokens of prompt and answer together."""
        return self.runner.context

    @property
    def statistics(self) -> Statistics:
        """Its figures now; counters begin anew when something in the engine failed."""
        blocks, scheduler = self.runner.blocks, self._compute.scheduler
        if scheduler is None:
            return Statistics(blocks)
        return Statistics(
            blocks,
            blocks - scheduler.free_blocks,
            scheduler.residents.put_backs,
            scheduler.counters.drafted,
            scheduler.counters.accepted,
        )

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        stop: str | Sequence[str] = (),
        stop_ids: Sequence[int] | None = None,
        grammar: Grammar | Mapping[str, Any] | None = None,
        answers: int = 1,
        logprobs: bool = False,
        top: int = 0,
        prompt_logprobs: bool = False,
        scored_from: int = 1,
        guess: Prompt = (),
        shown_ids: Collection[int] = (),
        **sampling: Any,
    ) -> Completion:
        """Continue a text or a sequence of tokens. Computing begins at once.

        Args:
            prompt: a text, continued as a document would go on (no chat template), or ids, taken as they are.
            params: how to choose; generation also ends where the context does.
            stop: strings that end an answer and are not part of it.
            stop_ids: the same for ids; None takes those that end a text.
            grammar: what an answer must match: one of ``{"json_schema": ...}``, ``{"json_object": True}``,
                ``{"regex": ...}``, ``{"choice": [...]}``, ``{"ebnf": ...}``, or a compiled one.
            answers: how many; answer i is drawn with ``seed + i``.
            logprobs: report the log-probability of every token.
            top: report this many of the likeliest tokens with every token, 0 to 64.
            prompt_logprobs: report the prompt's tokens with their log-probabilities.
            scored_from: index of the first token whose log-probability is wanted with them; what several prompts have
                in common before it is read once.
            guess: what the answer will probably contain; it is checked several tokens at a time, and changes nothing.
            shown_ids: special tokens whose names are part of the text, such as the marks of a tool call.
            sampling: single fields of ``params``, e.g. ``temperature=0``.

        Returns:
            The answers, to be read as events or whole.

        Raises:
            UserError: the prompt is empty or leaves no room for an answer, or an argument is out of range.
        """
        ids = self.prompt_ids(prompt) if isinstance(prompt, str) else [int(id) for id in prompt]
        stops = tuple(self.tokenizer.eos_ids if stop_ids is None else stop_ids)
        stops = tuple(id for id in stops if 0 <= id < self.tokenizer.vocabulary_size)  # others never come
        if grammar is not None:  # it ends with one of these, and nothing else
            stops = tuple(dict.fromkeys((*stops, *self._grammar_ends)))
        if self._adapter == _GONE:
            raise EngineClosedError("this adapter was taken from its model; put it there again")
        check_asked(ids, answers, top, self.context, self.tokenizer.vocabulary_size)
        request = Request(
            id=self._compute.next_id(),
            prompt=tuple(ids),
            params=replace(params or SamplingParams(), **sampling),
            stop_ids=stops,
            answers=answers,
            grammar=self.grammar(grammar) if isinstance(grammar, Mapping) else grammar,
            top=top,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            scored_from=max(1, scored_from),
            guess=tuple(self.tokenizer.encode(guess) if isinstance(guess, str) else guess),
            adapter=self._adapter,
        )
        post = Post()
        stops_at = (stop,) if isinstance(stop, str) else stop
        delivery = Delivery(request, self.tokenizer, stops_at, post, frozenset(shown_ids))
        compute, number = self._compute, request.id
        compute.submit(delivery)
        return Completion(post, answers, lambda: compute.cancel(number), lambda answer: compute.finish(number, answer))

    def generate(self, prompt: str, params: SamplingParams | None = None, **options: Any) -> Completion:
        """Continue a text as a document would go on (no chat template).

        ``print(engine.generate("Once upon a time"))`` waits for the whole text; ``for event in engine.generate(...)``
        shows it as it is made.

        Args:
            prompt: the text.
            params: how to choose.
            options: those of ``stream``, and single fields of ``params``.

        Raises:
            UserError: there is nothing to continue, and the model knows no beginning of text; or as ``stream``.
        """
        return self.stream(self.prompt_ids(prompt), params, **options)

    def prompt_ids(self, text: str) -> list[int]:
        """A text as the model reads it: what it was taught that a text begins with, then the text's own ids."""
        return [*self.opening_ids, *self.tokenizer.encode(text)]

    @property
    def opening_ids(self) -> list[int]:
        """What the model was taught that a text begins with."""
        if self.tokenizer.adds_bos and self.tokenizer.bos is not None:
            return [self.tokenizer.bos]
        # The documents that Cadran trains on begin where the one before ended.
        return [self.tokenizer.end_of_text] if self.tokenizer.is_ours else []

    def chat(self, messages: Sequence[Message], params: SamplingParams | None = None, **options: Any) -> Completion:
        """Answer a conversation; the oldest turns are forgotten when the context cannot hold them and an answer.

        Args:
            messages: ``role`` and ``content``, a leading system message is never forgotten.
            params: how to choose.
            options: those of ``stream``, and single fields of ``params``.

        Raises:
            UserError: the model knows no turns, or its template refuses these; or as ``stream``.
        """
        if self.renderer is None:
            raise UserError("this model has no chat template; name its format with --template, or use none with --raw")
        chosen = _chosen(params, options)
        kept = list(messages)
        first = 1 if kept and kept[0].get("role") == "system" else 0
        # Half of the context is the least an answer is given, unless fewer tokens were asked for.
        room = min(chosen.max_tokens, self.context // 2)
        ids = self.renderer.render(kept, add_generation_prompt=True).ids
        while len(ids) + room > self.context and len(kept) > first + 1:
            del kept[first : first + 2 if kept[first].get("role") == "user" else first + 1]
            ids = self.renderer.render(kept, add_generation_prompt=True).ids
        return self.stream(ids, chosen, **({"stop_ids": self.renderer.stop_ids} | options))

    def score(self, text: Prompt, top: int = 0) -> list[Scored]:
        """How likely each token of a text is, given those before it.

        Args:
            text: a text, which the model reads after its beginning of a text if it knows one; or ids, as they are.
            top: report this many of the likeliest tokens at each place, 0 to 64.

        Returns:
            The text's own tokens; the very first has no log-probability where nothing stands before it.

        Raises:
            UserError: the text is empty, or longer than the context less one.
        """
        opening = len(self.opening_ids) if isinstance(text, str) else 0
        read = self.stream(text, max_tokens=1, temperature=0, top=top, prompt_logprobs=True)
        return list(read.prompt[opening:])

    def embed(self, texts: Sequence[Prompt]) -> npt.NDArray[np.float32]:
        """Texts as vectors: the mean of the final hidden states of each, of length one.

        Args:
            texts: any number, or their ids without the beginning of a text; none of them empty, each within the
                context.

        Returns:
            Shape (n, width); the dot product of two rows is the cosine of their angle.

        Raises:
            UserError: a text is empty or too long, or an id is outside the vocabulary.
        """
        opening, size = self.opening_ids, self.tokenizer.vocabulary_size
        sequences = [[*opening, *(self.tokenizer.encode(text) if isinstance(text, str) else text)] for text in texts]
        for number, ids in enumerate(sequences, start=1):
            if len(ids) == len(opening):
                raise UserError(f"text {number} is empty; leave it out")
            if len(ids) > self.context:
                raise UserError(
                    f"text {number} has {len(ids)} tokens and this model reads {self.context}; cut it into pieces"
                )
            if not 0 <= min(ids) <= max(ids) < size:
                raise UserError(f"text {number} has ids outside 0 to {size - 1}; encode it anew")
        runner, skipped = self.runner, len(opening)
        adapter = self._adapter
        job = self._compute.run(lambda scheduler: embedding(scheduler, runner, sequences, skipped, adapter=adapter))
        return job.result()

    def grammar(self, description: Mapping[str, Any]) -> Grammar:
        """Compile what an answer must match; equal ones are compiled once.

        Args:
            description: see ``stream``.

        Raises:
            UserError: it is no grammar, or nothing can match it.
        """
        return self._grammars.described(description)

    @cached_property
    def _grammars(self) -> GrammarCompiler:
        return GrammarCompiler(self.tokenizer, self._grammar_ends)

    @cached_property
    def _grammar_ends(self) -> tuple[int, ...]:
        """Ids that end a text or a turn."""
        of_turns = self.renderer.stop_ids if self.renderer is not None else ()
        return tuple(dict.fromkeys((*of_turns, *self.tokenizer.eos_ids)))

    def close(self) -> None:
        """End what is under way and give the memory back; afterwards nothing more can be asked.

        Of an adapter that shares a model, its own requests and memory.
        """
        if not self._shares:
            self._compute.close()
        elif (number := self._adapter) != _GONE:
            self._adapter = _GONE
            with suppress(EngineClosedError):  # the model went first
                self._compute.run(detaching(self.runner, number)).result()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _chosen(params: SamplingParams | None, options: dict[str, Any]) -> SamplingParams:
    """The params with the fields among the options, which are taken out of them."""
    names = [field.name for field in fields(SamplingParams) if field.name in options]
    return replace(params or SamplingParams(), **{name: options.pop(name) for name in names})


def _compute_thread(runner: Runner, drafting: Drafting | None) -> ComputeThread[Scheduler]:
    """Apart from the engine, so that the thread holds the runners and not the engine."""

    def release() -> None:
        runner.close()
        if drafting is not None and drafting.runner is not None:
            drafting.runner.close()

    drafter = None if drafting is None else drafting.drafter
    return ComputeThread(lambda: Scheduler(runner, drafter=drafter), release)
