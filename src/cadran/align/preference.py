"""Preference pairs: one prompt, the answer that is preferred and the one that is not.

They become tokens through the model's own renderer, so that a pair is learnt exactly as it would be served: the prompt
that the engine reads, the answer that it would write, and the token at which it would stop. Nothing is ever cut to
fit: what cannot be learnt whole is refused with a sentence that names it.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cadran.align.rendering import rendered
from cadran.align.rows import Message
from cadran.errors import UserError

if TYPE_CHECKING:
    from cadran.align.branches import Prompted
    from cadran.align.data.row import Labelled
    from cadran.tokenizer.renderer import ChatRenderer
    from cadran.tokenizer.template_renderer import TemplateRenderer

    Renderer = ChatRenderer | TemplateRenderer


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A prompt with a better and a worse answer.

    Attributes:
        messages: the conversation up to the last user turn.
        chosen: the preferred answer.
        rejected: the other one.
        kind: ``topic``, ``description``, ``language``, ``rating``, ...; figures are given by kind.
        language: ISO 639-1 code, ``und`` when nobody can tell.
        margin: how far apart their rewards should be, in reward units.
        source: names the row in an error.
    """

    messages: list[Message]
    chosen: str
    rejected: str
    kind: str = "preference"
    language: str = "und"
    margin: float = 0.0
    source: str = ""


@dataclass(frozen=True, slots=True)
class EncodedPairs:
    """Pairs that a model can learn, and why it cannot learn the others.

    Attributes:
        pairs: in the order they came.
        prompted: the same as tokens, chosen before rejected.
        refused: a sentence for each pair that was left out.
    """

    pairs: list[PreferencePair]
    prompted: "list[Prompted]"
    refused: list[str]


