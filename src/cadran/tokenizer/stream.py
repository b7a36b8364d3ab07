"""Text while it is generated: a token may end in the middle of a character, and half a character is never shown."""

import codecs

from cadran.tokenizer.tokenizer import Tokenizer


class IncrementalDecoder:
    """Decodes ids one by one; the pieces of text concatenate to ``tokenizer.decode(ids, skip_special)``.

    Args:
        tokenizer: whose ids they are.
        skip_special: leave special tokens out of the text.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, id: int) -> str:
        """The characters that this token completes; "" while one is unfinished.

        Raises:
            UserError: the id is outside the vocabulary.
        """
        if self._skip_special and self._tokenizer.is_special(id):
            return ""
        return self._decoder.decode(self._tokenizer.token_bytes(id))

    def flush(self) -> str:
        """What is left at the end: U+FFFD if the last character was never finished. The decoder is then new again."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest
