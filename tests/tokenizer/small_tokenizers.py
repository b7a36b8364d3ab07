"""Small vocabularies of each kind that checkpoints have, as the text of a ``tokenizer.json``."""

import json
from functools import cache

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

BOS, EOS = "<s>", "</s>"
TEXTS = [
    "L'avion de l'été s'est posé à l'aéroport d'Orly, jusqu'à l'aube. Qu'il est beau !\n",
    "The plane landed at the airport; it's said that they don't know why. What is a dial? Be brief.\n\n",
    "user assistant system tool model Hello Hi there one two three four five weather place function\n",
    '{"type": "function", "name": "weather", "arguments": {"place": "Orly"}}\n<b>[INST] [/INST]</b>\n',
] * 4

KINDS = ("bytes", "bytes with bos", "llama", "gemma", "unigram", "unigram without bytes")


@cache
def small_tokenizer(kind: str, specials: tuple[str, ...] = ()) -> str:
    """A ``tokenizer.json`` with BOS, EOS and the given special tokens; all but "bytes" add BOS to a text."""
    special = [BOS, EOS, *specials]
    core = _bytes() if kind.startswith("bytes") else _pieces(kind)
    core.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in special])
    if kind != "bytes":
        core.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, core.token_to_id(BOS))]
        )
    text: str = core.to_str()
    return text


def _bytes() -> tokenizers.Tokenizer:
    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False))
    return core


def _pieces(kind: str) -> tokenizers.Tokenizer:
    blanks = normalizers.Replace(" ", "▁")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if kind.startswith("unigram"):
        core = tokenizers.Tokenizer(models.Unigram())
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        trainer = trainers.UnigramTrainer(
            vocab_size=300, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
        )
        core.train_from_iterator(TEXTS, trainer)
        core.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    else:
        core = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), blanks]) if kind == "llama" else blanks
        core.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
        core.train_from_iterator(
            TEXTS, trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>"], show_progress=False)
        )
        core.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if kind == "llama" else steps)
    return core if kind.endswith("without bytes") else _with_bytes(core)


def _with_bytes(core: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The same with a token for each byte, which the trainers do not make."""
    content = json.loads(core.to_str())
    model = content["model"]
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    if isinstance(model["vocab"], list):
        model["vocab"] += [[name, -20.0] for name in names]
    else:
        first = max(model["vocab"].values()) + 1
        model["vocab"] |= {name: first + byte for byte, name in enumerate(names)}
    model["byte_fallback"] = True
    return tokenizers.Tokenizer.from_str(json.dumps(content))
