"""Strings that have broken tokenizers before, as a hypothesis strategy."""

from hypothesis import strategies as st

from cadran.tokenizer.tokenizer import SPECIAL_TOKENS

FRAGMENTS = [
    *("l'", "qu’", "d'", "L'avion", "été", "e\u0301", "don't", " the", "The", "aujourd'hui", "œ", "ß", "ſ"),
    *(" ", "  ", "\n", "\r\n", "\n\n ", "\t", "\u00a0", "\u2028", "\x85", "\x00", "\x1c", "\ufeff", "\u200b"),
    *("😀", "👩‍👩‍👧", "❤️", "日本", "\ue000", "\U0010ffff", "\u0301", "न्", "١٢٣", "½"),
    *("1", "42", "1998", " 7", "<|im_end|>", "<|", "|>", "<|pad|>", "'", "''", "…", "!!", "_", "Ġ", "Ã©"),
]

known_strings = st.lists(st.sampled_from(FRAGMENTS)).map("".join)
strings = st.one_of(st.text(), known_strings)


def _unspecial(text: str) -> bool:
    return not any(special in text for special in SPECIAL_TOKENS)


# transformers reads a special token where we read text, so the comparisons with it leave them out
unspecial_strings = st.one_of(
    st.text().filter(_unspecial), st.lists(st.sampled_from(list(filter(_unspecial, FRAGMENTS)))).map("".join)
)
