"""The tokenizer: text to ids and back, for the vocabularies trained here and for those of others.

A thin face over the ``tokenizers`` library, which does the work. Two rules it must never break: text is data, so a
special token typed by a user becomes ordinary tokens unless the caller says otherwise; and decoding cleans nothing up,
so for a byte-level vocabulary nothing is lost on the way.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from threading import Lock
from time import sleep
from typing import TYPE_CHECKING, Any

import tokenizers

from cadran.errors import UserError
from cadran.files import sha256_text, write_json, write_text
from cadran.tokenizer.detokenizer import ByteDetokenizer, TextStream, detokenizer_of, steps_of
from cadran.tokenizer.pattern import bounded_pieces
from cadran.tokenizer.special_ids import SpecialIds, read_configuration, special_ids
from cadran.tokenizer.template import CHAT_TEMPLATE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

END_OF_TEXT, IM_START, IM_END, PAD = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"
FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX = "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"
SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END, PAD, FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX)
"""In the order of their ids, 0 to 6, in the tokenizers trained here."""

BATCH_CHARACTERS = 4 << 20  # the library keeps about 150 bytes a token until a batch is done
LONG_CHARACTERS = 10_000  # a few milliseconds of encoding


MARK = re.compile(r"<\|.*\|>|<｜.*｜>", re.DOTALL)
"""How the marks of a chat look. Some checkpoints forget to flag theirs as special, and no text may forge a turn."""


class Tokenizer:
    """A vocabulary with its special tokens: byte-level BPE, SentencePiece BPE or Unigram.

    Args:
        serialised: the content of a ``tokenizer.json``.
        notice: what the user should know about how it was made ("" when there is nothing to say).
        config: the content of ``tokenizer_config.json``.
        generation: the content of ``generation_config.json``.
        model: the content of ``config.json``.

    Attributes:
        notice: as given.
        config: as given, empty when nothing was.

    Raises:
        UserError: the content is not a tokenizer, or one of another kind.
    """

    def __init__(
        self,
        serialised: str,
        notice: str = "",
        *,
        config: Mapping[str, Any] | None = None,
        generation: Mapping[str, Any] | None = None,
        model: Mapping[str, Any] | None = None,
    ) -> None:
        core = _opened(serialised)
        # A file from elsewhere may ask for these; they would silently change what is encoded.
        core.no_truncation()
        core.no_padding()
        core.encode_special_tokens = True
        self._core: Any = core
        self._lock = Lock()  # between what sets the mode of the core and what encodes in it
        self._serialised = serialised
        self.notice = notice
        self.config: dict[str, Any] = dict(config or {})
        self._said = self.config, dict(generation or {}), dict(model or {})
        added = core.get_added_tokens_decoder()
        self._hidden = {id for id, token in added.items() if token.special}
        self._special: dict[int, str] = {
            id: token.content for id, token in added.items() if token.special or MARK.fullmatch(token.content)
        }
        self._detokenizer = detokenizer_of(core)
        # Only here may a long text be cut: elsewhere each piece would be given a leading space of its own.
        self._cuts = isinstance(self._detokenizer, ByteDetokenizer) and not any(
            step.get("add_prefix_space") for step in steps_of(core.pre_tokenizer, "pretokenizers")
        )
        unflagged = [name for id, name in self._special.items() if id not in self._hidden]
        core.add_special_tokens([tokenizers.AddedToken(name, special=True, normalized=False) for name in unflagged])

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Read a model or tokenizer folder: ``tokenizer.json`` and what its configurations say of special tokens.

        Raises:
            UserError: a file is unreadable, ``tokenizer.json`` is absent or of a kind that is not known here.
        """
        path = folder / "tokenizer.json"
        try:
            serialised = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            message = f"There is no tokenizer.json in {folder}; name a folder that holds a model or a tokenizer."
            raise UserError(message) from error
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read ({error}); make or fetch it anew.") from error
        config, generation, model = (
            read_configuration(folder / name)
            for name in ("tokenizer_config.json", "generation_config.json", "config.json")
        )
        try:
            return cls(serialised, config=config, generation=generation, model=model)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def save(self, folder: Path, chat: bool = False) -> None:
        """Write ``tokenizer.json`` and the ``tokenizer_config.json`` that ``transformers`` reads.

        A tokenizer of others keeps the configuration it came with.

        Args:
            folder: created when absent.
            chat: a chat model ends its turns with ``<|im_end|>`` and carries the chat template; otherwise documents
                end with ``<|endoftext|>`` and there is no template.
        """
        if self.config and self.config.get("pad_token") != PAD:
            configuration = self.config
        else:
            configuration = self._own_configuration(chat)
        write_text(folder / "tokenizer.json", self._serialised)
        write_json(folder / "tokenizer_config.json", configuration)

    def _own_configuration(self, chat: bool) -> dict[str, Any]:
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
        if "fim_order" in self.config:  # in which it was taught to fill gaps: see fill_in_the_middle
            configuration["fim_order"] = self.config["fim_order"]
        return configuration

    @contextmanager
    def _encoder(self, texts: Sequence[str], special: bool = False) -> Iterator[Any]:
        """The core in one of its two modes, for one thread at a time; its failures on these texts in a sentence."""
        try:
            with self._lock:
                if self._core.encode_special_tokens == special:
                    self._core.encode_special_tokens = not special
                yield self._core
        except TypeError as error:
            raise _unencodable(texts, error) from error
        except BaseException as error:
            if _is_of_library(error):
                raise UserError(f"This tokenizer fails on a text ({error}); make or fetch it anew.") from error
            raise

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Ids of a text; nothing is added to it. Threads may share the tokenizer.

        Args:
            text: any text.
            special: read special tokens written in the text as such, as a rendered chat template needs it. Otherwise
                they are ordinary text.

        Raises:
            UserError: the text holds half of a surrogate pair, which UTF-8 cannot express; or the tokenizer is damaged.
        """
        ids: list[int] = []
        for number, piece in enumerate(self._pieces(text)):
            if number:
                sleep(0)  # between the pieces of a long text other threads have their turn
            with self._encoder([text], special) as core:
                if len(piece) < LONG_CHARACTERS:
                    ids += core.encode(piece, add_special_tokens=False).ids
                else:  # as a batch of one it lets other threads run meanwhile
                    ids += core.encode_batch_fast([piece], add_special_tokens=False)[0].ids
        return ids

    def _pieces(self, text: str) -> Iterable[str]:
        return bounded_pieces(text) if self._cuts else (text,)

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
            pieces = [list(self._pieces(text)) for text in batch]
            with self._encoder(batch) as core:
                encodings = iter(
                    core.encode_batch_fast([piece for cut in pieces for piece in cut], add_special_tokens=False)
                )
            for cut in pieces:
                parts = [np.array(next(encodings).ids, dtype=self.dtype) for _ in cut]
                arrays.append(parts[0] if len(parts) == 1 else np.concatenate(parts))
        return arrays

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """Text of ids, with U+FFFD where their bytes are not UTF-8.

        Args:
            ids: Python or NumPy integers.
            skip_special: leave out the tokens that are flagged as special. DeepSeek's tool calls are marks without a
                flag, so that they can be read in the text.

        Raises:
            UserError: an id is outside the vocabulary.
        """
        return self._detokenizer.decode((id for id in ids if id not in self._hidden) if skip_special else ids)

    def text_stream(self, continues: bool = False) -> TextStream:
        """Decoding token by token; see ``stream.IncrementalDecoder``."""
        return self._detokenizer.stream(continues)

    def is_hidden(self, id: int) -> bool:
        """Whether ``decode`` leaves an id out when it skips special tokens."""
        return id in self._hidden

    def token_bytes(self, id: int) -> bytes:
        """The raw bytes that a token stands for in the middle of a text; for a special token, those of its name."""
        name = self._special.get(id)
        return self._detokenizer.token_bytes(id) if name is None else name.encode("utf-8")

    def is_special(self, id: int) -> bool:
        """Whether an id is a mark such as ``<|im_end|>`` rather than text."""
        return id in self._special

    @cached_property
    def bytes_per_token(self) -> "NDArray[np.int64]":
        """Bytes of text behind each id, shape (vocabulary,); 0 for special tokens, as bits per byte wants it."""
        import numpy as np

        lengths = [0 if self.is_special(id) else len(self.token_bytes(id)) for id in range(self.vocabulary_size)]
        return np.array(lengths, dtype=np.int64)

    @property
    def dtype(self) -> "np.dtype[np.unsignedinteger[Any]]":
        """Smallest of uint16 and uint32 that holds every id."""
        import numpy as np

        return np.dtype(np.uint16 if self.vocabulary_size <= 1 << 16 else np.uint32)

    @property
    def vocabulary_size(self) -> int:
        """Highest id plus one, special tokens included. The embedding of a model of others may have more rows."""
        return self._detokenizer.size

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of ``tokenizer.json``."""
        return sha256_text(self._serialised)

    @cached_property
    def _special_ids(self) -> SpecialIds:
        post_processor = self._core.post_processor
        steps = {"type": "Sequence", "processors": steps_of(post_processor, "processors")}
        return special_ids(self._core.token_to_id, steps, *self._said)

    @property
    def bos(self) -> int | None:
        """Begins a text, in checkpoints that have such a token."""
        return self._special_ids.bos

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Each of them ends a text or an answer; the tokenizer's own first."""
        ids = self._special_ids.eos
        return ids if ids or END_OF_TEXT not in self._special.values() else (self.end_of_text,)

    @property
    def adds_bos(self) -> bool:
        """Whether the model was taught texts that begin with ``bos``; ``encode`` never adds it."""
        return self._special_ids.adds_bos

    @property
    def adds_eos(self) -> bool:
        """Whether the model was taught texts that end with the first of ``eos_ids``; ``encode`` never adds it."""
        return self._special_ids.adds_eos

    @property
    def is_ours(self) -> bool:
        """Whether it has the special tokens of the tokenizers that are trained here, all of them."""
        return set(SPECIAL_TOKENS) <= set(self._special.values())

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
        """Fills a batch. Ours is never an end, so that no mask can hide one by mistake; that of others may be."""
        if PAD not in self._special.values() and self._special_ids.pad is not None:
            return self._special_ids.pad
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


def _opened(serialised: str) -> Any:
    """The library's tokenizer."""
    try:
        return tokenizers.Tokenizer.from_str(serialised)
    except BaseException as error:
        if _is_of_library(error):
            raise UserError(f"This is not a tokenizer.json ({error}); make or fetch it anew.") from error
        raise


def _is_of_library(error: BaseException) -> bool:
    """The library raises bare ``Exception``, and its panics are not even that."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


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
