"""The shapes of rows in use, and how each becomes one of our row types.

A shape is recognised by its fields: ``messages`` (also ShareGPT), Alpaca, prompt/completion, question/answer,
preference (chosen, rejected), labelled (KTO) and verifiable (a prompt with a reference for GRPO). A shape that is not
recognised is never guessed.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from cadran.align.data.messages import Turn, looks_like_messages, messages_of, role_of, tools_of
from cadran.align.data.refused import Refused, keys_found, kind_of, quoted
from cadran.align.data.row import Conversation, Kind, Labelled, Row, Verifiable
from cadran.align.preference import PreferencePair
from cadran.corpus.language import identify

KIND_OF: dict[str, Kind] = {
    "messages": "chat",
    "sharegpt": "chat",
    "alpaca": "chat",
    "prompt/completion": "chat",
    "question/answer": "chat",
    "preference": "preference",
    "labelled": "labelled",
    "verifiable": "verifiable",
}
"""What each shape is for."""

WRITE = (
    '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}, '
    '{"instruction": "...", "output": "..."} or {"prompt": "...", "chosen": "...", "rejected": "..."}'
)
"""The shapes that a message proposes."""

_CONVERSATION = ("messages", "conversations", "conversation")
_QUESTION = {
    "instruction": "alpaca",
    "prompt": "prompt/completion",
    "question": "question/answer",
    "query": "question/answer",
}
_ANSWER = ("completion", "response", "output")
_REFERENCE = ("answer", "reference", "ground_truth", "solution", "schema", "tests")
_CONTEXT = ("input", "context")
_LABEL = ("label", "kto_tag", "liked")
_SYSTEM = ("system", "system_prompt")
_LANGUAGE = ("language", "lang")
_LISTS = (*_CONVERSATION, "prompt", "completion", "chosen", "rejected")
_NO_INPUT = ("", "<noinput>")


def fields_of(row: Any) -> dict[str, Any]:
    """The fields of a row by lower-case name, without the empty ones; message lists kept as JSON text are read.

    Raises:
        Refused: the row is no object.
    """
    if looks_like_messages(row):
        row = {"messages": row}
    if not isinstance(row, Mapping):
        raise Refused(f"it is {kind_of(row)}; write an object: {WRITE}")
    fields: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(key, str) and value is not None:
            fields.setdefault(key.strip().lower(), value)
    for name in _LISTS:
        value = fields.get(name)
        if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
            try:
                read = json.loads(value)
            except (ValueError, RecursionError):
                continue
            if looks_like_messages([read] if isinstance(read, dict) else read):
                fields[name] = read
    return fields


def shape_of(fields: Mapping[str, Any], wanted: Kind | None = None) -> str:
    """The shape of a row, "" when there is none.

    Args:
        fields: see ``fields_of``.
        wanted: what it is read for, where a row could be two things (an Alpaca row with a preference; a question
            whose answer is to be learnt or to be found).
    """
    question = next((name for name in _QUESTION if name in fields), None)
    talk = next((name for name in _CONVERSATION if name in fields), None)
    label = next((fields[name] for name in _LABEL if name in fields), None)
    answer = any(name in fields for name in _ANSWER) or (question not in (None, "prompt") and "answer" in fields)
    if "chosen" in fields and "rejected" in fields and not (wanted == "chat" and answer and question):
        return "preference"
    if isinstance(label, bool) and (talk or answer or (question and "answer" in fields)):
        return "labelled"
    if answer and isinstance(label, (int, float)):  # refused later, with the right spelling
        return "labelled"
    reference = any(name in fields for name in _REFERENCE)
    if wanted == "verifiable" and (talk or question):
        return "verifiable"
    if talk:
        conversation = fields[talk]
        last = conversation[-1] if isinstance(conversation, list) and conversation else None
        if reference and role_of(last) in ("user", "tool"):
            return "verifiable"
        return "sharegpt" if isinstance(last, Mapping) and "from" in last else "messages"
    if question and answer:
        return _QUESTION[question]
    return "verifiable" if question and reference else ""


def unrecognised(fields: Mapping[str, Any], usual: str) -> str:
    """Why a row without a shape is refused, with the fields it has and what to write.

    Args:
        fields: see ``fields_of``.
        usual: the shape that most rows of the file have, "" for none.
    """
    found = keys_found(fields)
    if usual:
        return f"it has no {usual} row as the others are, but {found}; give it the same fields or remove it"
    if "text" in fields and not any(name in fields for name in (*_QUESTION, *_CONVERSATION)):
        return (
            f"it holds plain text ({found}) and no answer; pre-training reads text, here write "
            '{"prompt": "...", "completion": "..."} rows'
        )
    if {"role", "content"} <= fields.keys():
        return 'it is a single message; write the messages of a conversation in one row: {"messages": [...]}'
    if question := next((name for name in _QUESTION if name in fields), None):
        return f"it has a question ({question}) and no answer but {found}; add the answer as output or completion"
    return f"its fields are not known ({found}); write {WRITE}"


def convert(fields: Mapping[str, Any], shape: str, source: str) -> Row:
    """A row of one of our types.

    Args:
        fields: see ``fields_of``.
        shape: see ``shape_of``.
        source: names the row.

    Raises:
        Refused: something is missing, empty or of the wrong type.
    """
    kind = KIND_OF[shape]
    if kind == "preference":
        return _preference(fields, source)
    if kind == "labelled":
        return _labelled(fields, source)
    if kind == "verifiable":
        return _verifiable(fields, source)
    messages = _prompt(fields)
    if not any(name in fields for name in _CONVERSATION):
        messages = _asked(messages) + _answer_turns(fields)
    if not any(turn["role"] == "assistant" for turn in messages):
        raise Refused("it has no assistant turn, so no answer to learn from; add one or remove the row")
    if messages[0]["role"] == "assistant" or not any(turn["role"] == "user" for turn in messages):
        raise Refused("it begins with an answer; put the question before it or remove the row")
    for number, turn in enumerate(messages, start=1):
        if not turn["content"].strip() and not turn.get("tool_calls") and turn["role"] in ("assistant", "user"):
            what = "answer" if turn["role"] == "assistant" else "question"
            raise Refused(f"message {number} is an empty {what}; write it or remove the row")
    return Conversation(messages, tools_of(fields.get("tools")), _language(fields, messages), source)


def _preference(fields: Mapping[str, Any], source: str) -> PreferencePair:
    chosen, rejected = fields["chosen"], fields["rejected"]
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise Refused(f"chosen is {kind_of(chosen)} and rejected is {kind_of(rejected)}; write both the same way")
    if isinstance(chosen, str):
        messages = _asked(_prompt(fields))
    else:
        better, worse = messages_of(chosen, "chosen"), messages_of(rejected, "rejected")
        if len(better) == len(worse) == 1:
            messages = _asked(_prompt(fields))
        else:
            messages = _asked(better[:-1])
            if worse[:-1] != messages:
                raise Refused("chosen and rejected differ before their last answer; give both the same questions")
        chosen, rejected = _only_text(better[-1], "chosen"), _only_text(worse[-1], "rejected")
    chosen, rejected = _text(chosen, "chosen"), _text(rejected, "rejected")
    if chosen.strip() == rejected.strip():
        raise Refused("chosen and rejected are the same; write a worse answer or remove the row")
    kind = fields.get("kind")
    return PreferencePair(
        messages,
        chosen,
        rejected,
        kind=kind if isinstance(kind, str) and kind else "preference",
        language=_language(fields, [*messages, {"role": "assistant", "content": chosen}]),
        margin=_margin(fields),
        source=source,
    )


def _margin(fields: Mapping[str, Any]) -> float:
    """How far apart the answers are: stated, or the difference of two scores."""
    if "margin" in fields:
        margin = _number(fields["margin"], "margin")
    else:
        scores = [
            next((_number(fields[name], name) for name in (f"score_{which}", f"{which}_score") if name in fields), None)
            for which in ("chosen", "rejected")
        ]
        better, worse = scores
        margin = better - worse if better is not None and worse is not None else 0.0
    if margin < 0 or not math.isfinite(margin):
        raise Refused(f"the chosen answer has the lower score (margin {margin:g}); swap the two or remove the row")
    return margin


def _labelled(fields: Mapping[str, Any], source: str) -> Labelled:
    label = next(fields[name] for name in _LABEL if name in fields)
    if not isinstance(label, bool):
        raise Refused(f"label is {kind_of(label)} ({quoted(label)}); write true for a good answer, false for a bad one")
    messages = _prompt(fields)
    answered = any(name in fields for name in (*_ANSWER, "answer"))
    if any(name in fields for name in _CONVERSATION) and not (answered and messages[-1]["role"] != "assistant"):
        completion = _only_text(messages[-1], "the last message")
        messages = _asked(messages[:-1])
    else:
        messages = _asked(messages)
        turns = _answer_turns(fields)
        if len(turns) != 1:
            raise Refused(f"the answer has {len(turns)} messages; a label judges one")
        completion = _only_text(turns[0], "the answer")
    heard: list[Turn] = [*messages, {"role": "assistant", "content": completion}]
    return Labelled(messages, completion, label, _language(fields, heard), source)


def _verifiable(fields: Mapping[str, Any], source: str) -> Verifiable:
    messages = _prompt(fields)
    used = {*_CONVERSATION, *_QUESTION, *_CONTEXT, *_SYSTEM, *_ANSWER, *_LANGUAGE, "history", "tools"}
    reference = {name: value for name, value in fields.items() if name not in used}
    if isinstance(nested := reference.get("reference"), Mapping):
        reference = {**reference, **nested}
    if messages[-1]["role"] == "assistant":
        last = _only_text(messages.pop(), "the last message")
        reference.setdefault("answer", last)
    if name := next((name for name in _ANSWER if name in fields), None):
        reference.setdefault("answer", fields[name])
    for name in _REFERENCE:
        if isinstance(value := reference.get(name), str) and not value.strip():
            raise Refused(f"{name} is empty; write what a right answer is or remove the row")
    return Verifiable(_asked(messages), reference, _language(fields, messages), source)


def _prompt(fields: Mapping[str, Any]) -> list[Turn]:
    """The messages before the answer; of a conversation, all of them."""
    talk = next((name for name in _CONVERSATION if name in fields), None)
    if talk is not None:
        turns = messages_of(fields[talk], talk)
    else:
        name = next((name for name in _QUESTION if name in fields), None)
        if name is None:
            raise Refused(f"it has no question but {keys_found(fields)}; add a prompt")
        asked = fields[name]
        if name == "prompt" and not isinstance(asked, str):
            turns = messages_of(asked, name)
        else:
            turns = [*_history(fields), {"role": "user", "content": _with_context(_text(asked, name), name, fields)}]
    system = next((fields[name] for name in _SYSTEM if name in fields), None)
    if isinstance(system, str) and system.strip() and turns[0]["role"] != "system":
        return [{"role": "system", "content": system}, *turns]
    if system is not None and not isinstance(system, str):
        raise Refused(f"system is {kind_of(system)}; write a string")
    return turns


def _with_context(asked: str, name: str, fields: Mapping[str, Any]) -> str:
    """An instruction stands before its input; a question after its context (a small model forgets what is far)."""
    context = next((fields[each] for each in _CONTEXT if each in fields), "")
    if not isinstance(context, str):
        raise Refused(f"input is {kind_of(context)}; write a string")
    if context.strip().lower() in _NO_INPUT:
        return asked
    return f"{asked}\n\n{context}" if _QUESTION[name] == "alpaca" else f"{context}\n\n{asked}"


def _history(fields: Mapping[str, Any]) -> list[Turn]:
    history = fields.get("history", [])
    if not isinstance(history, list):
        raise Refused(f"history is {kind_of(history)}; write a list of [question, answer]")
    turns: list[Turn] = []
    for exchange in history:
        if not isinstance(exchange, (list, tuple)) or len(exchange) != 2:
            raise Refused("history holds something else than [question, answer]; write such pairs")
        asked, answered = exchange
        turns.append({"role": "user", "content": _text(asked, "a question in history")})
        turns.append({"role": "assistant", "content": _text(answered, "an answer in history")})
    return turns


def _answer_turns(fields: Mapping[str, Any]) -> list[Turn]:
    """The answer: a string, or the messages that follow the prompt."""
    name = next(name for name in (*_ANSWER, "answer") if name in fields)
    answer = fields[name]
    if isinstance(answer, (list, Mapping)) and looks_like_messages(answer if isinstance(answer, list) else [answer]):
        return messages_of(answer, name)
    return [{"role": "assistant", "content": _text(answer, name)}]


def _asked(messages: list[Turn]) -> list[Turn]:
    """A prompt, if it is one: it ends where the assistant is to speak."""
    if not messages or messages[-1]["role"] not in ("user", "tool"):
        raise Refused("its prompt does not end with a question; let a user message be the last before the answer")
    if not messages[-1]["content"].strip():
        raise Refused("its question is empty; write it or remove the row")
    return messages


def _only_text(turn: Turn, what: str) -> str:
    if turn["role"] != "assistant" or turn.get("tool_calls"):
        raise Refused(f"{what} is no text of the assistant; let it be an answer in words")
    return str(turn["content"])


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise Refused(f"{name} is {kind_of(value)} ({quoted(value)}); write a string")
    if not value.strip():
        raise Refused(f"{name} is empty; write it or remove the row")
    return value


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e9:
        raise Refused(f"{name} is {kind_of(value)} ({quoted(value)}); write an ordinary number")
    return float(value)


def _language(fields: Mapping[str, Any], messages: list[Turn]) -> str:
    """Of the answers, and of the questions where those are short."""
    stated = next((fields[name] for name in _LANGUAGE if isinstance(fields.get(name), str)), "")
    hint = stated.lower() if len(stated) == 2 and stated.isalpha() and stated.isascii() else ""
    text = " ".join(turn["content"] for role in ("assistant", "user") for turn in messages if turn["role"] == role)
    return identify(text.encode("utf-8", "replace").decode("utf-8"), hint)
