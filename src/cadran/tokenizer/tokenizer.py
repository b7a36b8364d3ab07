"""The tokenizer: bytes of UTF-8 to ids and back, exactly, for every text.

A thin face over the ``tokenizers`` library, which does the work. Two rules it must never break: text is data, so a
special token typed by a user becomes ordinary tokens (the only way to a special id is to write the id); and decoding
joins raw bytes, so nothing is cleaned up or lost on the way.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers

from cadran.errors import UserError
from cadran.files import sha256_text, write_json, write_text
from cadran.tokenizer.pattern import bounded_pieces
from cadran.tokenizer.template import CHAT_TEMPLATE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

END_OF_TEXT, IM_START, IM_END, PAD = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"
FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX = "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"
SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END, PAD, FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX)
"""In the order of their ids, 0 to 6, in the tokenizers trained here."""

BATCH_CHARACTERS = 4 << 20  # the library keeps about 150 bytes a token until a batch is done


class Tokenizer:
    """A byte-level BPE vocabulary with its special tokens.

    Args:
        serialised: the content of a ``tokenizer.json``.
        notice: what the user should know about how it was made ("" when there is nothing to say).

    Raises:
        UserError: the content is not a byte-level tokenizer.
    """

    def __init__(self, serialised: str, notice: str = "") -> None:
        try:
            core = tokenizers.Tokenizer.from_str(serialised)
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"This is not a tokenizer.json ({error}); make or fetch it anew.") from error
        # A file from elsewhere may ask for these; they would silently change what is encoded.
        core.no_truncation()
        core.no_padding()
        core.encode_special_tokens = True
        self._core: Any = core
        self._serialised = serialised
        self.notice = notice
        self._special: dict[int, bytes] = {
            id: token.content.encode("utf-8") for id, token in core.get_added_tokens_decoder().items() if token.special
        }
        self._bytes: list[bytes] = _byte_table(core)

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Read ``tokenizer.json`` in a model or tokenizer folder.

        Raises:
            UserError: the file is absent, unreadable or not a byte-level tokenizer.
        """
        path = folder / "tokenizer.json"
        try:
            serialised = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            message = f"There is no tokenizer.json in {folder}; name a folder that holds a model or a tokenizer."
            raise UserError(message) from error
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read ({error}); make or fetch it anew.") from error
        try:
            return cls(serialised)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def save(self, folder: Path, chat: bool = False) -> None:
        """Write ``tokenizer.json`` and the ``tokenizer_config.json`` that ``transformers`` reads.

        Args:
            folder: created when absent.
            chat: a chat model ends its turns with ``<|im_end|>`` and carries the chat template; otherwise documents
                end with ``<|endoftext|>`` and there is no template.
        """
        present = [token for token in SPECIAL_TOKENS if self._core.token_to_id(token) is not None]
        end = IM_END if chat else END_OF_TEXT
        for token in (end, PAD):
            self._id_of(token)  # refuse to write a configuration that names what is absent
        configuration: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "add_bos_token": False,
            "bos_token": None,
            "unk_token": None,
            "eos_token": end,
            "pad_token": PAD,
            "additional_special_tokens": [token for token in present if token not in (end, PAD)],
        }
        if chat:
            configuration["chat_template"] = CHAT_TEMPLATE
        write_text(folder / "tokenizer.json", self._serialised)
        write_json(folder / "tokenizer_config.json", configuration)

    def encode(self, text: str) -> list[int]:
        """Ids of a text; nothing is added, and special tokens written in it are ordinary text.

        Raises:
            UserError: the text holds half of a surrogate pair, which UTF-8 cannot express.
        """
        try:
            pieces = [self._core.encode(piece, add_special_tokens=False).ids for piece in bounded_pieces(text)]
        except TypeError as error:
            raise _unencodable([text], error) from error
        ids: list[int] = pieces[0] if len(pieces) == 1 else [id for piece in pieces for id in piece]
        return ids

    def encode_batch(self, texts: Sequence[str]) -> "list[NDArray[np.unsignedinteger[Any]]]":
        """Ids of many texts, on every core (``RAYON_NUM_THREADS`` limits them); the ids are those of ``encode``.

        Args:
            texts: any number of texts.

        Returns:
            One array of ``dtype`` per text, in order.

        Raises:
            UserError: as ``encode``.
        """
        import numpy as np

        arrays: list[NDArray[np.unsignedinteger[Any]]] = []
        for batch in _batches(texts):
            pieces = [list(bounded_pieces(text)) for text in batch]
            try:
                encodings = iter(
                    self._core.encode_batch_fast([piece for cut in pieces for piece in cut], add_special_tokens=False)
                )
            except TypeError as error:
                raise _unencodable(batch, error) from error
            for cut in pieces:
                parts = [np.array(next(encodings).ids, dtype=self.dtype) for _ in cut]
                arrays.append(parts[0] if len(parts) == 1 else np.concatenate(parts))
        return arrays

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """Text of ids: their bytes joined, with U+FFFD where those are not UTF-8.

        Args:
            ids: Python or NumPy integers.
            skip_special: leave the special tokens out.

        Raises:
            UserError: an id is outside the vocabulary.
        """
        skipped = self._special if skip_special else {}
        return b"".join(self.token_bytes(id) for id in ids if id not in skipped).decode("utf-8", errors="replace")

    def token_bytes(self, id: int) -> bytes:
        """The raw bytes that a token stands for; for a special token, those of its name."""
        if not 0 <= id < len(self._bytes):
            raise UserError(
                f"Token {id} is outside the vocabulary of {len(self._bytes)}; "
                "take the tokenizer that was saved with the model."
            )
        return self._bytes[id]

    def is_special(self, id: int) -> bool:
        """Whether an id is a mark such as ``<|im_end|>`` rather than text."""
        return id in self._special

    @cached_property
    def bytes_per_token(self) -> "NDArray[np.int64]":
        """Bytes of text behind each id, shape (vocabulary,); 0 for special tokens, as bits per byte wants it."""
        import numpy as np

        lengths = [0 if self.is_special(id) else len(raw) for id, raw in enumerate(self._bytes)]
        return np.array(lengths, dtype=np.int64)

    @property
    def dtype(self) -> "np.dtype[np.unsignedinteger[Any]]":
        """Smallest of uint16 and uint32 that holds every id."""
        import numpy as np

        return np.dtype(np.uint16 if self.vocabulary_size <= 1 << 16 else np.uint32)

    @property
    def vocabulary_size(self) -> int:
        """Number of ids, special tokens included: the rows of the embedding."""
        return len(self._bytes)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of ``tokenizer.json``."""
        return sha256_text(self._serialised)

    @property
    def end_of_text(self) -> int:
        """Ends a document."""
        return self._id_of(END_OF_TEXT)

    @property
    def im_start(self) -> int:
        """Opens a turn of a chat."""
        return self._id_of(IM_START)

    @property
    def im_end(self) -> int:
        """Ends a turn of a chat."""
        return self._id_of(IM_END)

    @property
    def pad(self) -> int:
        """Fills a batch; never an end, so that no mask can hide one by mistake."""
        return self._id_of(PAD)

    @property
    def fim_prefix(self) -> int:
        """Fill in the middle: what follows stands before the gap."""
        return self._id_of(FIM_PREFIX)

    @property
    def fim_middle(self) -> int:
        """Fill in the middle: what follows fills the gap."""
        return self._id_of(FIM_MIDDLE)

    @property
    def fim_suffix(self) -> int:
        """Fill in the middle: what follows stands after the gap."""
        return self._id_of(FIM_SUFFIX)

    def _id_of(self, token: str) -> int:
        id: int | None = self._core.token_to_id(token)
        if id is None or id not in self._special:
            raise UserError(f"This tokenizer has no {token}; take a model that was trained with the ChatML tokens.")
        return id


def _byte_table(core: Any) -> list[bytes]:
    """Raw bytes of each id, read through the printable alphabet in which byte-level vocabularies are written."""
    if type(core.decoder).__name__ != "ByteLevel":
        raise UserError("This tokenizer does not work on bytes; take a model with a byte-level BPE tokenizer.")
    byte_of = _alphabet()
    added = core.get_added_tokens_decoder()
    size = core.get_vocab_size(with_added_tokens=True)
    table = []
    for id in range(size):
        token = core.id_to_token(id)
        if token is None:
            raise UserError(f"None of the {size} tokens has id {id}; make or fetch tokenizer.json anew.")
        if id in added:
            table.append(added[id].content.encode("utf-8"))
        elif all(character in byte_of for character in token):
            table.append(bytes(byte_of[character] for character in token))
        else:
            raise UserError(f"Token {id} ({token!r}) is not made of bytes; take a byte-level BPE tokenizer.")
    return table


def _alphabet() -> dict[str, int]:
    """Printable character of each byte (GPT-2): Latin-1 where it is visible, else the letters from U+0100 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = (byte for byte in range(256) if byte not in visible)
    return {chr(byte): byte for byte in visible} | {chr(0x100 + rank): byte for rank, byte in enumerate(hidden)}


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Consecutive slices of about ``BATCH_CHARACTERS`` characters."""
    start, characters = 0, 0
    for position, text in enumerate(texts):
        characters += len(text)
        if characters >= BATCH_CHARACTERS:
            yield texts[start : position + 1]
            start, characters = position + 1, 0
    if start < len(texts):
        yield texts[start:]


def _unencodable(texts: Sequence[str], error: TypeError) -> Exception:
    """Name the half surrogate that made the library refuse, or give its own error back."""
    for text in texts:
        if half := re.search("[\ud800-\udfff]", text):
            where = f"U+{ord(half[0]):04X} at character {half.start()}"
            return UserError(f"The text holds half of a surrogate pair ({where}); repair its encoding first.")
    return error
