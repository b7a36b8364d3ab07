"""A response while it grows: the events of the stream, and the response object itself. Source: api-contracts 3.2, 3.3.

Plain answers come through here too, so a stream and its final response cannot say different things. Every item that was
added is done before the end, keeps its id, and has its place in the final output: accumulators rely on it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cadran.engine.request import Scored
from cadran.serve.api_error import ApiError, Kind
from cadran.serve.events import (
    Admitted,
    CallArguments,
    CallBegan,
    CallEnded,
    Event,
    Failed,
    Finished,
    Reason,
    Reasoned,
    Spoke,
    Used,
)

Wire = dict[str, Any]
"""An event of the stream, with its ``type`` and ``sequence_number``."""
Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]

# There is no event for a response that was cancelled; its status says so.
_ENDINGS: dict[Status, str] = {
    "completed": "response.completed", "incomplete": "response.incomplete", "cancelled": "response.incomplete",
    "failed": "response.failed",
}  # fmt: skip
_STATUS: dict[Reason, Status] = {"length": "incomplete", "context": "incomplete", "cancelled": "cancelled"}
_CODES: dict[Kind, str] = {
    "invalid": "invalid_prompt", "too_long": "invalid_prompt", "limited": "rate_limit_exceeded",
    "overloaded": "rate_limit_exceeded",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """What does not change.

    Attributes:
        id: ``resp_`` and 24 hexadecimal digits, which the ids of its items repeat.
        created: seconds since 1970.
        told: the fields that repeat the request.
        clock: tells the time of the end, seconds since 1970.
        summary: tell the reasoning as its own summary instead of as text; it is the whole of it either way.
        logprobs: makes the entries of tokens; None when they are not wanted.
    """

    id: str
    created: int
    told: Mapping[str, Any]
    clock: Callable[[], float]
    summary: bool = False
    logprobs: Callable[[Sequence[Scored]], list[dict[str, Any]]] | None = None

    def item_id(self, prefix: str, number: int) -> str:
        """The id of an item, from which that of its response can be told."""
        return f"{prefix}_{self.id.removeprefix('resp_')}{number:04x}"


def response_id_of(item_id: str) -> str:
    """The response that an item of this id would belong to; see ``ResponseHead.item_id``."""
    return f"resp_{item_id.partition('_')[2][:24]}"


@dataclass
class _Item:
    """One item of the output."""

    id: str
    kind: Literal["message", "reasoning", "function_call"]
    call_id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    status: str = "in_progress"

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def part(self, text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
        if self.kind == "message":
            return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}
        return {"type": "reasoning_text", "text": text}

    def shown(self, summary: bool, begun: bool = False) -> dict[str, Any]:
        """As it stands; ``begun``: as it is added, without any content."""
        if self.kind == "function_call":
            return {
                "id": self.id,
                "type": "function_call",
                "call_id": self.call_id,
                "name": self.name,
                "arguments": "" if begun else self.text,
                "status": self.status,
            }
        content = [] if begun else [self.part(self.text, list(self.logprobs))]
        shown: dict[str, Any] = {"id": self.id, "type": self.kind, "content": content, "status": self.status}
        if self.kind == "message":
            return shown | {"role": "assistant"}
        shown |= {"summary": [], "encrypted_content": None}
        if summary:
            shown["content"] = []
            shown["summary"] = [] if begun else [{"type": "summary_text", "text": self.text}]
        return shown


class ResponseEvents:
    """From the events of a generation to those of a response. Pure but for the head's clock.

    Args:
        head: what does not change.
        queued: whether it is told before it has its place; ``begin`` comes first then.

    Attributes:
        status: of the response.
        over: whether the last event was told.
    """

    def __init__(self, head: ResponseHead, queued: bool = False) -> None:
        self.head = head
        self.status: Status = "queued" if queued else "in_progress"
        self.over = False
        self._items: list[_Item] = []
        self._open: _Item | None = None
        self._blank = ""
        self._number = 0
        self._finish: Reason | None = None
        self._error: dict[str, Any] | None = None
        self._used: Used | None = None
        self._completed: int | None = None

    def begin(self) -> list[Wire]:
        """What is told before there is any event: the response waits for its place."""
        return [self._wire(f"response.{state}", response=self.snapshot()) for state in ("created", "queued")]

    def feed(self, event: Event) -> list[Wire]:
        """What an event means to the client."""
        return list(self._told(event))

    def _told(self, event: Event) -> Iterator[Wire]:
        if self.over:
            return
        if not self._number:
            yield self._wire("response.created", response=self.snapshot())
            yield self._wire("response.in_progress", response=self.snapshot())
        elif self.status == "queued" and not isinstance(event, Failed):
            self.status = "in_progress"
            yield self._wire("response.in_progress", response=self.snapshot())
        match event:
            case Admitted():
                pass
            case Reasoned(_, text) if text:
                yield from self._say("reasoning", text, ())
            case Spoke(_, text, tokens):
                yield from self._spoke(text, tokens)
            case CallBegan(_, _, id, name):
                yield from self._close("completed")
                item = _Item(self._id("fc"), "function_call", f"call_{id}", name)
                yield self._add(item)
            case CallArguments(_, _, fragment) if fragment:
                assert self._open is not None
                self._open.pieces.append(fragment)
                yield self._of_item("response.function_call_arguments.delta", self._open, delta=fragment)
            case CallEnded():
                yield from self._close("completed")
            case Finished(_, reason):
                self._finish = reason
                if not self._items and reason not in ("cancelled", "tools"):  # a response has a message, be it empty
                    yield from self._say("message", self._blank, ())
                whole = reason in ("eos", "stop_string", "tools") and not self._calling
                yield from self._close("completed" if whole else "incomplete")
            case Used():
                self._used = event
                yield from self._end("cancelled" if self._finish is None else _STATUS.get(self._finish, "completed"))
            case Failed(error):
                self._error = _error(error)
                yield from self._end("failed")
            case _:
                pass

    @property
    def _calling(self) -> bool:
        return self._open is not None and self._open.kind == "function_call"

    def _spoke(self, text: str, tokens: Sequence[Scored]) -> Iterator[Wire]:
        """White space between items waits: it is part of a message that goes on, and no message of its own."""
        speaking = self._open is not None and self._open.kind == "message"
        if not speaking:
            self._blank += text
            if not self._blank.strip():
                return
            text, self._blank = self._blank, ""
        if text or tokens:
            yield from self._say("message", text, tokens)

    def _say(self, kind: Literal["message", "reasoning"], text: str, tokens: Sequence[Scored]) -> Iterator[Wire]:
        item = self._open
        if item is None or item.kind != kind:
            yield from self._close("completed")
            item = _Item(self._id("msg" if kind == "message" else "rs"), kind)
            yield self._add(item)
            yield self._of_part(item, "added", "")
        self._blank = ""
        item.pieces.append(text)
        logprobs = self.head.logprobs(tokens) if self.head.logprobs is not None and tokens else []
        item.logprobs += logprobs
        if text or logprobs:
            yield self._of_text(item, "delta", delta=text, logprobs=logprobs)

    def _add(self, item: _Item) -> Wire:
        self._blank, self._open = "", item
        self._items.append(item)
        return self._wire(
            "response.output_item.added",
            output_index=len(self._items) - 1,
            item=item.shown(self.head.summary, begun=True),
        )

    def _close(self, status: str) -> Iterator[Wire]:
        item, self._open = self._open, None
        if item is None:
            return
        item.status = status
        if item.kind != "function_call":
            yield self._of_text(item, "done", text=item.text, logprobs=list(item.logprobs))
            yield self._of_part(item, "done", item.text)
        elif status == "completed":  # of a call that was cut nobody may believe the arguments
            item.pieces = [item.text or "{}"]
            yield self._of_item("response.function_call_arguments.done", item, arguments=item.text, name=item.name)
        yield self._wire(
            "response.output_item.done", output_index=self._items.index(item), item=item.shown(self.head.summary)
        )

    def _end(self, status: Status) -> Iterator[Wire]:
        yield from self._close("incomplete")
        self.status, self.over = status, True
        if status == "completed":
            self._completed = int(self.head.clock())
        yield self._wire(_ENDINGS[status], response=self.snapshot())

    def cancel(self) -> list[Wire]:
        """The client has gone before the end, or does not want it: what is told to whoever has stayed."""
        return [] if self.over else list(self._end("cancelled"))

    def fail(self, error: ApiError) -> Wire:
        """Replaces the last event, whose response could not be kept."""
        self._number -= 1
        self._error, self.status, self.over = _error(error), "failed", True
        return self._wire(_ENDINGS["failed"], response=self.snapshot())

    def snapshot(self) -> dict[str, Any]:
        """The response object as it stands."""
        head, incomplete = self.head, self.status == "incomplete"
        return {
            "id": head.id,
            "object": "response",
            "created_at": head.created,
            "completed_at": self._completed,
            "status": self.status,
            "error": self._error,
            "incomplete_details": {"reason": "max_output_tokens"} if incomplete else None,
            "output": [item.shown(head.summary) for item in self._items],
            "usage": None if self._used is None else usage_of(self._used),
        } | dict(head.told)

    def _id(self, prefix: str) -> str:
        return self.head.item_id(prefix, len(self._items))

    def _wire(self, type: str, **fields: Any) -> Wire:
        number, self._number = self._number, self._number + 1
        return {"type": type, "sequence_number": number} | fields

    def _of_item(self, type: str, item: _Item, **fields: Any) -> Wire:
        return self._wire(type, item_id=item.id, output_index=self._items.index(item), **fields)

    def _of_text(self, item: _Item, what: str, **fields: Any) -> Wire:
        if item.kind == "message":
            return self._of_item(f"response.output_text.{what}", item, content_index=0, **fields)
        del fields["logprobs"]
        if self.head.summary:
            return self._of_item(f"response.reasoning_summary_text.{what}", item, summary_index=0, **fields)
        return self._of_item(f"response.reasoning_text.{what}", item, content_index=0, **fields)

    def _of_part(self, item: _Item, what: str, text: str) -> Wire:
        if item.kind == "reasoning" and self.head.summary:
            part = {"type": "summary_text", "text": text}
            return self._of_item(f"response.reasoning_summary_part.{what}", item, summary_index=0, part=part)
        logprobs = list(item.logprobs) if what == "done" else []
        return self._of_item(f"response.content_part.{what}", item, content_index=0, part=item.part(text, logprobs))


def cut_off(body: Mapping[str, Any], error: ApiError | None) -> tuple[dict[str, Any], list[Wire]]:
    """A response that its server does not bring to an end.

    Args:
        body: as it stood.
        error: why it failed; None where it was cancelled.

    Returns:
        The response object, and the events of a stream that say no more than that.
    """
    status: Status = "cancelled" if error is None else "failed"
    output = [
        {**item, "status": "completed" if item["status"] == "completed" else "incomplete"} for item in body["output"]
    ]
    ended = {**body, "status": status, "error": None if error is None else _error(error), "output": output}
    told = (("response.created", {**body, "output": []}), (_ENDINGS[status], ended))
    return ended, [
        {"type": type, "sequence_number": number, "response": response} for number, (type, response) in enumerate(told)
    ]


def usage_of(used: Used) -> dict[str, Any]:
    """``usage``; all that was read anew is written to the cache of prefixes."""
    return {
        "input_tokens": used.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": used.cached_tokens,
            "cache_write_tokens": used.prompt_tokens - used.cached_tokens,
        },
        "output_tokens": used.generated_tokens,
        "output_tokens_details": {"reasoning_tokens": used.reasoning_tokens},
        "total_tokens": used.prompt_tokens + used.generated_tokens,
    }


def _error(error: ApiError) -> dict[str, Any]:
    return {"code": _CODES.get(error.kind, "server_error"), "message": error.message}
