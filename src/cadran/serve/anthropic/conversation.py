"""A conversation of the Messages API as chat templates read it. Source: api-contracts 5.1.

Turns of the same role that follow each other are one turn; results of tools are turns of their own, before what the
user says with them; an assistant's turn at the end is the beginning of the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from cadran.serve.anthropic.content import PARAGRAPH, Block, block_text, checked, checked_data, text_of
from cadran.serve.api_error import ApiError
from cadran.serve.asked import Message

BILL = "x-anthropic-billing-header:"
"""Begins a block that Claude Code puts first among its instructions: for the accounts of Anthropic, and different with
every request, so that nothing of the prompt would ever be found in the cache."""

Role = Literal["system", "user", "assistant"]
Blocks = list[Any]
"""Each is looked at where it is read, so that a complaint names its place."""


class MessageSpec(BaseModel):
    """One turn as it came."""

    model_config = ConfigDict(extra="allow")

    role: Role
    content: str | Blocks


@dataclass
class _Turn:
    role: Role
    texts: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)

    @property
    def text(self) -> str:
        # What an assistant said in pieces was one text; what others say are paragraphs.
        return ("" if self.role == "assistant" else PARAGRAPH).join(self.texts)


def conversation(system: str | Blocks | None, messages: Sequence[MessageSpec]) -> tuple[tuple[Message, ...], str]:
    """What the model reads.

    Args:
        system: the instructions that stand before all, in one piece or in blocks.
        messages: the turns, at least one.

    Returns:
        The messages, and what the answer begins with ("" when the last turn is not the assistant's).

    Raises:
        ApiError: a block that cannot be read or stands in the wrong place, or nothing to answer.
    """
    turns: list[_Turn] = []
    if isinstance(system, list):
        system = [block for block in system if not _is_bill(block)]
    if instructions := text_of(system, "system"):
        turns.append(_Turn("system", [instructions]))
    for number, message in enumerate(messages):
        if not turns or turns[-1].role != message.role:
            turns.append(_Turn(message.role))
        _read(turns[-1], message.content, f"messages.{number}.content")
    prefill = ""
    if turns[-1].role == "assistant":
        last = turns.pop()
        if last.calls:
            raise ApiError("invalid", "the last message calls tools; send their results after it", param="messages")
        if not turns:
            raise ApiError("invalid", "there is nothing before the message to be continued", param="messages")
        prefill = last.text
    names: dict[str, str] = {}
    return tuple(message for turn in turns for message in _messages(turn, names)), prefill


def _is_bill(block: object) -> bool:
    match block:
        case {"type": "text", "text": str(text)}:
            return text.startswith(BILL)
    return False


def _read(turn: _Turn, content: str | Blocks, field: str) -> None:
    if isinstance(content, str):
        turn.texts.append(checked(content, field))
        return
    for number, block in enumerate(content):
        place = f"{field}.{number}"
        match block:
            case {"type": "tool_use"}:
                _only(turn, "assistant", block, place)
                turn.calls.append(_call(block, place))
            case {"type": "thinking", "thinking": str(thought)}:
                _only(turn, "assistant", block, place)
                turn.thoughts.append(checked(thought, place))
            case {"type": "redacted_thinking"}:  # nobody here can read it
                _only(turn, "assistant", block, place)
            case {"type": "tool_result"}:
                _only(turn, "user", block, place)
                turn.results.append(_result(block, place))
            case _:
                turn.texts.append(block_text(block, place))


def _only(turn: _Turn, role: Role, block: Block, field: str) -> None:
    if turn.role != role:
        raise ApiError("invalid", f"{field}: {block['type']} belongs into a message of the {role}", param=field)


def _call(block: Block, field: str) -> dict[str, Any]:
    match block:
        case {"id": str(id), "name": str(name), "input": {} as given} if name:
            function = {"name": checked(name, field), "arguments": checked_data(given, f"{field}.input")}
            return {"type": "function", "id": checked(id, field), "function": function}
    raise ApiError("invalid", f"{field}: a tool_use has an id, a name and an input, which is an object", param=field)


def _result(block: Block, field: str) -> dict[str, Any]:
    id = block.get("tool_use_id")
    if not isinstance(id, str):
        raise ApiError("invalid", f"{field}: a tool_result has a tool_use_id", param=field)
    text = text_of(block.get("content"), f"{field}.content")
    if block.get("is_error"):
        text = f"Error: {text}"  # templates have no other place for it
    return {"role": "tool", "tool_call_id": checked(id, field), "content": text}


def _messages(turn: _Turn, names: dict[str, str]) -> list[Message]:
    """The messages of a turn.

    Args:
        turn: to be told.
        names: of the tools that were called, by id of the call; grows.
    """
    told: list[Message] = []
    for result in turn.results:
        name = names.get(result["tool_call_id"])
        told.append(result if name is None else {**result, "name": name})
    said: dict[str, Any] = {"role": turn.role, "content": turn.text}
    if turn.thoughts:
        said["reasoning_content"] = PARAGRAPH.join(turn.thoughts)
    if turn.calls:
        said["tool_calls"] = turn.calls
        names |= {call["id"]: call["function"]["name"] for call in turn.calls}
    if turn.text or not told:
        told.append(said)
    return told
