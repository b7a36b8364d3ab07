"""Text while it is generated: a token may end in the middle of a character, and half a character is never shown."""

from cadran.tokenizer.tokenizer import Tokenizer


class IncrementalDecoder:
    """Decodes ids one by one; the pieces of text concatenate to ``tokenizer.decode(ids, skip_special)``.

    Args:
        tokenizer: whose ids they are.
        skip_special: leave special tokens out of the text.
        continues: the ids go on from others, such as those of a prompt. SentencePiece then keeps the space before the
            first word, which it takes off the start of a text.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = False, *, continues: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._stream = tokenizer.text_stream(continues)

    def push(self, id: int) -> str:
        """The characters that this token completes; "" while one is unfinished.

        Raises:
            UserError: the id is outside the vocabulary.
        """
        if self._skip_special and self._tokenizer.is_hidden(id):
            return ""
        return self._stream.push(id)

    def flush(self) -> str:
        """What is left at the end: U+FFFD if the last character was never finished. The decoder is then new again."""
        return self._stream.flush()
