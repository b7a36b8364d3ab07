"""The whole answer of ``POST /v1/messages``, put together from what a stream would have told: so the two agree.

Source: api-contracts 5.2.
"""

from collections.abc import AsyncIterator
from typing import Any

from pydantic_core import from_json

from cadran.serve.anthropic.message_stream import MessageStream, Told
from cadran.serve.api_error import ApiError
from cadran.serve.events import Event, Failed


class MessageDraft:
    """A message that grows.

    Attributes:
        message: the body; complete after ``message_stop``.
    """

    def __init__(self) -> None:
        self.message: dict[str, Any] = {}
        self._pieces: list[str] = []
        self._signature = ""

    def take(self, told: Told) -> None:
        """Add an event of the stream.

        Raises:
            ApiError: it is an error.
        """
        match told:
            case {"type": "message_start", "message": message}:
                self.message = {**message, "content": []}
            case {"type": "content_block_start", "content_block": block}:
                self.message["content"].append(dict(block))
                self._pieces = []
            case {"type": "content_block_delta", "delta": {"type": "signature_delta", "signature": signature}}:
                self._signature = signature
            case {"type": "content_block_delta", "delta": delta}:
                self._pieces.append(delta.get("text") or delta.get("thinking") or delta.get("partial_json") or "")
            case {"type": "content_block_stop"}:
                self._complete(self.message["content"][-1], "".join(self._pieces))
            case {"type": "message_delta", "delta": delta, "usage": usage}:
                self.message |= delta
                self.message["usage"] = usage
            case {"type": "error", "error": {"message": message}}:
                raise ApiError("draining", message)
            case _:
                pass

    def _complete(self, block: dict[str, Any], text: str) -> None:
        match block["type"]:
            case "text":
                block["text"] = text
            case "thinking":
                block["thinking"], block["signature"] = text, self._signature
            case "tool_use":
                block["input"] = partial_object(text)


def partial_object(text: str) -> dict[str, Any]:
    """The JSON object that a text begins, as far as it goes: a call may be cut off at the limit of tokens."""
    try:
        found = from_json(text, allow_partial=True)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


async def message_body(events: AsyncIterator[Event], stream: MessageStream) -> dict[str, Any]:
    """Read to the end.

    Args:
        events: of the answer.
        stream: would have told them.

    Returns:
        The body.

    Raises:
        ApiError: the answer failed.
    """
    draft = MessageDraft()
    async for event in events:
        if isinstance(event, Failed):
            raise event.error
        for told in stream.told(event):
            draft.take(told)
    return draft.message
