"""What a chat template may do with values: the methods and filters it may call, each with the bound that comes first.

Most operations make at most some sixty times what they are given, and values are small, so they are simply done and
paid for. The others name their size in an argument (``center(10**9)``) or multiply (``replace``, ``join``, formats):
a bound here, with the operation's own signature, refuses them before any memory is taken. What is not listed cannot be
called; in particular nothing that reaches attributes (``attr``), draws numbers (``random``) or is slow by design.
"""

import re
import string
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cadran.tokenizer.template_meter import LONGEST_NUMBER, Lazy, Meter, OverBudget, characters_size, text_size


def set_of(words: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(words.split())


METHODS: Mapping[type, frozenset[str]] = {
    str: set_of(
        "capitalize casefold center count endswith find format format_map index isalnum isalpha isascii isdecimal "
        "isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip partition "
        "removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith "
        "strip swapcase title upper zfill"
    ),
    dict: set_of("copy get items keys values"),
    list: set_of("copy count index"),
    tuple: set_of("count index grouper list"),  # the last two are fields of what `groupby` gives
}

FILTERS = set_of(
    "abs batch capitalize center count d default dictsort e escape first float forceescape format groupby indent int "
    "items join last length list lower map max min reject rejectattr replace reverse round safe select selectattr "
    "slice sort string sum title trim truncate unique upper wordcount"
)

_CONSTANT = set_of("count d default first items last length map reject rejectattr select selectattr")
_LONGEST_NUMERAL = LONGEST_NUMBER  # characters; reading a numeral takes time that is quadratic in them
_PIECE = 64  # bytes of a small string and of its place in a list
_PERCENT = re.compile(r"(?:%|\))[#0\- +]*(\d+|\*)?(?:\.(\d+|\*)?)?")
_DIGITS = re.compile(r"\d+")
_WORD = re.compile(r"\S+")
_WORD_BOUNDARY = re.compile(r"\w+|\W+")
_LINE_BREAK = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


def work(name: str, subject: Any) -> int:
    """Steps that an operation takes beside its own: what it has to walk through."""
    if isinstance(subject, str):
        return len(subject) >> 10
    if name in _CONSTANT or not isinstance(subject, (list, tuple, dict)):
        return 0
    return len(subject) >> 2


def kept(meter: Meter, value: Any, sources: int = 0) -> Any:
    """Pay for a result; a generator becomes one that pays as it goes.

    Args:
        meter: the budget.
        value: the result. What a container holds was paid for when it was made.
        sources: how many generators stand behind this one, if it is one.
    """
    if isinstance(value, str):
        meter.keep(text_size(value))
    elif isinstance(value, (list, tuple, dict, set)):
        meter.keep(64 + (128 if isinstance(value, dict) else 16) * len(value))
    elif isinstance(value, int):
        meter.weigh(value)
    elif isinstance(value, Iterator) and not isinstance(value, Lazy):
        return Lazy(value, meter, sources + 1)
    return value


def bound_operator(meter: Meter, operator: str, left: Any, right: Any) -> None:
    """Refuse a binary operator whose result would be too large."""
    if operator == "*":
        for sequence, count in ((left, right), (right, left)):
            if isinstance(count, int) and isinstance(sequence, (str, list, tuple)):
                meter.fits(count * (characters_size(sequence) if isinstance(sequence, str) else 16 * len(sequence)))
    elif operator == "**":
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > LONGEST_NUMBER:
            raise OverBudget("it makes a number of thousands of digits")
    elif operator == "%":
        if isinstance(left, str):
            _percent(meter, left, right)
    elif operator == "-":
        meter.weigh(left)  # a difference of sets hashes what they hold
        meter.weigh(right)


def bound_call(meter: Meter, kind: str, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse a filter or a method whose result would be too large.

    Args:
        meter: the budget.
        kind: "filter" or "method".
        name: of the operation.
        args: the value it works on, then its arguments.
        kwargs: its named arguments.
    """
    bound = BOUNDS.get(f"{kind} {name}") or BOUNDS.get(name)
    if bound is not None:
        bound(meter, *args, **kwargs)


def _percent(meter: Meter, text: Any, /, *args: Any, **kwargs: Any) -> None:
    text, size = str(text), 0
    for width, precision in _PERCENT.findall(text):
        if "*" in (width, precision):
            raise OverBudget("it formats with a width that is not written out")
        size += int(width or 0) + int(precision or 0)
    meter.fits(size + text_size(text) + text.count("%") * meter.weigh((args, kwargs)))


def _format(meter: Meter, text: str, /, *args: Any, **kwargs: Any) -> None:
    size, fields = text_size(text), 0
    for _, field, width, _ in string.Formatter().parse(text):
        if "{" in (width or ""):
            raise OverBudget("it formats with a width that is not written out")
        fields += field is not None
        size += sum(int(digits) for digits in _DIGITS.findall(width or ""))
    meter.fits(size + fields * meter.weigh((args, kwargs)))


def _width(meter: Meter, text: Any, width: Any = 80, fill: str = " ") -> None:
    if isinstance(width, int):
        meter.fits(4 * width)


def _replace(meter: Meter, text: Any, old: Any, new: Any, count: Any = None) -> None:
    text, old, new = str(text), str(old), str(new)
    meter.fits(text_size(text) + text.count(old) * characters_size(new))


def _join_filter(meter: Meter, parts: Any, separator: Any = "", attribute: Any = None) -> None:
    _join(meter, str(separator), parts)


def _join(meter: Meter, separator: str, parts: Any) -> None:
    if isinstance(parts, str):
        meter.keep(_PIECE * len(parts))
    if hasattr(parts, "__len__"):  # a generator was read into a list before
        meter.fits(meter.weigh(parts) + len(parts) * characters_size(separator))


def _pieces(meter: Meter, text: str, separator: str | None = None, *rest: Any, **named: Any) -> None:
    separator = named.get("sep", separator)
    if isinstance(separator, str) and separator:
        meter.keep(text_size(text) + _PIECE * (text.count(separator) + 1))
    else:
        _parts(meter, text, _WORD)


def _lines(meter: Meter, text: str, *rest: Any, **named: Any) -> None:
    _parts(meter, text, _LINE_BREAK)


def _words(meter: Meter, text: Any, *rest: Any, **named: Any) -> None:
    _parts(meter, str(text), _WORD_BOUNDARY)


def _parts(meter: Meter, text: str, boundary: re.Pattern[str]) -> None:
    meter.keep(text_size(text) + _PIECE * (1 + sum(1 for _ in boundary.finditer(text))))


def _indent(meter: Meter, text: Any, width: Any = 4, *rest: Any, **named: Any) -> None:
    text = str(text)
    meter.keep((len(width) if isinstance(width, str) else int(width)) * 4 * (len(text.splitlines()) + 1))


def _characters(meter: Meter, value: Any, *rest: Any, **named: Any) -> None:
    """A list is made of the value; of a string, one string for each character."""
    if isinstance(value, str):
        meter.keep(_PIECE * len(value))


def _columns(meter: Meter, value: Any, count: Any, *rest: Any, **named: Any) -> None:
    _characters(meter, value)
    meter.keep(_PIECE * int(count))


def _round(meter: Meter, value: Any, precision: Any = 0, *rest: Any) -> None:
    if abs(precision) > 300:
        raise OverBudget("it rounds to hundreds of digits")


def _numeral(meter: Meter, value: Any, *rest: Any, **named: Any) -> None:
    if isinstance(value, str) and len(value) > _LONGEST_NUMERAL:
        raise OverBudget("it reads a number of thousands of digits")


def _sum(meter: Meter, value: Any, attribute: Any = None, start: Any = 0) -> None:
    if not isinstance(start, (int, float)):
        raise OverBudget("it adds up what are not numbers")


BOUNDS: Mapping[str, Callable[..., None]] = {
    "filter batch": _columns,
    "filter format": _percent,
    "filter groupby": _characters,
    "filter indent": _indent,
    "filter float": _numeral,
    "filter int": _numeral,
    "filter join": _join_filter,
    "filter list": _characters,
    "filter round": _round,
    "filter slice": _columns,
    "filter sort": _characters,
    "filter sum": _sum,
    "filter title": _words,
    "filter wordcount": _words,
    "method format": _format,
    "method format_map": _format,
    "method join": _join,
    "method rsplit": _pieces,
    "method split": _pieces,
    "method splitlines": _lines,
    "center": _width,
    "ljust": _width,
    "replace": _replace,
    "rjust": _width,
    "zfill": _width,
}