def why_no_prompt(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """Why a conversation is nothing to answer, as the end of a sentence; None when it is."""
    roles = [message.get("role") for message in messages]
    if "user" not in roles:
        return "has no user turn: begin its conversation with what was asked"
    if roles[-1] == "assistant":
        return "has an answer at the end of its prompt: leave that out of its messages"
    return None


def why_unfit(pair: PreferencePair) -> str | None:
    """Why nothing can be learnt from a pair, whatever the model; None when something can.

    Returns:
        What is wrong, as the end of a sentence that begins with the pair's name.
    """
    if (reason := why_no_prompt(pair.messages)) is not None:
        return reason
    if not math.isfinite(pair.margin):
        return f"has the margin {pair.margin}: give a finite number"
    for name, answer in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        if not answer.strip():
            return f"has an empty {name} answer: write one, or remove the row"
    if pair.chosen.strip() == pair.rejected.strip():
        return "has the same answer as chosen and rejected: a preference needs two"
    return None


def checked(pair: PreferencePair) -> PreferencePair:
    """The pair, when something can be learnt from it.

    Raises:
        UserError: nothing can; the sentence names its source.
    """
    if (reason := why_unfit(pair)) is not None:
        raise UserError(f"{_name(pair)} {reason}")
    return pair


def encode_pair(pair: PreferencePair, renderer: "Renderer", context: int) -> "Prompted | str":
    """A pair as token ids: the prompt as served, and both answers (chosen first) with the token that stops them.

    Args:
        pair: need not be checked.
        renderer: of the model that will learn it.
        context: most tokens of prompt and answer together.

    Returns:
        The ids, or one sentence that names the pair and says why it is refused.
    """
    reason = why_unfit(pair)
    encoded = reason or encode_answers(pair.messages, (pair.chosen, pair.rejected), renderer, context)
    if not isinstance(encoded, str) and encoded.answers[0] == encoded.answers[1]:
        encoded = "has two answers that this model reads alike: a preference needs two"
    return f"{_name(pair)} {encoded}" if isinstance(encoded, str) else encoded


def encode_labelled(row: "Labelled", renderer: "Renderer", context: int) -> "Prompted | str":
    """As ``encode_pair``, for a row with one answer."""
    encoded: Prompted | str | None = why_no_prompt(row.messages)
    if encoded is None and not row.completion.strip():
        encoded = "has an empty answer: write one, or remove the row"
    encoded = encoded or encode_answers(row.messages, (row.completion,), renderer, context)
    return f"{row.source or 'an answer'} {encoded}" if isinstance(encoded, str) else encoded


def encode_pairs(pairs: Iterable[PreferencePair], renderer: "Renderer", context: int) -> EncodedPairs:
    """All the pairs that can be learnt, as token ids; see ``encode_pair``."""
    encoded = EncodedPairs([], [], [])
    for pair in pairs:
        result = encode_pair(pair, renderer, context)
        if isinstance(result, str):
            encoded.refused.append(result)
        else:
            encoded.pairs.append(pair)
            encoded.prompted.append(result)
    return encoded


def encode_answers(
    messages: Sequence[Mapping[str, Any]], answers: Sequence[str], renderer: "Renderer", context: int
) -> "Prompted | str":
    """A prompt and answers to it as token ids.

    Args:
        messages: up to the last user turn.
        answers: texts, none of them empty.
        renderer: of the model.
        context: most tokens of the prompt and any one answer together.

    Returns:
        The ids, or why not, as the end of a sentence.
    """
    from cadran.align.branches import Prompted  # torch, which who only writes down preferences can do without

    try:
        prompt = rendered(messages, renderer, add_generation_prompt=True).ids
        written = [_answer_ids(messages, answer, prompt, renderer) for answer in answers]
    except UserError as error:
        return f"cannot be rendered: {error}"
    ids: list[tuple[int, ...]] = []
    for answer in written:
        if isinstance(answer, str):
            return answer
        ids.append(tuple(answer))
    longest = max(len(answer) for answer in ids)
    if len(prompt) + longest > context:
        return (
            f"has {len(prompt)} tokens of prompt and {longest} of answer where this model reads {context}: shorten it, "
            "or remove the row"
        )
    return Prompted(tuple(prompt), tuple(ids))


def _answer_ids(
    messages: Sequence[Mapping[str, Any]], answer: str, prompt: list[int], renderer: "Renderer"
) -> list[int] | str:
    """Ids of an answer after its prompt, up to its stop token; or why not."""
    whole = rendered([*messages, {"role": "assistant", "content": answer}], renderer)
    if whole.ids[: len(prompt)] != prompt:
        return "is written by the chat template in a way that changes its prompt: this template cannot learn from it"
    start, end = whole.spans[-1] if whole.spans else (0, 0)
    if start != len(prompt):
        return "has an answer that the chat template does not write as it stands: this template cannot learn from it"
    ids = whole.ids[start:end]
    if ids[-1] not in renderer.stop_ids:
        return "has an answer after which the chat template writes no stop token: the model would never learn to stop"
    tokenizer = renderer.tokenizer
    if any(tokenizer.is_special(id) for id in tokenizer.encode(answer.strip(), special=True)):
        # The name of a stop token inside an answer may have ended it there: then its rest follows the span.
        plain = rendered([*messages, {"role": "assistant", "content": "A"}], renderer)
        if not plain.spans or whole.ids[end:] != plain.ids[plain.spans[-1][1] :]:
            return "has an answer with the name of a special token, which would end it there: take that out"
    return ids


def prompt_key(messages: Sequence[Mapping[str, Any]]) -> str:
    """Hexadecimal SHA-256 of a prompt's roles and texts, white space around them apart."""
    content = [[str(message.get("role")), str(message.get("content")).strip()] for message in messages]
    return hashlib.sha256(json.dumps(content, ensure_ascii=True).encode()).hexdigest()


def split_pairs(
    pairs: Iterable[PreferencePair], share: float, seed: int
) -> tuple[list[PreferencePair], list[PreferencePair]]:
    """Pairs to learn from and pairs held out, by the content of their prompts: no prompt is on both sides.

    Args:
        pairs: any.
        share: of the prompts to hold out, 0 to 1; met on average.
        seed: another one gives another split; the order and number of the pairs do not.

    Returns:
        (train, held out), both in the order they came.
    """
    train: list[PreferencePair] = []
    held_out: list[PreferencePair] = []
    for pair in pairs:
        digest = hashlib.sha256(f"{seed}\0{prompt_key(pair.messages)}".encode()).digest()
        (held_out if int.from_bytes(digest[:8], "big") < share * 2**64 else train).append(pair)
    return train, held_out


def _name(pair: PreferencePair) -> str:
    return pair.source or "a preference"
