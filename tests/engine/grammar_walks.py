"""Random answers under the mask of a grammar, for small vocabularies of each kind."""

import numpy as np
from small_tokenizers import EOS, TEXTS, small_tokenizer

from cadran.engine.grammar import GrammarCompiler
from cadran.engine.text import TextStream
from cadran.errors import UserError
from cadran.tokenizer.bpe import train_bpe
from cadran.tokenizer.tokenizer import Tokenizer

KINDS = ("ours", "llama", "gemma", "unigram")
TOKENIZERS = {kind: Tokenizer(small_tokenizer(kind), config={"eos_token": EOS}) for kind in KINDS[1:]}
TOKENIZERS["ours"] = train_bpe(TEXTS, 416)  # a multiple of 32, where a mask has no spare bits
COMPILERS = {kind: GrammarCompiler(tokenizer) for kind, tokenizer in TOKENIZERS.items()}


def allowed(mask):
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))


def text_of(tokenizer, ids):
    stream = TextStream(tokenizer, skip_special=False)
    return "".join(map(stream.push, ids)) + stream.flush()


def walk(kind, grammar, seed, use_forced=False, closing='"]}'):
    """Random tokens under the mask to the end; what closes an answer gets likelier, so that every walk ends."""
    tokenizer = TOKENIZERS[kind]
    closes = np.array(
        [len(tokenizer.token_bytes(id).translate(None, closing.encode())) == 0 for id in range(size(kind))]
    )
    closes[list(tokenizer.eos_ids)] = True
    matcher, ids = grammar.matcher(), []
    while not matcher.ended:
        forced = matcher.forced()
        mask = matcher.mask()
        tokens = allowed(mask)
        assert mask.dtype == np.uint32 and mask.shape == (-(-size(kind) // 32),)
        assert tokens.max() < size(kind)
        special = {int(id) for id in tokens if tokenizer.is_special(int(id))}
        assert special == (set(tokenizer.eos_ids) if matcher.can_end else set())
        if forced:
            assert tokens.tolist() == forced[:1]
        if use_forced and forced:
            for token in forced:
                matcher.accept(token)
            ids += forced
            continue
        logits = np.random.default_rng([seed, len(ids)]).gumbel(size=size(kind)) + closes * len(ids) / 20
        token = int(tokens[np.argmax(logits[tokens])])
        matcher.accept(token)
        if token not in tokenizer.eos_ids:
            ids.append(token)
        assert len(ids) < 1500
    assert matcher.can_end
    assert allowed(matcher.mask()).tolist() == sorted(tokenizer.eos_ids)
    return ids, text_of(tokenizer, ids)


def size(kind):
    return TOKENIZERS[kind].vocabulary_size


def inside(kind, text):
    """Ids of a text that goes on from another, as the tokenizer cuts it."""
    ids = COMPILERS[kind].vocabulary(text)
    assert text_of(TOKENIZERS[kind], ids) == text
    return ids


def fits(kind, grammar, text, masked=True):
    """Whether the text's own tokens are taken one by one, and may end."""
    matcher = grammar.matcher()
    for id in inside(kind, text):
        if masked and id not in allowed(matcher.mask()):
            return False
        try:
            matcher.accept(id)
        except UserError:
            return False
    return matcher.can_end
