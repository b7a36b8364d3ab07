"""From the text of known calls to the syntax they are written in."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from cadran.serve.tools.call_syntax import WILD, CallSyntax

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """A call that is known.

    Attributes:
        name: of the tool.
        arguments: two strings, for ``analysed``.
        id: of the call.
    """

    name: str
    arguments: Mapping[str, Any]
    id: str

    def to_template(self, text_arguments: bool) -> dict[str, Any]:
        """As chat templates want it."""
        arguments = json.dumps(self.arguments) if text_arguments else dict(self.arguments)
        return {"type": "function", "id": self.id, "function": {"name": self.name, "arguments": arguments}}


class _Place(NamedTuple):
    """A call within a text: where it begins and ends, and what it says of the syntax."""

    start: int
    stop: int
    syntax: CallSyntax


def analysed(text: str, sample: Sample, second: tuple[str, Sample] | None) -> CallSyntax | None:
    """The syntax of a call.

    Args:
        text: what the model writes for one call, white space before it left out.
        sample: that call.
        second: the text for two calls, of which this is the first, with the other; None where two are refused.

    Returns:
        None where it is none of the styles that are known.
    """
    found = _found(text, sample)
    if found is None:
        return None
    before, after = text[: found.start].lstrip(), text[found.stop :].rstrip()
    if second is None:
        return _wild(_with(found.syntax, "", before, after, None, ""), sample.id)
    longer, other = second
    first = _found(longer, sample)
    if first is None:
        return None
    next_ = _found(longer, other, first.stop)
    if next_ is None:
        return None
    between = longer[first.stop : next_.start]
    between, before = between.replace(other.id, WILD), before.replace(sample.id, WILD)
    head = longer[: first.start].lstrip().replace(sample.id, WILD)
    before = _unnumbered(before, head)
    close = _tag_stops(between, common(between, after))
    rest = between[close:]
    opening = _tag_begins(rest, common(rest[::-1], before[::-1]))
    syntax = _unnumbered_name(found.syntax, next_.syntax, sample, other)
    if syntax is None:
        return None
    return _wild(
        _with(
            syntax, before[: len(before) - opening], before[len(before) - opening :], after[:close],
            rest[: len(rest) - opening], after[close:],
        ),
        sample.id,
    )  # fmt: skip


def common(left: str, right: str) -> int:
    """Length of the common beginning."""
    pairs = zip(left, right, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(left), len(right)))


def tag_starts(text: str, place: int) -> int:
    """A place that is not inside a tag: where the tag begins that it would cut."""
    for opening, closing in ("<>", "[]"):
        begun = text.rfind(opening, 0, place)
        if begun > text.rfind(closing, 0, place) and closing in text[place:]:
            place = begun
    return place


def _tag_stops(text: str, length: int) -> int:
    """The same for a common beginning, which may end with half a tag."""
    begun = text.rfind("<", 0, length)
    return begun if begun > text.rfind(">", 0, length) else length


def _tag_begins(text: str, length: int) -> int:
    """The same for a common end, which may begin with half a tag."""
    tail = text[len(text) - length :]
    cut, begun = tail.find(">"), tail.find("<")
    return length - cut - 1 if cut >= 0 and (begun < 0 or cut < begun) else length


def _with(
    syntax: CallSyntax, section_open: str, call_open: str, call_close: str, separator: str | None, section_close: str
) -> CallSyntax:
    return replace(
        syntax, section_open=section_open, call_open=call_open, call_close=call_close, separator=separator,
        section_close=section_close,
    )  # fmt: skip


def _wild(syntax: CallSyntax, id: str) -> CallSyntax:
    return replace(
        syntax, section_open=syntax.section_open.replace(id, WILD), call_open=syntax.call_open.replace(id, WILD),
        head=syntax.head.replace(id, WILD), after_name=syntax.after_name.replace(id, WILD),
        tail=syntax.tail.replace(id, WILD),
    )  # fmt: skip


def _unnumbered(left: str, right: str) -> str:
    """A mark that is the same but for a running number, with ``WILD`` for the number."""
    if left == right:
        return left
    one, other = (re.sub(r"\d+", WILD, mark) for mark in (left, right))
    return one if one == other else left


def _unnumbered_name(one: CallSyntax, other: CallSyntax, first: Sample, second: Sample) -> CallSyntax | None:
    parts = {}
    for name in ("head", "after_name", "tail"):
        left = getattr(one, name).replace(first.id, WILD)
        right = getattr(other, name).replace(second.id, WILD)
        parts[name] = _unnumbered(left, right)
        if parts[name] == left != right:
            return None
    return replace(one, head=parts["head"], after_name=parts["after_name"], tail=parts["tail"])


def _found(text: str, sample: Sample, start: int = 0) -> _Place | None:
    for look in (_as_object, _as_tagged, _as_parameters):
        place = look(text, sample, start)
        if place is not None:
            return place
    return None


def _as_object(text: str, sample: Sample, start: int) -> _Place | None:
    for begun, content, stop in _values(text, start, "{"):
        if not isinstance(content, dict):
            continue
        name, arguments = _path(content, sample.name), _path(content, sample.arguments)
        if name is None or arguments is None:
            continue
        whole = text[begun:stop]
        marks = _cut(whole, sample)
        if marks is None:
            return None
        head, after_name, tail, quoted = marks
        return _Place(begun, stop, CallSyntax("object", head=head, after_name=after_name, tail=tail, name_path=name,
                                              arguments_path=arguments, quoted=quoted))  # fmt: skip
    return None


def _cut(whole: str, sample: Sample) -> tuple[str, str, str, bool] | None:
    """What an object holds before the name, between name and arguments, and after them."""
    place = whole.find(sample.name)
    after = place + len(sample.name)
    for opening in '{"':
        for begun, content, stop in _values(whole, after + 1, opening):
            if _is(content, sample.arguments):
                return whole[:place], whole[after:begun], whole[stop:], opening == '"'
    return None


def _as_tagged(text: str, sample: Sample, start: int) -> _Place | None:
    for begun, content, stop in _values(text, start, "{"):
        if content == sample.arguments:
            place = text.rfind(sample.name, start, begun)
            if place < 0:
                return None
            after = text[place + len(sample.name) : begun]
            return _Place(place, stop, CallSyntax("tagged", after_name=after, name_path=(), arguments_path=("",)))
    return None


def _as_parameters(text: str, sample: Sample, start: int) -> _Place | None:
    (key, value), (next_key, next_value) = ((key, str(value)) for key, value in sample.arguments.items())
    places, place = [], text.find(sample.name, start)
    for word in (sample.name, key, value, next_key, next_value):
        place = text.find(word, place)
        if place < 0:
            return None
        places.append((place, place := place + len(word)))
    (name_start, name_stop), (key_start, key_stop), (value_start, value_stop), (again, _), (_, end) = places
    before_key, after_key = text[name_stop:key_start], text[key_stop:value_start]
    if before_key.strip() == "(" and after_key.strip(" '\"") == "=":
        stop = text.find(")", end) + 1
        return _Place(name_start, stop, CallSyntax("pythonic")) if stop else None
    tag = before_key.rfind("<")
    key_open, between = before_key[max(tag, 0) :], text[value_stop:again]
    if tag < 0 or not after_key.strip() or not between.endswith(key_open) or key_open == between:
        return None
    closed = between[: len(between) - len(key_open)]
    close = _tag_stops(closed, common(closed, text[end:]))
    value_close = closed[:close]
    found = re.match(r"\s*<[^<>]*>\s*", value_close)
    if found is None:
        return None
    return _Place(
        name_start, end + len(found[0]),
        CallSyntax("parameters", after_name=before_key[:tag], key_open=key_open, after_key=after_key,
                   value_close=found[0]),
    )  # fmt: skip


def _values(text: str, start: int, opening: str) -> "list[tuple[int, Any, int]]":
    """JSON values that begin with a character: where, what, and where they end."""
    decoder, found = json.JSONDecoder(), []
    for match in re.finditer(re.escape(opening), text[start:]):
        begun = start + match.start()
        try:
            content, stop = decoder.raw_decode(text, begun)
        except (ValueError, RecursionError):
            continue
        found.append((begun, content, stop))
    return found


def _path(content: Mapping[str, Any], wanted: object) -> Path | None:
    """The keys that lead to a value, at most two."""
    for key, value in content.items():
        if _is(value, wanted):
            return (key,)
    for key, value in content.items():
        if isinstance(value, dict) and (rest := _path(value, wanted)) is not None and len(rest) == 1:
            return (key, *rest)
    return None


def _is(content: object, wanted: object) -> bool:
    if content == wanted:
        return True
    if not isinstance(content, str) or isinstance(wanted, str):
        return False
    try:
        return bool(json.loads(content) == wanted)
    except ValueError:
        return False
