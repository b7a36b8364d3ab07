"""How the report says numbers: units a reader knows, as many digits as mean something.

A number and its unit are joined by a no-break space (written ``_SPACE``), so that no line ends between them.
"""

_SPACE = "\N{NO-BREAK SPACE}"

_LANGUAGES = {
    "all": "All languages",
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "it": "Italian",
    "pt": "Portuguese",
    "und": "Unidentified",
}
_STAGES = {
    "corpus": "Corpus",
    "tokenizer": "Tokenizer",
    "base": "Base model",
    "sft": "Chat (SFT)",
    "reward": "Reward model",
    "dpo": "Preferences (DPO)",
    "kto": "Judged answers (KTO)",
    "ppo": "Reinforcement (PPO)",
    "grpo": "Reinforcement (GRPO)",
    "distil": "Distillation",
    "int8": "INT8",
    "report": "Report",
}
_RULES = {
    "normalise": "Empty after normalisation",
    "too_short": "Too short",
    "exact_duplicate": "Exact duplicate",
    "near_duplicate": "Near-duplicate",
}


def language_name(code: str) -> str:
    """English name of an ISO 639-1 code; the code itself for one that has no name here."""
    return _LANGUAGES.get(code, code)


def stage_name(stage: str) -> str:
    """What a reader calls a stage."""
    return _STAGES.get(stage, stage)


def rule_name(rule: str) -> str:
    """What a cleaning rule takes out, in words."""
    return _RULES.get(rule, rule.replace("_", " ").capitalize())


def count(value: float) -> str:
    """A whole number with its thousands apart: 12,345."""
    return f"{value:,.0f}"


def rounded(value: float) -> str:
    """About three digits of a large number: 11.9 million, 1.24 billion; small ones in full."""
    for size, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if abs(value) >= 0.9995 * size:
            return f"{_three_digits(value / size)}{_SPACE}{name}"
    return count(value)


def size(value: float) -> str:
    """Bytes in decimal units: 4.93 MB."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= 0.9995 * unit:
            return f"{_three_digits(value / unit)}{_SPACE}{name}"
    return f"{value:.0f}{_SPACE}B"


def decimal(value: float, digits: int = 2) -> str:
    """A number with a fixed count of decimals."""
    return f"{value:,.{digits}f}"


def plain(value: float) -> str:
    """About three digits of a figure of any size, with a true minus sign: 0.693, −120, 1.2e-05 as 1.2e−05."""
    text = f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"
    return ("0" if text in ("-0", "0") else text).replace("-", "\N{MINUS SIGN}")


def percent(share: float, digits: int = 1) -> str:
    """A share as a percentage: 0.734 -> 73.4 %."""
    return f"{100 * share:.{digits}f}{_SPACE}%"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 9 min 12 s, 2 h 05 min, 0.4 s."""
    if seconds < 9.95:
        return f"{seconds:.1f}{_SPACE}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{_SPACE}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}{_SPACE}min{_SPACE}{rest:02d}{_SPACE}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}{_SPACE}h{_SPACE}{minutes:02d}{_SPACE}min"


def operations(value: float) -> str:
    """A number of operations up to its metric prefix, ready for "FLOP": 1.24 peta, 310 giga."""
    for unit, name in ((1e18, "exa"), (1e15, "peta"), (1e12, "tera"), (1e9, "giga"), (1e6, "mega")):
        if abs(value) >= 0.9995 * unit:
            return f"{_three_digits(value / unit)}{_SPACE}{name}"
    return count(value) + _SPACE


def _three_digits(value: float) -> str:
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f}"
