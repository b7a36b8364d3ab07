"""Jinja for templates that nobody has vetted: the immutable sandbox, with a meter on every operation.

The template is parsed by Jinja, its syntax tree is rewritten so that each turn of a loop, each value printed, compared,
built or cut pays the meter, and the result is compiled as usual; operators, attributes, calls, filters and tests pay
through Jinja's own hooks. So no process, signal or thread is needed to stop a template that never ends, and one that
ends writes what plain Jinja would. Attributes are an allow-list for each type (Jinja's is a deny-list): nothing of
Python can be reached, whatever Jinja's next escape may be.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache, partial
from types import CodeType
from typing import Any, cast

from jinja2 import nodes
from jinja2.environment import Template
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS as DEFAULT_FILTERS
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment, modifies_known_mutable, safe_range
from jinja2.tests import TESTS as DEFAULT_TESTS
from jinja2.utils import Namespace, missing, pass_context

from cadran.tokenizer.template_meter import Lazy, Meter, OverBudget, characters_size
from cadran.tokenizer.template_operations import FILTERS, METHODS, bound_call, bound_operator, kept, set_of, work
from cadran.tokenizer.template_syntax import PRICE, Generation, Metering

_LOOP = set_of("index index0 revindex revindex0 first last length depth depth0 previtem nextitem cycle changed")
_LONGEST_DATE = 256
_WIDEST_INDENT = 16


class Refusal(TemplateError):
    """The template itself refuses the conversation (``raise_exception``)."""


class Guarded:
    """A function that a template may call; it pays before it works."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return "<function>"


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one rendering.

    Args:
        meter: who pays.
        now: what ``strftime_now`` calls now; the clock when absent.
    """

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self, meter: Meter, now: datetime | None = None) -> None:
        # What `transformers` sets, and no folding of constants: it would work before anyone pays.
        extensions: Sequence[type[Extension]] = (Generation, loopcontrols)
        super().__init__(trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=extensions)
        self.meter = meter
        self.written = 0  # characters so far
        self.spans: list[tuple[int, int]] = []
        self.generated = Guarded(self._generated)
        self.filters = dict(_filters())
        self.tests = dict(_tests())
        offered: dict[str, Callable[..., Any]] = {
            "range": safe_range,
            "dict": dict,
            "namespace": _Namespace,
            "raise_exception": _raise_exception,
            "strftime_now": partial(_strftime, now),
        }
        self.globals = {name: self._guarded("function", name, function) for name, function in offered.items()}

    def operate(
        self,
        kind: str,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        before: tuple[Any, ...] = (),
        bound_to: int = 0,
    ) -> Any:
        """Call a filter, a test, a method or a function after it has paid.

        Args:
            kind: "filter", "test", "method" or "function".
            name: of the operation.
            function: what does it.
            args: what it works on, and its arguments.
            kwargs: its named arguments.
            before: what Jinja wants first (the context and the like).
            bound_to: how many of ``args`` the function knows already: 1 for a method.

        Raises:
            OverBudget: it asks for more than is left.
        """
        meter = self.meter
        meter.step(1 + (work(name, args[0]) if args else 0))
        sources = 0
        if name == "join":
            args = tuple(list(value) if isinstance(value, Lazy) else value for value in args)
        for value in (*args, *kwargs.values()):
            if isinstance(value, Lazy):
                sources = max(sources, value.depth)
            else:
                meter.weigh(value)
        bound_call(meter, kind, name, args, kwargs)
        return kept(meter, function(*before, *args[bound_to:], **kwargs), sources)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """``obj.attribute``: an allowed attribute, else an item."""
        self.meter.step()
        found = self._attribute(obj, attribute)
        if found is not missing:
            return found
        try:
            return obj[attribute]
        except (TypeError, LookupError):
            return self.undefined(obj=obj, name=attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """``obj[argument]``: an item, else an allowed attribute."""
        self.meter.step()
        if not isinstance(argument, str):
            self.meter.weigh(argument)
        try:
            return obj[argument]
        except (TypeError, LookupError):
            found = self._attribute(obj, str(argument)) if isinstance(argument, str) else missing
            return self.undefined(obj=obj, name=argument) if found is missing else found

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a macro, a loop, or what the sandbox handed out; nothing else can be called."""
        __self.meter.step(1 + len(args) + len(kwargs))
        if isinstance(__obj, Undefined):
            return __obj()  # says what is undefined
        if not isinstance(__obj, (Macro, LoopContext, Guarded)):
            raise SecurityError(f"a value of type {type(__obj).__name__} cannot be called")
        return __context.call(__obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """A binary operator."""
        self.meter.step()
        bound_operator(self.meter, operator, left, right)
        return kept(self.meter, super().call_binop(context, operator, left, right))

    def concat(self, pieces: Iterable[str]) -> str:
        """The text of a macro or of a captured block."""
        pieces = list(pieces)
        self.meter.keep(49 + sum(map(characters_size, pieces)))
        return "".join(pieces)

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        metered = cast(nodes.Template, Metering().visit(source))
        metered.set_environment(self)
        return super()._generate(metered, *args, **kwargs)

    def _attribute(self, obj: Any, name: str) -> Any:
        for kind, names in METHODS.items():
            if isinstance(obj, kind):
                if name in names and hasattr(obj, name):
                    return self._method(obj, name)
                if modifies_known_mutable(obj, name):
                    return self.unsafe_undefined(obj, name)
                break
        if isinstance(obj, LoopContext) and name in _LOOP:
            return self._method(obj, name)
        if isinstance(obj, (Namespace, Undefined)):
            _refuse_private(name)
            return super().getattr(obj, name)
        if hasattr(obj, name) or name.startswith("__"):
            raise SecurityError(f"the attribute {name} of a value of type {type(obj).__name__} cannot be reached")
        return missing

    def _method(self, obj: Any, name: str) -> Any:
        value = getattr(obj, name)
        if isinstance(obj, LoopContext) and name not in ("cycle", "changed"):
            return value
        if not callable(value):  # a field of a group
            return value
        if isinstance(obj, str):
            value = self.wrap_str_format(value) or value  # fields of a format are looked up through the sandbox
        run = partial(self.operate, "method", name, value)
        return Guarded(lambda *args, **kwargs: run((obj, *args), kwargs, bound_to=1))

    def _guarded(self, kind: str, name: str, function: Callable[..., Any]) -> Guarded:
        return Guarded(lambda *args, **kwargs: self.operate(kind, name, function, args, kwargs))

    def _generated(self, caller: Callable[[], str]) -> str:
        text = caller()
        self.spans.append((self.written, self.written + len(text)))
        return text


class _Namespace(Namespace):
    """Jinja's, without private names and without a printed form, which could be endless."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, attributes = args[0], dict(*args[1:], **kwargs)
        for name in attributes:
            _refuse_private(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"


def compile_template(source: str) -> CodeType:
    """Jinja to Python.

    Raises:
        jinja2.TemplateSyntaxError: it is not Jinja, or uses what the sandbox does not offer.
        SyntaxError, RecursionError, MemoryError, ValueError, OverflowError: it is built to break the compiler.
    """
    return Sandbox(Meter()).compile(source)


def run(code: CodeType, variables: Mapping[str, Any], now: datetime | None) -> tuple[str, list[tuple[int, int]]]:
    """Render a compiled template within its budget.

    Args:
        code: from ``compile_template``.
        variables: what the template sees: plain data, nothing of which changes meanwhile.
        now: see ``Sandbox``.

    Returns:
        The text, and the ranges of its characters that stood in ``{% generation %}``.

    Raises:
        Refusal: the template says no. OverBudget: it used too much. Anything else: it is wrong.
    """
    meter = Meter(variables)
    sandbox = Sandbox(meter, now)
    template = Template.from_code(sandbox, code, sandbox.make_globals(None))
    pieces = []
    for piece in template.root_render_func(template.new_context(dict(variables))):
        meter.step()
        pieces.append(piece)
        sandbox.written += len(piece)
        meter.fits(sandbox.written)
    return "".join(pieces), sandbox.spans


def _step(context: Context, value: Any) -> Any:
    _meter(context).step()
    return value


def _write(context: Context, value: Any) -> Any:
    meter = _meter(context)
    meter.step()
    if not isinstance(value, str):
        meter.keep(meter.weigh(value))
    return value


def _weigh(context: Context, value: Any) -> Any:
    meter = _meter(context)
    meter.step(1 + (meter.weigh(value) >> 10))
    return value


def _keep(context: Context, value: Any) -> Any:
    return kept(_meter(context), value)


def _concatenate(context: Context, values: list[Any]) -> str:
    meter = _meter(context)
    meter.fits(sum(meter.weigh(value) for value in values))
    return cast(str, kept(meter, "".join(map(str, values))))


def _meter(context: Context) -> Meter:
    return cast(Sandbox, context.environment).meter


@cache
def _filters() -> dict[str, Callable[..., Any]]:
    filters = {name: _metered("filter", name, DEFAULT_FILTERS[name]) for name in FILTERS}
    filters["tojson"] = pass_context(_tojson)
    prices = {"step": _step, "write": _write, "weigh": _weigh, "keep": _keep, "concatenate": _concatenate}
    return filters | {PRICE + price: pass_context(function) for price, function in prices.items()}


@cache
def _tests() -> dict[str, Callable[..., Any]]:
    tests = cast(dict[str, Callable[..., Any]], DEFAULT_TESTS)
    return {name: _metered("test", name, function) for name, function in tests.items()}


def _metered(kind: str, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or test of Jinja's behind the meter. It asks for the context, so no constant of it is ever folded."""
    wanted = getattr(getattr(function, "jinja_pass_arg", None), "name", "")

    def metered(context: Context, /, *args: Any, **kwargs: Any) -> Any:
        sandbox = cast(Sandbox, context.environment)
        first = {"context": context, "eval_context": context.eval_ctx, "environment": sandbox}
        before = (first[wanted],) if wanted else ()
        return sandbox.operate(kind, name, function, args, kwargs, before)

    return pass_context(metered)


def _tojson(
    context: Context,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as ``transformers`` writes it: no escaping of HTML, and Python's own arguments."""
    meter = _meter(context)
    meter.step(1 + (meter.weigh(value) >> 8))
    if (len(indent) if isinstance(indent, str) else int(indent or 0)) > _WIDEST_INDENT or any(
        len(separator) > _WIDEST_INDENT for separator in separators or ()
    ):
        raise OverBudget("it writes JSON with hundreds of blanks")
    encoder = json.JSONEncoder(
        ensure_ascii=bool(ensure_ascii), indent=indent, separators=separators, sort_keys=bool(sort_keys)
    )
    if indent is None:
        return cast(str, kept(meter, encoder.encode(value)))
    pieces, size = [], 0
    for piece in encoder.iterencode(value):  # blanks multiply, so they are counted while they come
        meter.step()
        size += characters_size(piece)
        meter.fits(size)
        pieces.append(piece)
    return cast(str, kept(meter, "".join(pieces)))


def _raise_exception(message: Any) -> None:
    raise Refusal(str(message))


def _strftime(now: datetime | None, format: str) -> str:
    if len(format) > _LONGEST_DATE or re.search(r"\d{3}", format):
        raise OverBudget("it writes a date with hundreds of characters")
    return (now or datetime.now()).strftime(format)


def _refuse_private(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"the private name {name} cannot be reached")
