"""Conversations as tokens, for any renderer: what the assistant writes is learnt, with the token that stops it.

The mask comes from the renderer's spans and from nothing else, never from a comparison with a padding id. A row whose
answers would not be learnt as they are meant (nothing supervised, no stop token, a role or a tool call that the
template leaves out) is refused by name.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Generic, TypeVar

import numpy as np

from cadran.align.data.messages import Turn
from cadran.align.data.row import Conversation, Row, content_of
from cadran.align.rendering import TRAINING_DATE, rendered
from cadran.corpus.shards import EncodedDocument
from cadran.errors import UserError
from cadran.tokenizer.renderer import ChatRenderer, Rendered
from cadran.tokenizer.template_renderer import TemplateRenderer

Renderer = ChatRenderer | TemplateRenderer
Tools = list[dict[str, Any]] | None
AnyRow = TypeVar("AnyRow", bound=Row)


class RefusedRow(UserError):
    """One row cannot be learnt from; others may be."""


class NoStopToken(UserError):
    """No row can be learnt with this template; not the fault of a row."""


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """Rows ready for training.

    Attributes:
        documents: one for each row that is learnt.
        rows: those rows, in the same order.
        refused: a sentence for each row that is not.
        shortened: names of the rows that lost their last turns to fit.
    """

    documents: list[EncodedDocument]
    rows: list[Conversation]
    refused: list[str]
    shortened: list[str]


@dataclass(frozen=True, slots=True)
class Split(Generic[AnyRow]):
    """Rows to learn from and rows to measure with.

    Attributes:
        train: rows to learn from.
        held_out: rows that no gradient sees.
        said: how they were divided, in one sentence.
    """

    train: list[AnyRow]
    held_out: list[AnyRow]
    said: str


def encode_chat(
    messages: Sequence[Turn],
    tools: Tools,
    renderer: Renderer,
    context: int,
    source: str,
    language: str = "und",
) -> EncodedDocument:
    """The tokens of a conversation, with its answers (tool calls included, tool results not) as targets.

    Args:
        messages: ``role`` and ``content``; see ``cadran.align.data.messages``.
        tools: JSON schemas on offer, or None.
        renderer: of the model that will learn it.
        context: most pairs (input, target). The last turns are left out when the whole does not fit.
        source: names the row in an error.
        language: ISO 639-1 code.

    Returns:
        Ids up to the last target, shape (n,), n - 1 <= context.

    Raises:
        RefusedRow: this row has no answer, does not fit, or cannot be written by the template as it is.
        UserError: the template writes no stop token, so no row can be learnt.
    """
    return _encode(messages, tools, renderer, context, source, language)[0]


def encode_rows(rows: Sequence[Conversation], renderer: Renderer, context: int) -> EncodedRows:
    """``encode_chat`` of many rows; those that are refused are named, not raised.

    Raises:
        UserError: the template writes no stop token.
    """
    encoded = EncodedRows([], [], [], [])
    for row in rows:
        try:
            document, turns = _encode(row.messages, row.tools, renderer, context, row.source, row.language)
        except RefusedRow as refusal:
            encoded.refused.append(str(refusal))
            continue
        encoded.documents.append(document)
        encoded.rows.append(row)
        if turns < sum(turn["role"] == "assistant" for turn in row.messages):
            encoded.shortened.append(row.source)
    return encoded


def split_rows(rows: Sequence[AnyRow], share: float, seed: int) -> Split[AnyRow]:
    """Hold out a part of the rows, by a hash of what comes before the first answer.

    Rows with the same prompt are on the same side, so no held-out question is ever seen; and a row stays on its side
    when others are added (except that one prompt is held out even when the share would take none). Where all rows
    have one prompt, the whole row is hashed.

    Args:
        rows: of any type.
        share: of the prompts, in [0, 1); 0 holds out nothing.
        seed: of the hash.

    Raises:
        UserError: there are fewer than two different rows.
        ValueError: the share is not in [0, 1).
    """
    if not 0 <= share < 1:
        raise ValueError(f"the held-out share {share} is not in [0, 1)")
    if not share:
        return Split(list(rows), [], f"{len(rows):,} rows to learn from, none held out")
    for key in (_prompt_of, content_of):
        places = [_place(key(row), seed) for row in rows]
        if len(set(places)) > 1:
            break
    else:
        raise UserError("There are fewer than two different rows; add some, because a part is held out to measure.")
    limit = max(share, min(places))  # at least one prompt is held out
    if limit >= max(places):  # and one is learnt
        limit = max(place for place in places if place < max(places))
    held_out = [row for row, place in zip(rows, places, strict=True) if place <= limit]
    train = [row for row, place in zip(rows, places, strict=True) if place > limit]
    said = f"{len(train):,} rows to learn from, {len(held_out):,} held out (chosen by a hash of their question)"
    return Split(train, held_out, said)


def _prompt_of(row: Row) -> list[Turn]:
    answers = [number for number, turn in enumerate(row.messages) if turn["role"] == "assistant"]
    return row.messages[: answers[0]] if answers else row.messages


def _place(content: Any, seed: int) -> float:
    """A number in [0, 1) that depends on the content and the seed alone."""
    text = json.dumps([seed, content], ensure_ascii=False, default=str)
    digest = sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _encode(
    messages: Sequence[Turn], tools: Tools, renderer: Renderer, context: int, source: str, language: str
) -> tuple[EncodedDocument, int]:
    """The document, and how many of the answers are in it."""
    ends = [number for number, turn in enumerate(messages, start=1) if turn["role"] == "assistant"]
    if not ends:
        raise RefusedRow(f"{source}: it has no answer to learn from; add an assistant message or remove the row.")
    messages = list(messages[: ends[-1]])
    if any(not messages[end - 1]["content"].strip() and not messages[end - 1].get("tool_calls") for end in ends):
        raise RefusedRow(f"{source}: it has an empty answer; write it or remove the row.")
    problem: UserError | None = None
    for written in _spellings(messages):
        try:
            _check_complete(written, tools, renderer)
            return _fitted(written, ends, tools, renderer, context, source, language)
        except RefusedRow as refusal:
            raise RefusedRow(f"{source}: {refusal}") from None
        except NoStopToken:
            raise
        except UserError as error:  # of the renderer: a template wants the arguments of calls in one of two ways
            problem = problem or error
    raise RefusedRow(f"{source}: {str(problem).rstrip('.')}; mend the row or remove it.") from None


def _spellings(messages: list[Turn]) -> list[list[Turn]]:
    """The messages with the arguments of tool calls as objects, as most templates want them, then as JSON text."""
    if not any(turn.get("tool_calls") for turn in messages):
        return [messages]
    return [messages, [_with_text_arguments(turn) for turn in messages]]


def _with_text_arguments(turn: Turn) -> Turn:
    if not turn.get("tool_calls"):
        return turn
    calls = []
    for call in turn["tool_calls"]:
        arguments = json.dumps(call["function"]["arguments"], ensure_ascii=False)
        calls.append({**call, "function": {**call["function"], "arguments": arguments}})
    return {**turn, "tool_calls": calls}


def _fitted(
    messages: list[Turn],
    ends: list[int],
    tools: Tools,
    renderer: Renderer,
    context: int,
    source: str,
    language: str,
) -> tuple[EncodedDocument, int]:
    """As many turns as the context holds, found by bisection over the answers at which the row can end."""
    rendered = _rendered(messages, tools, renderer)
    if (whole := _length(rendered)) - 1 <= context:
        return _document(rendered, renderer, language), len(ends)
    fits, too_many, best = 0, len(ends), rendered
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        try:
            shorter = _rendered(messages[: ends[middle - 1]], tools, renderer)
        except UserError:  # a template may refuse to end there
            too_many = middle
            continue
        if _length(shorter) - 1 <= context:
            fits, best = middle, shorter
        else:
            too_many = middle
    if not fits:
        raise RefusedRow(f"it has {whole:,} tokens and the context {context:,}; shorten it or raise the context.")
    return _document(best, renderer, language), fits


def _rendered(messages: Sequence[Turn], tools: Tools, renderer: Renderer) -> Rendered:
    """The conversation in tokens; every answer in it ends with a stop token."""
    whole = rendered(messages, renderer, tools=tools)
    if whole.injectable:
        raise RefusedRow("it holds the name of a special token that would become the token itself; take it out.")
    stops = set(renderer.stop_ids)
    if not all(stops & set(whole.ids[start:end]) for start, end in whole.spans):
        _check_stops(renderer)
        raise RefusedRow("the template ends one of its answers without a stop token; remove the row.")
    learnt = sum(end - start for start, end in whole.spans)
    if not learnt or learnt == _length(whole):
        share = "none" if not learnt else "all"
        raise RefusedRow(f"{share} of its tokens would be learnt; give it questions and answers.")
    return whole


def _check_stops(renderer: Renderer) -> None:
    """Refuse a template that ends no answer, not even the plainest one.

    Raises:
        UserError: what to do about it.
    """
    plainest = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "an answer"}]
    try:
        rendered = renderer.render(plainest)
    except UserError:
        return
    stops = set(renderer.stop_ids)
    if not any(stops & set(rendered.ids[start:end]) for start, end in rendered.spans):
        raise NoStopToken(
            "The chat template of this model writes no stop token after an answer, so a model trained with it would "
            "never stop; start with another model, or mend its chat_template."
        )


def _check_complete(messages: list[Turn], tools: Tools, renderer: Renderer) -> None:
    """Refuse a row of which the template would leave a part out without a word."""
    calls = any(turn.get("tool_calls") for turn in messages)
    if isinstance(renderer, ChatRenderer):
        if calls:
            raise RefusedRow("it calls tools, which the template of this model cannot write; take another model.")
        return
    absent: dict[str, Callable[[], tuple[list[Turn], Tools]]] = {}
    if any(turn["role"] == "system" and turn["content"].strip() for turn in messages):
        absent["system message"] = lambda: ([turn for turn in messages if turn["role"] != "system"], tools)
    if calls:
        absent["tool calls"] = lambda: ([_without_calls(turn) for turn in messages], tools)
    if any(turn["role"] == "tool" and turn["content"].strip() for turn in messages):
        absent["tool results"] = lambda: ([turn for turn in messages if turn["role"] != "tool"], tools)
    if tools:
        absent["tools"] = lambda: (messages, None)
    if not absent:
        return
    text = renderer.text(messages, tools=tools, now=TRAINING_DATE)
    for part, left in absent.items():
        without, offered = left()
        try:
            same = renderer.text(without, tools=offered, now=TRAINING_DATE) == text
        except UserError:  # the template cannot do without, so it looks at it
            continue
        if same:
            raise RefusedRow(f"the template of this model leaves its {part} out; take another model or mend the row.")


def _without_calls(turn: Turn) -> Turn:
    return {key: value for key, value in turn.items() if key != "tool_calls"}


def _length(rendered: Rendered) -> int:
    """Tokens up to the last target; what follows it predicts nothing."""
    return max((end for _, end in rendered.spans), default=len(rendered.ids))


def _document(rendered: Rendered, renderer: Renderer, language: str) -> EncodedDocument:
    end = _length(rendered)
    ids = np.array(rendered.ids[:end], dtype=np.int64)
    supervised = np.array(rendered.supervised[:end], dtype=np.bool_)
    text_bytes = int(renderer.tokenizer.bytes_per_token[ids[supervised]].sum())
    return EncodedDocument(ids, text_bytes, language, supervised)
