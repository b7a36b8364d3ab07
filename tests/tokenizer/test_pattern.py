import regex
from difficult_strings import known_strings, strings
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from cadran.tokenizer.pattern import PATTERN, bounded_pieces

SPLIT = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")


def cut(text: str) -> list[str]:
    return [piece for piece, _ in SPLIT.pre_tokenize_str(text)]


@given(strings)
def test_the_cuts_lose_nothing(text):
    assert "".join(cut(text)) == text


@given(known_strings)
def test_another_engine_cuts_the_same(text):
    assert cut(text) == regex.findall(PATTERN, text)


@given(st.text(alphabet="0123456789 a٣½"))
def test_digits_come_in_groups_of_at_most_two(text):
    assert all(sum(character.isnumeric() for character in piece) <= 2 for piece in cut(text))


def test_digits_are_grouped_from_the_left_and_take_their_space():
    assert cut("in 1918 and 12345") == ["in", " 19", "18", " and", " 12", "34", "5"]


def test_a_french_elision_stands_alone_so_that_the_word_keeps_its_tokens():
    assert cut("L'avion d’été, jusqu'à ce qu'il") == [
        "L'",
        "avion",
        " d’",
        "été",
        ",",
        " jusqu'",
        "à",
        " ce",
        " qu'",
        "il",
    ]
    assert cut("(l'eau") == ["(l'", "eau"]


def test_an_english_contraction_is_no_elision():
    assert cut("don't I'm it's we're") == ["don", "'t", " I", "'m", " it", "'s", " we", "'re"]


def test_a_decomposed_accent_stays_in_its_word():
    assert cut(" e\u0301te\u0301") == [" e\u0301te\u0301"]


@given(strings, st.integers(1, 8))
def test_bounded_pieces_are_short_and_lose_nothing(text, longest):
    pieces = list(bounded_pieces(text, longest))
    assert "".join(pieces) == text
    assert all(len(piece) <= longest for piece in pieces)


@given(st.lists(st.one_of(known_strings, st.text()).filter(lambda text: 0 < len(text) < 30 and not text[0].isspace())))
def test_bounded_pieces_cut_where_no_word_is(lines):
    text = "".join(f"{line}\n" for line in lines)
    assert [word for piece in bounded_pieces(text, 60) for word in cut(piece)] == cut(text)
