"""Training of the vocabulary: byte-level BPE (Sennrich et al. 2016; on bytes, Radford et al. 2019).

All 256 bytes are tokens from the start and nothing normalises the text, so every string can be written and read back.
The same texts give the same bytes of ``tokenizer.json``, whatever the number of threads.
"""

from collections.abc import Iterable, Iterator

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from cadran.errors import UserError
from cadran.tokenizer.pattern import PATTERN, bounded_pieces
from cadran.tokenizer.tokenizer import SPECIAL_TOKENS, Tokenizer

BYTES = 256
LEAST_VOCABULARY = BYTES + len(SPECIAL_TOKENS) + 1  # one merge at least, or there was nothing to train


def train_bpe(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Learn a vocabulary from texts, which are read once.

    Args:
        texts: documents; their order does not matter.
        vocabulary: number of ids wanted: 7 special tokens (ids 0 to 6), 256 bytes, and merges.

    Returns:
        The tokenizer. When no pair is left that occurs twice its vocabulary is smaller, and ``notice`` says so.

    Raises:
        UserError: the vocabulary is too small, or a text holds half of a surrogate pair.
    """
    if vocabulary < LEAST_VOCABULARY:
        raise UserError(
            f"A vocabulary of {vocabulary} cannot hold {BYTES} bytes, {len(SPECIAL_TOKENS)} special tokens "
            f"and a merge; ask for at least {LEAST_VOCABULARY}."
        )
    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,  # a pair seen once is a memory, not a unit
        special_tokens=[tokenizers.AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    try:
        core.train_from_iterator(_pieces(texts), trainer)
    except UnicodeEncodeError as error:
        raise UserError(f"A text holds half of a surrogate pair ({error}); repair its encoding first.") from error
    reached = core.get_vocab_size()
    notice = ""
    if reached < vocabulary:
        notice = f"The text has merges for a vocabulary of {reached} only, not {vocabulary}; add text for more."
    return Tokenizer(core.to_str(pretty=True), notice=notice)


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from bounded_pieces(text)
