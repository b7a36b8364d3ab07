"""One prediction: what was asked, how far it has come, and who waits for it. Source: api-contracts 6.2."""

import asyncio
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from cadran.serve.answering import to_json
from cadran.serve.api_error import ApiError
from cadran.serve.events import Admitted, Event, Failed, Finished, Prefilled, Reasoned, Spoke, Used
from cadran.serve.followed import News
from cadran.serve.replicate.output import OutputItems

Status = Literal["starting", "processing", "succeeded", "failed", "canceled"]
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Told:
    """An event of the prediction's stream.

    Attributes:
        event: ``output``, ``logs``, ``error`` or ``done``.
        data: of it.
    """

    event: Literal["output", "logs", "error", "done"]
    data: str


class Prediction:
    """Follows the events of an exchange. On the event loop.

    Args:
        id: of it.
        number: grows with every prediction.
        model: as ``owner/name``.
        version: digest of the weights, or ``hidden`` where the model was asked for by its name.
        input: to be shown.
        owner: whose it is.
        clock: seconds since 1970.
        logs_metrics: whether the logs tell what it took.

    Attributes:
        status: how far it is.
        told: the events of its stream so far; it is over when the last is ``done``.
        refused: why it never began.
        begun: set when it has a place, or is over.
        ended: set when it is over.
        created, started, completed: seconds since 1970; None before.
        bytes: memory of its texts, roughly.
    """

    def __init__(
        self, id: str, number: int, *, model: str, version: str, input: Mapping[str, Any], owner: object, clock: Clock,
        logs_metrics: bool = False,
    ) -> None:  # fmt: skip
        self.id, self.number, self.model, self.version = id, number, model, version
        self.input, self.owner, self._clock, self._logs_metrics = dict(input), owner, clock, logs_metrics
        self.status: Status = "starting"
        self.told: list[Told] = []
        self.refused: ApiError | None = None
        self.begun, self.ended, self._news = asyncio.Event(), asyncio.Event(), News()
        self.created = clock()
        self.started: float | None = None
        self.completed: float | None = None
        self._items = OutputItems()
        self._error: str | None = None
        self._metrics: dict[str, float] = {}
        self._cancelled = False
        self.bytes = 4000 + sum(100 + sys.getsizeof(text) for text in _texts(input))

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.ended.is_set()

    async def news(self) -> None:
        """Wait until more has been told."""
        await self._news.wait()

    def feed(self, event: Event) -> None:
        """Take an event of the exchange."""
        if self.over:
            return
        match event:
            case Admitted():
                self.status, self.started = "processing", self._clock()
                self.begun.set()
            case Prefilled():
                pass
            case Spoke(_, text):
                self._tell("output", *self._items.push(text))
            case Reasoned(_, text):
                self._tell("logs", text)
            case Finished(_, reason):
                self._cancelled = reason == "cancelled"
                self._tell("output", *self._items.end())
            case Failed(error):
                self.fail(error)
            case Used():
                self._measure(event)
                self._end("canceled" if self._cancelled else "succeeded")
            case _:  # no tools are offered, so none are called
                pass

    def cancel(self) -> None:
        """End it at somebody's wish."""
        if not self.over:
            self._tell("output", *self._items.end())
            self._end("canceled")

    def fail(self, error: ApiError) -> None:
        """End it with an error."""
        if self.over:
            return
        if self.started is None:
            self.refused = error
        self._tell("output", *self._items.end())
        self._error = error.message
        self._tell("error", error.message)
        self._end("failed")

    def _measure(self, used: Used) -> None:
        generating = used.seconds - used.first_token
        self._metrics = {
            "input_token_count": used.prompt_tokens,
            "output_token_count": used.generated_tokens,
            "time_to_first_token": used.first_token,
            "tokens_per_second": used.generated_tokens / used.seconds if used.seconds > 0 else 0.0,
        }
        if self._logs_metrics:
            self._tell(
                "logs",
                f"{used.prompt_tokens} tokens of prompt, {used.cached_tokens} of them cached\n"
                f"{used.first_token:.3f} s to the first token after {used.queued:.3f} s in the queue\n"
                f"{used.generated_tokens} tokens in {max(generating, 0.0):.3f} s\n",
            )

    def _end(self, status: Status) -> None:
        self.status, self.completed = status, self._clock()
        if self.started is not None:
            self._metrics["predict_time"] = max(self.completed - self.started, 0.0)
        self._metrics["total_time"] = max(self.completed - self.created, 0.0)
        reason = {"failed": "error", "canceled": "canceled"}.get(status)
        self._tell("done", to_json({"reason": reason} if reason else {}))
        self.begun.set()
        self.ended.set()

    def _tell(self, event: Literal["output", "logs", "error", "done"], *texts: str) -> None:
        if texts:
            self.told += [Told(event, text) for text in texts]
            self.bytes += sum(160 + sys.getsizeof(text) for text in texts)
            self._news.tell()

    def body(self, base: str, *, fresh: bool = False) -> dict[str, Any]:
        """As clients read it.

        Args:
            base: scheme and host that its addresses begin with.
            fresh: tell it as if nothing had happened yet. A client that has created it, and is to ask again, would
                take anything else for the end, or lose what it is told here.
        """
        output: list[str] | None = None
        if not fresh and self.started is not None:
            output = [told.data for told in self.told if told.event == "output"]
        address = f"{base}/v1/predictions/{self.id}"
        return {
            "id": self.id,
            "model": self.model,
            "version": self.version,
            "status": "starting" if fresh else self.status,
            "input": self.input,
            "output": output,
            "logs": "" if fresh else "".join(told.data for told in self.told if told.event == "logs"),
            "error": None if fresh else self._error,
            "metrics": {} if fresh else {name: round(value, 6) for name, value in self._metrics.items()},
            "created_at": timestamp(self.created),
            "started_at": None if fresh else timestamp(self.started),
            "completed_at": None if fresh else timestamp(self.completed),
            "data_removed": False,
            "source": "api",
            "urls": {
                "get": address,
                "cancel": f"{address}/cancel",
                "stream": f"{address}/stream",
                "web": f"{base}/",
            },
        }


def _texts(input: Mapping[str, Any]) -> list[str]:
    """Those that may be long, or many."""
    texts = [text for name, value in input.items() for text in (name, value) if isinstance(text, str)]
    return texts + [text for turn in input.get("messages") or () if isinstance(turn, dict) for text in turn.values()]


def timestamp(seconds: float | None) -> str | None:
    """Seconds since 1970 as RFC 3339 writes them, in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
