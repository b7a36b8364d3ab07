"""Users' rows: every shape in use is read, and everything that is not learnt from is named."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadran.align.data.messages import messages_of
from cadran.align.data.read import read_rows
from cadran.align.data.refused import Refused
from cadran.align.data.row import Labelled, Rows, Verifiable
from cadran.align.data.shapes import KIND_OF, convert, fields_of, shape_of
from cadran.align.preference import PreferencePair
from cadran.errors import UserError

Q, A = "Où est l'été ?", "Il est là, à l'aéroport d'Orly, depuis ce matin."
ASKED, ANSWERED = {"role": "user", "content": Q}, {"role": "assistant", "content": A}
CHAT = [ASKED, ANSWERED]
SYSTEM = {"role": "system", "content": "Sois bref."}


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read_one(tmp_path: Path, row: Any, **options: Any) -> Rows:
    return read_rows(lines(tmp_path / "data.jsonl", row), **options)


CHATS: dict[str, tuple[Any, str, list[Any]]] = {
    "messages": ({"messages": CHAT}, "messages", CHAT),
    "a bare list": (CHAT, "messages", CHAT),
    "messages as JSON text": ({"messages": json.dumps(CHAT)}, "messages", CHAT),
    "content parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": Q[:6]}, Q[6:]]}, ANSWERED]},
        "messages", CHAT,
    ),
    "capital keys and roles": (
        {"Messages": [{"role": "User", "content": Q}, {"role": "ASSISTANT", "content": A}]}, "messages", CHAT
    ),
    "french roles": ({"conversation": [{"role": "UTILISATEUR", "content": Q}, ANSWERED]}, "messages", CHAT),
    "developer": ({"messages": [{"role": "developer", "content": "Sois bref."}, *CHAT]}, "messages", [SYSTEM, *CHAT]),
    "sharegpt": ({"conversations": [{"from": "human", "value": Q}, {"from": "gpt", "value": A}]}, "sharegpt", CHAT),
    "sharegpt with system": (
        {"system": "Sois bref.", "conversations": [{"from": "human", "value": Q}, {"from": "gpt", "value": A}]},
        "sharegpt", [SYSTEM, *CHAT],
    ),
    "alpaca": ({"instruction": Q, "input": "", "output": A}, "alpaca", CHAT),
    "alpaca without input": ({"instruction": Q, "input": None, "output": A}, "alpaca", CHAT),
    "alpaca with noinput": ({"instruction": Q, "input": "<noinput>", "output": A}, "alpaca", CHAT),
    "alpaca with input": (
        {"instruction": "Traduis.", "input": "été", "output": A}, "alpaca",
        [{"role": "user", "content": "Traduis.\n\nété"}, ANSWERED],
    ),
    "alpaca with system and history": (
        {"instruction": Q, "output": A, "system": "Sois bref.", "history": [["un", "deux"]]}, "alpaca",
        [SYSTEM, {"role": "user", "content": "un"}, {"role": "assistant", "content": "deux"}, *CHAT],
    ),
    "dolly": ({"instruction": Q, "context": "", "response": A, "category": "x"}, "alpaca", CHAT),
    "prompt and completion": ({"prompt": Q, "completion": A}, "prompt/completion", CHAT),
    "prompt and completion as messages": (
        {"prompt": [SYSTEM, ASKED], "completion": [ANSWERED]}, "prompt/completion", [SYSTEM, *CHAT]
    ),
    "question and answer": ({"question": Q, "answer": A}, "question/answer", CHAT),
    "question with context": (
        {"question": Q, "answer": A, "context": "Un texte."}, "question/answer",
        [{"role": "user", "content": f"Un texte.\n\n{Q}"}, ANSWERED],
    ),
    "white space is kept": (
        {"prompt": f"  {Q}\n", "completion": f"\n{A}\t"}, "prompt/completion",
        [{"role": "user", "content": f"  {Q}\n"}, {"role": "assistant", "content": f"\n{A}\t"}],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHATS)
def test_every_chat_shape_becomes_the_same_messages(tmp_path: Path, name: str) -> None:
    row, shape, messages = CHATS[name]
    rows = read_one(tmp_path, row)
    assert rows.shape == shape and rows.refused == [] and rows.counts == {shape: 1, "rows": 1}
    (chat,) = rows.chats
    assert chat.messages == messages
    assert chat.source == "row 1 of data.jsonl" and chat.tools is None


CALL = {"type": "function", "function": {"name": "weather", "arguments": {"place": "Orly"}}}
CALLING = [
    ASKED,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "18 °C"},
    ANSWERED,
]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


FLAT = {"name": "weather", "arguments": json.dumps({"place": "Orly"})}
CALLS: dict[str, list[Any]] = {
    "openai": CALLING,
    "null content": [ASKED, {"role": "assistant", "content": None, "tool_calls": [CALL]}, *CALLING[2:]],
    "arguments as text": [ASKED, {"role": "assistant", "tool_calls": [{"function": FLAT}]}, *CALLING[2:]],
    "one flat call": [
        ASKED, {"role": "assistant", "function_call": FLAT}, {"role": "function", "content": "18 °C"}, ANSWERED,
    ],
    "sharegpt": [
        {"from": "human", "value": Q}, {"from": "function_call", "value": json.dumps(CALL["function"])},
        {"from": "observation", "value": "18 °C"}, {"from": "gpt", "value": A},
    ],
}  # fmt: skip


@pytest.mark.parametrize("tools", [[TOOL], [TOOL["function"]], json.dumps([TOOL])])
@pytest.mark.parametrize("name", CALLS)
def test_tool_calls_have_one_form_whatever_the_file_writes(tmp_path: Path, name: str, tools: Any) -> None:
    (chat,) = read_one(tmp_path, {"conversations": CALLS[name], "tools": tools}).chats
    assert chat.messages == CALLING and chat.tools == [TOOL]


BAD = "Je ne sais pas."
PAIR = PreferencePair(CHAT[:1], A, BAD, language="fr", source="row 1 of data.jsonl")
PAIRS: dict[str, tuple[dict[str, Any], PreferencePair]] = {
    "strings": ({"prompt": Q, "chosen": A, "rejected": BAD}, PAIR),
    "whole conversations": (
        {"chosen": CHAT, "rejected": [ASKED, {"role": "assistant", "content": BAD}], "prompt": "ignored"}, PAIR
    ),
    "answers as messages": (
        {"prompt": [ASKED], "chosen": [ANSWERED], "rejected": [{"role": "assistant", "content": BAD}]}, PAIR
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": Q}], "chosen": {"from": "gpt", "value": A},
         "rejected": {"from": "gpt", "value": BAD}}, PAIR,
    ),
    "messages and strings": ({"messages": [ASKED], "chosen": A, "rejected": BAD}, PAIR),
    "alpaca": ({"instruction": Q, "input": "", "output": A, "chosen": A, "rejected": BAD}, PAIR),
    "question with system": (
        {"system": "Sois bref.", "question": Q, "chosen": A, "rejected": BAD},
        PreferencePair([SYSTEM, ASKED], A, BAD, language="fr", source=PAIR.source),
    ),
    "margin": (
        {"prompt": Q, "chosen": A, "rejected": BAD, "margin": 2, "kind": "rating"},
        PreferencePair([ASKED], A, BAD, "rating", "fr", 2.0, PAIR.source),
    ),
    "scores": (
        {"prompt": Q, "chosen": A, "rejected": BAD, "score_chosen": 8.5, "score_rejected": 3},
        PreferencePair([ASKED], A, BAD, "preference", "fr", 5.5, PAIR.source),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_every_preference_shape_becomes_a_pair(tmp_path: Path, name: str) -> None:
    row, pair = PAIRS[name]
    rows = read_one(tmp_path, row)
    assert rows.pairs == [pair] and rows.shape == "preference" and rows.refused == []


@pytest.mark.parametrize("label", [True, False])
def test_a_labelled_answer_keeps_its_label(tmp_path: Path, label: bool) -> None:
    expected = Labelled([ASKED], A, label, "fr", "row 1 of data.jsonl")
    thumbs = ({"messages": [ASKED], "answer": A, "liked": label}, {"prompt": Q, "answer": A, "liked": label})
    for row in ({"prompt": Q, "completion": A, "label": label}, {"messages": CHAT, "label": label}, *thumbs):
        assert read_one(tmp_path, row).labelled == [expected]
    table = tmp_path / "data.csv"
    table.write_text(f"prompt,completion,label\n{Q},\"{A}\",{str(label).upper()}\n", encoding="utf-8")  # fmt: skip
    (row_of_table,) = read_rows(table).labelled
    assert (row_of_table.completion, row_of_table.label) == (A, label)


def test_a_prompt_with_a_reference_is_verifiable_and_not_taught(tmp_path: Path) -> None:
    for row in ({"prompt": Q, "answer": 42, "level": "easy"}, {"messages": [ASKED], "answer": 42, "level": "easy"}):
        rows = read_one(tmp_path, row)
        assert rows.verifiable == [Verifiable([ASKED], {"answer": 42, "level": "easy"}, "und", "row 1 of data.jsonl")]
        assert not rows.chats


def test_what_is_wanted_decides_where_a_row_could_be_two_things(tmp_path: Path) -> None:
    both = {"instruction": Q, "output": A, "chosen": A, "rejected": BAD}
    assert read_one(tmp_path, both, wanted="chat").chats[0].messages == CHAT
    assert read_one(tmp_path, both, wanted="preference").pairs == [PAIR]
    question = {"question": Q, "answer": "18"}
    assert read_one(tmp_path, question, wanted="verifiable").verifiable[0].reference == {"answer": "18"}
    (chat,) = read_one(tmp_path, {"messages": [*CHAT, *CHAT]}, wanted="verifiable").verifiable
    assert chat.messages == [*CHAT, ASKED] and chat.reference == {"answer": A}


def test_a_row_of_another_kind_than_is_wanted_is_named(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "data.jsonl", {"prompt": Q, "completion": A}, {"prompt": Q, "completion": A, "label": False}
    )
    rows = read_rows(path, wanted="chat")
    assert len(rows.chats) == 1
    assert rows.refused == ["row 2 of data.jsonl: it is a labelled row, for the kto stage; chat rows are needed here."]
    with pytest.raises(UserError, match=r"it is a prompt/completion row, for finetune .* 1 more are refused"):
        read_rows(path, wanted="preference")


REFUSALS: dict[str, tuple[Any, str]] = {
    "no assistant turn": ({"messages": [ASKED]}, "no assistant turn"),
    "no question": ({"messages": [ANSWERED]}, "begins with an answer"),
    "empty answer": ({"messages": [ASKED, {"role": "assistant", "content": " \n"}]}, "message 2 is an empty answer"),
    "empty output": ({"instruction": Q, "output": ""}, "output is empty"),
    "number for an output": ({"instruction": Q, "output": 7}, "output is a number (7); write a string"),
    "list for an input": ({"instruction": Q, "input": [], "output": A}, "input is a list"),
    "unknown role": ({"messages": [{"role": "wizard", "content": Q}]}, "role wizard"),
    "no role": ({"messages": [{"content": Q}]}, "has no role but content"),
    "image": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "no text (image_url)"),
    "user calls": ({"messages": [{**ASKED, "tool_calls": [CALL]}]}, "only the assistant calls tools"),
    "broken arguments": (
        {"messages": [ASKED, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}]}, "not JSON"
    ),
    "weighted": ({"messages": [ASKED, {**ANSWERED, "weight": 0}]}, "message 2 has a weight"),
    "messages is a string": ({"messages": "hello"}, "messages is a string; write a list of messages"),
    "empty messages": ({"messages": []}, "messages is an empty list"),
    "equal preference": ({"prompt": Q, "chosen": A, "rejected": f" {A}\n"}, "chosen and rejected are the same"),
    "empty rejected": ({"prompt": Q, "chosen": A, "rejected": ""}, "rejected is empty"),
    "empty prompt": ({"prompt": " ", "chosen": A, "rejected": BAD}, "prompt is empty"),
    "no prompt": ({"chosen": A, "rejected": BAD}, "it has no question but chosen, rejected"),
    "mixed preference": ({"prompt": Q, "chosen": A, "rejected": CHAT}, "chosen is a string and rejected is a list"),
    "other questions": (
        {"chosen": CHAT, "rejected": [{"role": "user", "content": "x"}, {"role": "assistant", "content": BAD}]},
        "differ before their last answer",
    ),
    "swapped scores": (
        {"prompt": Q, "chosen": A, "rejected": BAD, "score_chosen": 1, "score_rejected": 2}, "lower score (margin -1)"
    ),
    "margin that is no number": ({"prompt": Q, "chosen": A, "rejected": BAD, "margin": "big"}, "margin is a string"),
    "label that is no label": ({"prompt": Q, "completion": A, "label": 1}, "write true for a good answer"),
    "empty reference": ({"prompt": Q, "answer": ""}, "answer is empty"),
    "text only": ({"text": "Il était une fois."}, "as the others are, but text"),
    "not an object": (7, "it is a number; write an object"),
    "half a character": ({"prompt": Q, "completion": "\ud83d"}, "surrogate"),
    "a row without output": (
        {"instruction": Q, "outptu": A}, "no messages row as the others are, but instruction, outptu"
    ),
    "the same again": ({"messages": [*CHAT, *CHAT, *CHAT]}, "the same as row 1 of data.jsonl"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_a_row_that_is_not_learnt_from_is_named_with_its_reason(tmp_path: Path, name: str) -> None:
    row, reason = REFUSALS[name]
    path = tmp_path / "data.jsonl"
    good = json.dumps({"messages": [*CHAT, *CHAT, *CHAT]})
    path.write_text(f"{good}\n{json.dumps(row)}\n", encoding="utf-8")
    rows = read_rows(path)
    assert len(rows.chats) == 1 and rows.counts["rows"] == 1 and rows.counts["refused"] == 1
    (sentence,) = rows.refused
    assert sentence.startswith("row 2 of data.jsonl: ") and reason in sentence


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "Il était une fois."}, r"holds plain text \(text\) and no answer; pre-training reads text"),
        ({"id": 1, "utterances": []}, r'fields are not known \(id, utterances\); write \{"messages"'),
        ({"instruction": Q, "instances": []}, r"a question \(instruction\) and no answer but instruction, instances"),
        ({"role": "user", "content": Q}, "a single message; write the messages of a conversation in one row"),
    ],
)  # fmt: skip
def test_an_unknown_shape_is_refused_with_its_fields_and_what_to_write(tmp_path: Path, row: Any, reason: str) -> None:
    with pytest.raises(UserError, match=rf"data.jsonl has no row to learn from: row 1 of data.jsonl: .*{reason}"):
        read_one(tmp_path, row)


def test_a_mixed_file_says_which_row_has_which_shape(tmp_path: Path) -> None:
    alpaca = [{"instruction": f"{Q} {n}", "output": A} for n in range(4)]
    rows = read_rows(lines(tmp_path / "m.jsonl", *alpaca, {"messages": CHAT}, {"prompt": Q, "answer": "4"}))
    assert rows.shape == "mixed" and rows.counts == {"alpaca": 4, "messages": 1, "verifiable": 1, "rows": 6}
    assert rows.described() == ["m.jsonl is mixed: 4 alpaca (rows 1 to 4), 1 messages (rows 5), 1 verifiable (rows 6)"]


def test_names_of_fields_cannot_reach_the_terminal(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_one(tmp_path, {"\x1b[31mred\n": "x", "long" * 100: "y"})
    assert str(error.value).isprintable() and "longlong" in str(error.value) and len(str(error.value)) < 600


WORDS = st.sampled_from(["user", "assistant", "[{", "true"])
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | WORDS
KEYS = st.sampled_from(
    ["messages", "conversations", "role", "from", "content", "value", "tool_calls", "function", "name", "arguments",
     "prompt", "instruction", "input", "output", "completion", "question", "answer", "chosen", "rejected", "label",
     "margin", "score_chosen", "system", "history", "tools", "text", "type", "reference", "language", "weight"]
)  # fmt: skip
ROLE = st.sampled_from(["user", "assistant", "tool"])


def nested(part: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    message = st.fixed_dictionaries({"role": ROLE, "content": part})
    return st.lists(part, max_size=3) | st.dictionaries(KEYS, part, max_size=6) | message


JUNK = st.recursive(SCALAR, nested, max_leaves=12)
ROW = st.dictionaries(KEYS, JUNK, max_size=7) | JUNK


@given(ROW, st.sampled_from([None, "chat", "preference", "labelled", "verifiable"]))
@settings(max_examples=400, deadline=None)
def test_any_junk_is_refused_or_converted_and_never_raises(row: Any, wanted: Any) -> None:
    try:
        fields = fields_of(row)
        shape = shape_of(fields, wanted)
        converted = convert(fields, shape, "row 1 of junk.jsonl") if shape else None
    except Refused as refusal:
        assert str(refusal).isprintable()
        return
    if converted is None:
        return
    assert KIND_OF[shape] == {"Conversation": "chat", "PreferencePair": "preference"}.get(
        type(converted).__name__, type(converted).__name__.lower()
    )
    for message in converted.messages:
        assert message["role"] in ("system", "user", "assistant", "tool") and isinstance(message["content"], str)
    if isinstance(converted, PreferencePair):
        assert converted.chosen.strip() and converted.rejected.strip() and converted.chosen != converted.rejected


@given(st.lists(ROW, max_size=6))
@settings(max_examples=60, deadline=None)
def test_each_row_of_a_file_is_kept_or_named(tmp_path_factory: pytest.TempPathFactory, junk: list[Any]) -> None:
    path = tmp_path_factory.mktemp("junk") / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, [{"messages": CHAT}, *junk])), encoding="utf-8")
    rows = read_rows(path)
    kept = {row.source for rows_of in (rows.chats, rows.pairs, rows.labelled, rows.verifiable) for row in rows_of}
    named = {sentence.split(":")[0] for sentence in rows.refused}
    assert kept | named == {f"row {number} of data.jsonl" for number in range(1, len(junk) + 2)}
    assert not kept & named and rows.counts["rows"] == len(kept)
    assert rows.counts.get("refused", 0) == len(rows.refused) == len(named)


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant", "tool"]), st.text(max_size=20)), min_size=1))
def test_normalising_messages_changes_no_character_and_is_idempotent(turns: list[tuple[str, str]]) -> None:
    messages = [{"role": role, "content": content} for role, content in turns]
    sharegpt = [{"from": {"user": "human", "assistant": "gpt"}.get(r, r), "value": c} for r, c in turns]
    assert messages_of(messages, "m") == messages_of(sharegpt, "m") == messages
