"""A prediction as server-sent events, from any place on and as often as somebody asks. Source: api-contracts 6.3.

Every event has an id, since clients drop those that have none; ``Last-Event-ID`` goes on behind it.
"""

import re
from collections.abc import Iterator
from functools import partial

from cadran.serve.answering import sse
from cadran.serve.followed import FollowedStream
from cadran.serve.replicate.output import streamable
from cadran.serve.replicate.prediction import Prediction


def frames(prediction: Prediction, position: int) -> Iterator[bytes]:
    """The bytes of the events from a position on, as far as they have come."""
    moment = int(prediction.created * 1000)
    for number, told in enumerate(prediction.told[position:], start=position):
        yield sse(streamable(told.data), told.event, f"{moment}:{number}")


def position_after(prediction: Prediction, last: str | None) -> int:
    """Where a client goes on that has seen the event of this id; at the beginning when it is none of this prediction's.

    Args:
        prediction: that is streamed.
        last: what the client says in ``Last-Event-ID``.
    """
    found = re.fullmatch(r"(\d{1,20}):(\d{1,9})", last or "", re.ASCII)
    if found is None or int(found[1]) != int(prediction.created * 1000):
        return 0
    return min(int(found[2]) + 1, len(prediction.told))


class PredictionStream(FollowedStream):
    """Follows a prediction to its end. The prediction goes on when the client goes away.

    Args:
        prediction: that is streamed.
        position: of its first event.
    """

    def __init__(self, prediction: Prediction, position: int) -> None:
        super().__init__(prediction, partial(frames, prediction), position)
