"""One request from its admission to its last event: rendered, queued, computed, and told as the events of ``events``.

A generation that is closed, left by a cancelled task or whose client went away gives its place, its model and its
blocks back within one step.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter

from cadran.engine import event as engine_events
from cadran.engine.completion import Completion
from cadran.engine.compute_thread import EngineClosedError
from cadran.engine.engine import Engine
from cadran.engine.request import Finish, Scored
from cadran.engine.sampler import SamplingParams
from cadran.errors import UserError
from cadran.serve.api_error import ApiError
from cadran.serve.asked import GenerateRequest
from cadran.serve.closed_schema import closed_grammar
from cadran.serve.events import (
    Admitted,
    CallArguments,
    CallBegan,
    CallEnded,
    Event,
    Failed,
    Finished,
    Prefilled,
    Reason,
    Reasoned,
    Spoke,
    Used,
)
from cadran.serve.served_model import ServedModel
from cadran.serve.tools.output_format import Prompted
from cadran.serve.tools.output_reader import Argued, Called, Hung, OutputReader, Piece, PlainReader, Said, Thought
from cadran.serve.tools.stop_text import StopText

log = logging.getLogger(__name__)


class Generation:
    """The answers to one prompt: an async iterator of events.

    Args:
        request: what was asked.
        served: the model, lent for as long as this lasts.
        prompted: the prompt as the model reads it.
        deadline: when it ends with an error, by the event loop's clock; None for never.

    Attributes:
        prompt_tokens: of the prompt.
        prompt_ids: the prompt.
        room: most tokens of each answer; may be made less before it is started.
        generated: tokens of all answers, so far.
    """

    def __init__(
        self, request: GenerateRequest, served: ServedModel, prompted: Prompted, deadline: float | None = None
    ) -> None:
        self.request, self.served, self._prompted, self._deadline = request, served, prompted, deadline
        self.prompt_tokens, self.prompt_ids = len(prompted.ids), prompted.ids
        self._context = min(served.engine.context, request.context or served.engine.context)
        left = max(0, self._context - self.prompt_tokens)
        self.room, self.generated = min(left, request.max_tokens or left), 0
        self._completion: Completion | None = None
        self._writers: list[_Writer] = []
        self._late = False

    def start(self) -> None:
        """Hand it to the engine.

        Raises:
            ApiError: the engine refuses it.
        """
        request, engine = self.request, self.served.engine
        if self.room < 1:
            raise ApiError(
                "too_long",
                # Programs that shorten their conversation know the case by the words "this model's ... length is".
                f"the prompt has {self.prompt_tokens} tokens and this model's maximum context length is "
                f"{self._context} tokens, for the answer too; shorten it",
                code="context_length_exceeded",
            )
        chat = request.messages is not None
        ends = self._ends(engine, chat)
        size = engine.runner.vocabulary
        if (beyond := next((id for id, _ in request.sampling.get("logit_bias", ()) if id >= size), None)) is not None:
            raise ApiError(
                "invalid", f"logit_bias names {beyond} and the vocabulary ends at {size - 1}", param="logit_bias"
            )
        readers = [self._reader(chat) for _ in range(request.answers)]
        # What a model thinks and the calls it writes hold no stop strings, and the engine cannot tell them apart.
        plain = all(isinstance(reader, PlainReader) for reader in readers)
        stops = request.stop if plain else ()
        if not all(request.stop):
            raise ApiError("invalid", "a stop string is empty and would end every answer; leave it out", param="stop")
        try:
            params = SamplingParams(**{**request.sampling, "max_tokens": self.room})
            self._completion = engine.stream(
                self._prompted.ids, params, stop=stops, stop_ids=ends, grammar=self._prompted.grammar,
                answers=request.answers, logprobs=request.logprobs, top=request.top,
                prompt_logprobs=request.prompt_logprobs, guess=request.guess, shown_ids=self._prompted.shown_ids,
            )  # fmt: skip
        except UserError as error:
            raise ApiError.of(error) from error
        except TypeError as error:  # a field of the sampling that does not exist is a translator's mistake
            raise ApiError("internal", "the request could not be translated") from error
        waited_for = () if plain else request.stop
        single = not self._prompted.parallel
        self._writers = [_Writer(number, reader, StopText(waited_for), single) for number, reader in enumerate(readers)]

    def _ends(self, engine: Engine, chat: bool) -> tuple[int, ...]:
        ends: tuple[int, ...] = ()
        if not self.request.ignore_end:
            ends = engine.renderer.stop_ids if chat and engine.renderer is not None else engine.tokenizer.eos_ids
            ends = (*ends, *self._prompted.stop_ids)
        return tuple(dict.fromkeys((*ends, *self.request.stop_ids)))

    def _reader(self, chat: bool) -> OutputReader:
        return self.served.output.reader(self.request, self._prompted) if chat else PlainReader()

    async def events(self) -> AsyncGenerator[Event, None]:
        """From ``Prefilled`` to ``Used``, or to ``Failed``."""
        completion, begun, first = self._completion, perf_counter(), 0.0
        assert completion is not None, "start it first"
        cached, told = 0, False
        scored: tuple[Scored, ...] = ()
        spoken: Spoke | None = None
        alarm = None
        if self._deadline is not None:
            alarm = asyncio.get_running_loop().call_at(self._deadline, self._expire)
        try:
            async for event in completion:
                if event.prompt:
                    scored = event.prompt
                    continue
                if event.token is not None and not self._writers[event.index].over:
                    self.generated += 1
                if event.cached is not None:
                    cached = event.cached
                if not told:
                    told, first = True, perf_counter() - begun
                    yield Prefilled(cached, scored)
                for told_event in self._told(event):
                    if spoken is not None and isinstance(told_event, Spoke) and told_event.index == spoken.index:
                        spoken = Spoke(spoken.index, spoken.text + told_event.text, spoken.tokens + told_event.tokens)
                        continue
                    if spoken is not None:
                        yield spoken
                    spoken = told_event if isinstance(told_event, Spoke) else None
                    if spoken is None:
                        yield told_event
                # What came in one step is told in one piece: each costs a write here and a wake-up there.
                if spoken is not None and not completion.waiting:
                    yield spoken
                    spoken = None
                if all(writer.over for writer in self._writers):
                    break
        except EngineClosedError as error:
            yield Failed(ApiError.of(error))
            return
        except UserError as error:
            # A grammar that became too costly, or biases that left nothing to say, are not the server's failure.
            asked = self._prompted.grammar is not None or self.request.sampling.get("logit_bias")
            yield Failed(ApiError("invalid" if asked or not told else "internal", str(error)))
            return
        except Exception as error:
            log.exception("the engine failed", exc_info=error)
            yield Failed(ApiError("internal", "the engine failed on this answer; the server's log says why"))
            return
        finally:
            completion.close()
            if alarm is not None:
                alarm.cancel()
        if self._late:
            yield Failed(ApiError("timeout", "the request took longer than this server allows; ask for less"))
            return
        thought = sum(writer.thought for writer in self._writers)
        yield Used(self.prompt_tokens, cached, self.generated, thought, 0.0, first, perf_counter() - begun)

    def _told(self, event: engine_events.Event) -> Iterator[Event]:
        writer = self._writers[event.index]
        if writer.over:
            return
        yield from writer.push(event.text, event.scored, event.token is not None)
        if event.finish == "error":
            return  # it is not over: what went wrong is raised after the last event
        if event.finish is not None:
            yield from writer.end(self._reason(event.finish, writer.tokens), event.stop)
        elif writer.done:
            if self._completion is not None:
                self._completion.end(event.index)  # what nobody reads is not computed while the others go on
            yield from writer.end("eos", None)

    def _reason(self, finish: Finish, tokens: int) -> Reason:
        match finish:
            case "stop":
                return "eos"
            case "length":
                wanted = self.request.max_tokens
                return "length" if wanted is not None and tokens >= wanted else "context"
            case _:
                return "cancelled"

    def _expire(self) -> None:
        self._late = not all(writer.over for writer in self._writers)
        self.close()

    def close(self) -> None:
        """Stop computing; may be called at any time."""
        if self._completion is not None:
            self._completion.close()


@dataclass
class _Writer:
    """What was told of one answer.

    Attributes:
        index: of the answer.
        reader: tells reasoning, text and calls apart.
        stops: cuts what it says at a stop string.
        single: the answer is over with its first complete call.
        tokens: generated.
        thought: of those, for reasoning alone.
        calls: begun.
        whole: calls that are complete.
        done: nothing more is wanted of it.
        over: whether it has finished.
    """

    index: int
    reader: OutputReader
    stops: StopText
    single: bool = False
    tokens: int = 0
    thought: int = 0
    calls: int = 0
    whole: int = 0
    done: bool = False
    over: bool = False
    _scored: list[Scored] = field(default_factory=list)

    def push(self, text: str, scored: Scored | None, token: bool) -> Iterator[Event]:
        self.tokens += token
        thinking = self.reader.thinking
        self.thought += token and thinking
        if scored is not None and not thinking:
            self._scored.append(scored)
        # Tokens that brought no text of their own go with the next piece: together they make a character.
        yield from self._events(self.reader.push(text))

    def end(self, reason: Reason, stop: str | None) -> Iterator[Event]:
        yield from self._events(self.reader.end())
        rest = "" if self.done else self.stops.end()
        if rest or self._scored:
            yield self._spoke(rest)
        self.over = True
        stop = stop or self.stops.found
        if stop is not None:
            reason = "stop_string"
        elif self.whole and reason == "eos":
            reason = "tools"
        yield Finished(self.index, reason, stop)

    def _spoke(self, text: str) -> Spoke:
        tokens, self._scored = tuple(self._scored), []
        return Spoke(self.index, text, tokens)

    def _events(self, pieces: list[Piece]) -> Iterator[Event]:
        for piece in pieces:
            if self.done:
                return
            match piece:
                case Thought(text):
                    self._scored = []
                    yield Reasoned(self.index, text)
                case Said(text):
                    certain = self.stops.push(text)
                    self.done = self.stops.found is not None
                    if certain or self._scored:
                        yield self._spoke(certain)
                case Called(name):
                    if waiting := self.stops.end():  # it was no stop string after all
                        yield Spoke(self.index, waiting)
                    self._scored = []
                    yield CallBegan(self.index, self.calls, secrets.token_hex(12), name)
                    self.calls += 1
                case Argued(fragment):
                    self._scored = []
                    yield CallArguments(self.index, self.calls - 1, fragment)
                case Hung():
                    self._scored = []
                    self.whole += 1
                    self.done = self.single
                    yield CallEnded(self.index, self.calls - 1)


async def render(request: GenerateRequest, served: ServedModel) -> Prompted:
    """The prompt as ids, rendered in a thread.

    Raises:
        ApiError: the model cannot chat, its template refuses the conversation, or the prompt is empty.
    """

    def work() -> Prompted:
        engine, grammar = served.engine, closed_grammar(request.grammar)
        if request.messages is not None:
            if engine.renderer is None:
                raise ApiError("invalid", f"the model {served.known.name} only continues texts; ask /v1/completions")
            return served.output.prompted(replace(request, grammar=grammar), request.messages)
        prompt = request.prompt
        if not isinstance(prompt, str):
            return Prompted(tuple(prompt or ()), grammar)
        ids = engine.tokenizer.encode(prompt, special=True)
        opening = engine.opening_ids
        if ids[: len(opening)] != opening:  # the client may have written the beginning of the text itself
            ids = [*opening, *ids]
        return Prompted(tuple(ids), grammar)

    try:
        # Never on the event loop: however short the text, it waits for a long one that the tokenizer is at.
        return await asyncio.to_thread(work)
    except UserError as error:
        raise ApiError.of(error) from error


async def merged(generations: Sequence[Generation]) -> AsyncGenerator[Event, None]:
    """The events of several generations in one stream, as they come; answers are numbered through."""
    if len(generations) == 1:
        async for single in generations[0].events():
            yield single
        return
    queue: asyncio.Queue[tuple[int, Event | None]] = asyncio.Queue()

    async def forward(offset: int, generation: Generation) -> None:
        try:
            async for event in generation.events():
                queue.put_nowait((offset, event))
        except Exception as error:
            log.exception("a generation failed", exc_info=error)
            queue.put_nowait((offset, Failed(ApiError.of(error))))
        finally:
            queue.put_nowait((offset, None))

    tasks, offset = [], 0
    for generation in generations:
        tasks.append(asyncio.create_task(forward(offset, generation)))
        offset += generation.request.answers
    used, going = Used(), len(tasks)
    try:
        while going:
            offset, event = await queue.get()
            if event is None:
                going -= 1
            elif isinstance(event, Used):
                used = _sum(used, event)
            elif isinstance(event, Failed):
                yield event
                return
            elif isinstance(event, Admitted):
                yield event
            else:
                yield replace(event, index=event.index + offset)
        yield used
    finally:
        for task in tasks:
            task.cancel()
        for generation in generations:
            generation.close()


def _sum(one: Used, other: Used) -> Used:
    return Used(
        one.prompt_tokens + other.prompt_tokens,
        one.cached_tokens + other.cached_tokens,
        one.generated_tokens + other.generated_tokens,
        one.reasoning_tokens + other.reasoning_tokens,
        0.0,
        min(filter(None, (one.first_token, other.first_token)), default=0.0),
        max(one.seconds, other.seconds),
    )
