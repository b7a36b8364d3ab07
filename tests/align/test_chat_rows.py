"""Chat rows: answers are the truth of the document, in its language, and only answers are learnt."""

import json
import random

import pytest

from cadran.align.rows import article_rows, chat_row, clipped, first_sentence, reading
from cadran.align.sft_rows import RefusedRow, encode_chat
from cadran.corpus.document import Document
from cadran.errors import UserError
from cadran.tokenizer.bpe import train_bpe
from cadran.tokenizer.renderer import ChatRenderer

EXTRACT = "Le chat est un animal domestique de la famille des félidés. Il dort beaucoup. M. Dupont l'aime."
ARTICLE = Document(
    "a1", f"Chat\n\n{EXTRACT}", "wiki", "fr",
    {"title": "Chat", "extract": EXTRACT, "description": "animal domestique", "topic": "Biologie"},
)  # fmt: skip


@pytest.fixture(scope="module")
def renderer() -> ChatRenderer:
    return ChatRenderer(train_bpe([EXTRACT, "What is the topic of this text?"] * 5, 400))


def test_an_article_gives_its_definition_topic_and_description_in_its_language() -> None:
    rows = list(article_rows(ARTICLE, random.Random(0), 360))
    said = {row.task: [m["content"] for m in row.messages if m["role"] == "assistant"] for row in rows}
    assert said["definition"] == [first_sentence(EXTRACT)] == [EXTRACT[: EXTRACT.index(" Il dort")]]
    assert sorted(said["reading"]) == ["Biologie", "animal domestique"]
    asked = [m["content"] for row in rows for m in row.messages if m["role"] == "user"]
    assert any("Chat" in a for a in asked) and not any(word in a for a in asked for word in ("What", "topic"))


def test_both_orders_of_topic_and_description_occur() -> None:
    firsts = set()
    for seed in range(12):
        rows = list(article_rows(ARTICLE, random.Random(seed), 360))
        firsts.add(next(r for r in rows if r.task == "reading").messages[1]["content"])
    assert firsts == {"Biologie", "animal domestique"}


def test_an_unknown_topic_or_missing_description_is_never_taught() -> None:
    document = Document("a2", "x", "wiki", "en", {**ARTICLE.meta, "topic": "Uncategorized", "description": ""})
    assert {row.task for row in article_rows(document, random.Random(0), 360)} == {"definition"}


def test_plain_text_is_continued_without_loss() -> None:
    text = "one two three four five six seven eight nine ten"
    (row,) = article_rows(Document("p", text, "folder", "en", {}), random.Random(0), 360)
    asked, answer = (m["content"] for m in row.messages)
    assert f"{asked.splitlines()[1]} {answer}" == text


def test_clipping_ends_at_a_sentence_or_a_word() -> None:
    assert clipped(EXTRACT, 80).endswith("beaucoup.")
    assert clipped("mot " * 50, 22) == "mot mot mot mot mot"
    assert clipped(EXTRACT, 10_000) == EXTRACT


def test_a_chat_begins_with_a_question_and_ends_with_an_answer() -> None:
    turns = [
        {"role": r, "content": c} for r, c in (("assistant", "0"), ("user", "1"), ("assistant", "2"), ("user", "3"))
    ]
    row = chat_row(Document("c", "", "chats", "en", {"messages": json.dumps(turns)}))
    assert row is not None and [m["content"] for m in row.messages] == ["1", "2"]
    assert chat_row(Document("c", "", "chats", "en", {"messages": json.dumps(turns[:1])})) is None


def test_only_answers_and_their_stop_token_are_supervised(renderer: ChatRenderer) -> None:
    tokenizer = renderer.tokenizer
    for row in article_rows(ARTICLE, random.Random(1), 360):
        encoded = encode_chat(row.messages, None, renderer, 500, row.source)
        assert encoded.supervised is not None
        learnt = tokenizer.decode([int(i) for i in encoded.ids[encoded.supervised]])
        answers = [m["content"] for m in row.messages if m["role"] == "assistant"]
        assert learnt == "".join(f"{a}<|im_end|>" for a in answers)
        assert encoded.ids[-1] == tokenizer.im_end and bool(encoded.supervised[-1])


def test_what_is_learnt_begins_exactly_where_serving_begins(renderer: ChatRenderer) -> None:
    """Training ids up to an answer are the ids that the engine is given when it must answer."""
    (row, *_) = article_rows(ARTICLE, random.Random(2), 360)
    encoded = encode_chat(row.messages, None, renderer, 500, row.source)
    assert encoded.supervised is not None
    prompt = renderer.render(row.messages[:1], add_generation_prompt=True).ids
    start = int(encoded.supervised.argmax())
    assert encoded.ids[:start].tolist() == list(prompt)


def test_a_long_conversation_loses_its_last_turns_and_a_hopeless_one_is_left_out(renderer: ChatRenderer) -> None:
    row = next(r for r in article_rows(ARTICLE, random.Random(0), 360) if r.task == "reading")
    whole = encode_chat(row.messages, None, renderer, 500, row.source)
    shorter = encode_chat(row.messages, None, renderer, len(whole.ids) - 2, row.source)
    assert len(shorter.ids) < len(whole.ids)
    assert shorter.ids.tolist() == whole.ids[: len(shorter.ids)].tolist()
    with pytest.raises(RefusedRow, match="a1"):
        encode_chat(row.messages, None, renderer, 5, row.source)


def test_a_row_without_an_answer_is_refused(renderer: ChatRenderer) -> None:
    row = next(iter(article_rows(ARTICLE, random.Random(0), 360)))
    with pytest.raises(UserError, match="a1: it has no answer to learn from"):
        encode_chat(row.messages[:1], None, renderer, 100, row.source)


def test_an_unknown_language_is_asked_in_english() -> None:
    assert reading("eo", "topic", "Teksto") == "Teksto\n\nWhat is the topic of this text?"
