"""The predictions of a server: computed apart from the connections that made them, kept for an hour after their end.

They are bounded in number and in memory; the oldest finished ones go first, of whoever has most. On the event loop.
"""

import secrets
import time
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any

from fastapi import Request

from cadran.serve.api_error import ApiError
from cadran.serve.asked import GenerateRequest
from cadran.serve.background import Background
from cadran.serve.family import service_of
from cadran.serve.replicate.prediction import Clock, Prediction
from cadran.serve.service import Service

KEPT_SECONDS = 3600.0
PAGE = 100


class Predictions:
    """Starts predictions and knows them by id.

    Args:
        service: that computes them; ends them when it ends.
        clock: seconds since 1970.
        most: predictions that are kept.
        most_bytes: memory that their texts may take, roughly.
    """

    def __init__(
        self, service: Service, *, clock: Clock = time.time, most: int = 2000, most_bytes: int = 128 << 20
    ) -> None:
        self._service, self._clock, self._most, self._most_bytes = service, clock, most, most_bytes
        self._known: dict[str, Prediction] = {}
        self._made = 0
        self._background = Background(service, "predictions", most=most, most_bytes=most_bytes)

    def start(
        self, request: GenerateRequest, *, model: str, version: str, input: Mapping[str, Any], owner: object,
        lifetime: float | None = None, logs_metrics: bool = False,
    ) -> Prediction:  # fmt: skip
        """Begin a prediction, which nobody needs to wait for.

        Args:
            request: what is asked.
            model: as ``owner/name``, to be shown.
            version: to be shown.
            input: to be shown.
            owner: who alone may see it.
            lifetime: seconds after which it is canceled.
            logs_metrics: whether its logs tell what it took.

        Raises:
            ApiError: those under way take all of the memory.
        """
        self._made += 1
        made = Prediction(
            secrets.token_hex(13), self._made, model=model, version=version, input=input, owner=owner,
            clock=self._clock, logs_metrics=logs_metrics,
        )  # fmt: skip
        begin = partial(self._service.begin, request)
        self._background.start(made, begin, ended=self._make_room, lifetime=lifetime)
        self._known[made.id] = made
        self._make_room()
        return made

    def get(self, id: str, owner: object) -> Prediction:
        """A prediction.

        Raises:
            ApiError: there is none of this id, or it is somebody else's.
        """
        found = self._known.get(id)
        if found is None or found.owner != owner or self._expired(found):
            raise ApiError("not_found", "there is no such prediction; they are kept for an hour after their end")
        return found

    def page(self, owner: object, cursor: str | None = None) -> tuple[list[Prediction], str | None, str | None]:
        """The latest predictions of somebody, the newest first.

        Args:
            owner: whose.
            cursor: None for the first page, or one that was returned.

        Returns:
            At most 100, and the cursors of the next and the previous page.

        Raises:
            ApiError: it is no cursor.
        """
        side, number = (cursor or "")[:1], (cursor or "")[1:]
        if cursor is not None and (side not in "<>" or not number.isdecimal() or len(number) > 18):
            raise ApiError("invalid", "the cursor is none of those that a list has given; leave it out")
        own = [
            prediction
            for prediction in reversed(self._known.values())
            if prediction.owner == owner and not self._expired(prediction)
        ]
        if side == ">":
            page = [prediction for prediction in own if prediction.number > int(number)][-PAGE:]
        else:
            page = [prediction for prediction in own if not side or prediction.number < int(number)][:PAGE]
        older = f"<{page[-1].number}" if page and page[-1] is not own[-1] else None
        newer = f">{page[0].number}" if page and page[0] is not own[0] else None
        return page, older, newer

    async def cancel(self, prediction: Prediction) -> None:
        """End a prediction; when this returns its place is free. One that is over stays as it is."""
        await self._background.cancel(prediction)

    def forget(self, prediction: Prediction) -> None:
        """Nobody has been told of it."""
        self._known.pop(prediction.id, None)

    async def end(self) -> None:
        """End all that are under way with an error: the server stops."""
        await self._background.end()

    def _expired(self, prediction: Prediction) -> bool:
        return prediction.completed is not None and self._clock() - prediction.completed > KEPT_SECONDS

    def _make_room(self) -> None:
        for prediction in [prediction for prediction in self._known.values() if self._expired(prediction)]:
            del self._known[prediction.id]
        held = self._bytes()
        if len(self._known) <= self._most and held <= self._most_bytes:
            return
        finished: dict[object, deque[Prediction]] = {}
        sizes: dict[object, int] = {}
        for prediction in self._known.values():
            if prediction.over:
                finished.setdefault(prediction.owner, deque()).append(prediction)
                sizes[prediction.owner] = sizes.get(prediction.owner, 0) + prediction.bytes
        while sizes and (len(self._known) > self._most or held > self._most_bytes):
            owner = max(sizes, key=lambda owner: sizes[owner])
            oldest = finished[owner].popleft()
            del self._known[oldest.id]
            held -= oldest.bytes
            sizes[owner] -= oldest.bytes
            if not finished[owner]:
                del sizes[owner]

    def _bytes(self) -> int:
        return sum(prediction.bytes for prediction in self._known.values())


def predictions_of(request: Request) -> Predictions:
    """The predictions of the server behind a request."""
    state = request.app.state
    if not hasattr(state, "predictions"):
        state.predictions = Predictions(service_of(request))
    found = state.predictions
    assert isinstance(found, Predictions)
    return found
