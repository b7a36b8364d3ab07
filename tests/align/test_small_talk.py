"""Small talk: whole conversations in one language, the same for the same seed."""

from cadran.align.small_talk import EXCHANGES, small_talk_rows


def test_rows_are_a_function_of_the_seed() -> None:
    assert list(small_talk_rows(40, 3)) == list(small_talk_rows(40, 3)) != list(small_talk_rows(40, 4))
    assert list(small_talk_rows(40, 3))[:20] == list(small_talk_rows(20, 3))


def test_every_row_is_a_conversation_in_one_language() -> None:
    seen = set()
    for row in small_talk_rows(400, 1):
        assert [m["role"] for m in row.messages] == ["user", "assistant"] * (len(row.messages) // 2)
        answers = {m["content"] for m in row.messages if m["role"] == "assistant"}
        here = {text for _, said in EXCHANGES[row.language].values() for text in said}
        assert answers and answers <= here
        seen |= answers
    everything = {text for intents in EXCHANGES.values() for _, said in intents.values() for text in said}
    assert seen == everything


def test_both_languages_answer_the_same_intents() -> None:
    assert EXCHANGES["en"].keys() == EXCHANGES["fr"].keys()
