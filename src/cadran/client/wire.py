"""What goes over the wire and what comes back, without any input or output of its own."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cadran.errors import UserError

Message = Mapping[str, Any]
Prompt = str | Sequence[Message]


class ServerError(UserError):
    """The server refused or failed.

    Args:
        message: what it said, and what to do.
        status: of HTTP; 0 where it could not be reached.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that an answer took; ``cached`` ones of the prompt were not read anew."""

    prompt: int = 0
    generated: int = 0
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of an answer.

    Attributes:
        text: of the answer.
        reasoning: of what the model thinks before it.
        finish: why the answer ended (``stop``, ``length``, ``tool_calls``); only in its last piece.
        usage: only in the very last piece.
    """

    text: str = ""
    reasoning: str = ""
    finish: str | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; ``str(answer)`` is its text.

    Attributes:
        text: of it.
        reasoning: what the model thought before it.
        finish: why it ended.
        usage: what it took.
        message: as the server sent it, tool calls included: what the next request's messages go on with.
    """

    text: str
    reasoning: str
    finish: str
    usage: Usage
    message: Mapping[str, Any]

    def __str__(self) -> str:
        return self.text


def chat_request(model: str, prompt: Prompt, options: Mapping[str, Any], *, stream: bool) -> dict[str, Any]:
    """The body of a chat completion.

    Args:
        model: as the server calls it.
        prompt: one question, or the messages of a conversation.
        options: fields of the request; those that are None are left out.
        stream: whether the answer comes in pieces.
    """
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(turn) for turn in prompt]
    body = {"model": model, "messages": messages} | {
        name: value for name, value in options.items() if value is not None
    }
    return body | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})


def read_answer(body: Mapping[str, Any]) -> Answer:
    """A whole answer out of a body."""
    choice = body["choices"][0]
    message = choice["message"]
    return Answer(
        message.get("content") or "",
        message.get("reasoning_content") or "",
        choice.get("finish_reason") or "",
        _usage(body.get("usage")) or Usage(),
        message,
    )


def read_line(line: str) -> Piece | None:
    """A piece out of a line of the stream; None for lines that say nothing.

    Raises:
        ServerError: the answer failed on its way.
    """
    if not line.startswith("data:"):
        return None
    data = line[5:].strip()
    if not data or data == "[DONE]":
        return None
    chunk = json.loads(data)
    if "error" in chunk:
        raise ServerError(_said(chunk))
    usage = _usage(chunk.get("usage"))
    if not chunk.get("choices"):
        return Piece(usage=usage) if usage else None
    choice = chunk["choices"][0]
    delta = choice.get("delta") or {}
    piece = Piece(
        delta.get("content") or "", delta.get("reasoning_content") or "", choice.get("finish_reason"), usage
    )  # fmt: skip
    return None if piece == Piece() else piece


def refusal(status: int, body: bytes, url: str) -> ServerError:
    """What a status that is no success means."""
    try:
        said = _said(json.loads(body))
    except ValueError:
        said = f"the server at {url} answered with status {status}; is it one of Cadran's?"
    return ServerError(said, status)


def unreachable(url: str, error: Exception) -> ServerError:
    """Nobody answers."""
    reason = str(error) or type(error).__name__
    return ServerError(f"no server answers at {url} ({reason}); start one with cadran serve, or name another address")


def server_url(url: str) -> str:
    """The address without the path that SDKs want at its end.

    Raises:
        UserError: it is no address.
    """
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{url} is no address of a server; write for example http://127.0.0.1:8000")
    return url.rstrip("/").removesuffix("/v1")


def _said(content: Any) -> str:
    error = content.get("error", content) if isinstance(content, dict) else content
    message = error.get("message", error) if isinstance(error, dict) else error
    return f"the server refuses: {message}"


def _usage(content: Any) -> Usage | None:
    if not content:
        return None
    details = content.get("prompt_tokens_details") or {}
    return Usage(content["prompt_tokens"], content["completion_tokens"], details.get("cached_tokens") or 0)
