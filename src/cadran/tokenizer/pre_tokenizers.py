"""How byte-level vocabularies of others cut a text before BPE, under the names that GGUF files give to it.

A GGUF file holds a name only (``tokenizer.ggml.pre``), a tokenizer.json the regular expressions themselves; the table
leads from one to the other and back. The expressions are facts of the models, taken from their tokenizer.json where
llama.cpp had to adapt them to its engine, else from llama.cpp (``llama-vocab.cpp``, August 2025). A name that is not in
the table is refused: text cut otherwise than in training makes a model worse without a word.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cadran.errors import UserError
from cadran.tokenizer.detokenizer import flattened

Cuts = tuple[str, ...]
"""Regular expressions, each of which sets its matches apart within the pieces that those before it left."""


@dataclass(frozen=True)
class PreTokenizer:
    """One way to cut.

    Attributes:
        names: those of GGUF files; the first is the one that is written.
        cuts: the expressions.
        also: the same cuts as a tokenizer.json may write them.
        ignore_merges: a piece that is a token is one, whatever the merges make of it.
        adds_bos: whether texts begin with BOS when a GGUF file does not say.
        composes: accents are composed first (NFC): their tokenizer.json says so, GGUF files have no place for it.
    """

    names: tuple[str, ...]
    cuts: Cuts
    also: tuple[Cuts, ...] = ()
    ignore_merges: bool = False
    adds_bos: bool = False
    composes: bool = False


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LLAMA3 = _ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2 = _LLAMA3.replace("{1,3}", "")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*")
_AFTER_CASED = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = "|".join((*_CASED, r"\p{N}")) + _AFTER_CASED
_GPT4O = "|".join((*(f"{word}{_ENDINGS}?" for word in _CASED), r"\p{N}{1,3}")) + _AFTER_CASED
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
_BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
_SEED_CODER = _ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"
_HAN = "[一-龥ࠀ-一가-\ud7ff]+"
_LETTERS_WITH_CASE = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅ"
    "Ὀ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯ"
    "ꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
_DEEPSEEK_LLM = (
    r"[\r\n]",
    rf"\s?[{_LETTERS_WITH_CASE}]+",
    r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
    r"\s+$",
    _HAN,
)
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)

TABLE = (
    PreTokenizer(
        ("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "gigachat", "exaone4", "a.x-4.0", "mellum"), (GPT2,)
    ),
    PreTokenizer(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
        (_LLAMA3,),
        ignore_merges=True,
        adds_bos=True,
    ),
    PreTokenizer(("qwen2",), (_QWEN2,), composes=True),
    PreTokenizer(("deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan"), (_QWEN2,)),
    PreTokenizer(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), (r"\p{N}", GPT2)),
    PreTokenizer(("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), (_LLAMA3,)),
    PreTokenizer(("deepseek-llm",), (*_DEEPSEEK_LLM, r"\p{N}+"), also=((*_DEEPSEEK_LLM, r"\p{N}"),)),
    PreTokenizer(("deepseek-coder",), (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN, r"\p{N}")),
    PreTokenizer(("deepseek-v3", "hunyuan-dense"), _DEEPSEEK3),
    PreTokenizer(("falcon",), (r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]")),
    PreTokenizer(("tekken",), (_TEKKEN,), ignore_merges=True, adds_bos=True),
    PreTokenizer(("gpt-4o", "llama4"), (_GPT4O,)),
    PreTokenizer(("bloom", "poro-chat", "gpt3-finnish"), (_BLOOM,)),
    PreTokenizer(("viking",), (_BLOOM, r"\p{N}")),
    PreTokenizer(("bailingmoe",), (_BAILING,)),
    PreTokenizer(("seed-coder",), (_SEED_CODER,)),
    PreTokenizer(("default",), (r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
)


def named(name: str) -> PreTokenizer:
    """The way to cut that a GGUF file names.

    Raises:
        UserError: it is not known here.
    """
    for known in TABLE:
        if name in known.names:
            return known
    names = ", ".join(sorted(name for known in TABLE for name in known.names))
    raise UserError(
        f"The pre-tokenizer {name[:80]!r} is not known, so texts could only be cut by guess: choose a model with one "
        f"of {names}."
    )


def recognised(cuts: Cuts, ignore_merges: bool) -> PreTokenizer | None:
    """The entry of the table that cuts so; one that treats merges alike if there is one."""
    # Some files hold the line break itself where others have a backslash and a letter.
    spelt = tuple(cut.replace("\r", r"\r").replace("\n", r"\n") for cut in cuts)
    same = [known for known in TABLE if spelt in (known.cuts, *known.also)]
    return next((known for known in same if known.ignore_merges == ignore_merges), same[0] if same else None)


def cuts_of(pre_tokenizer: Mapping[str, Any] | None) -> Cuts | None:
    """What the pre-tokenizer of a byte-level tokenizer.json cuts at; None when it cannot be said in expressions.

    Args:
        pre_tokenizer: that part of the file.
    """
    cuts: list[str] = []
    for step in flattened(dict(pre_tokenizer), "pretokenizers") if pre_tokenizer else []:
        match step:
            case {"type": "Split", "pattern": {"Regex": str(regex)}, "behavior": "Isolated", "invert": False}:
                cuts.append(regex)
            # What is between the matches is dropped, and these expressions leave nothing between.
            case {"type": "Split", "pattern": {"Regex": str(regex)}, "behavior": "Removed", "invert": True}:
                cuts.append(regex)
            case {"type": "Digits", "individual_digits": bool(alone)}:
                cuts.append(r"\p{N}" if alone else r"\p{N}+")
            case {"type": "ByteLevel", "add_prefix_space": False}:
                cuts += [GPT2] if step.get("use_regex", True) else []
            case _:
                return None
    return tuple(cuts)


def as_component(cuts: Cuts) -> dict[str, Any]:
    """The pre-tokenizer of a tokenizer.json that cuts so and then writes bytes as letters."""
    splits = [{"type": "Split", "pattern": {"Regex": cut}, "behavior": "Isolated", "invert": False} for cut in cuts]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [*splits, level]}
