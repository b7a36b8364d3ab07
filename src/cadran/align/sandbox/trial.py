"""The child's side of the sandbox: two processes, one that holds the answer's code and one that holds the tests.

Whoever runs the tests in the interpreter that ran the answer lets the answer mark itself: it can exit early with
status 0, patch ``==``, walk the stack to the harness, or print what the harness would print. Here the answer's process
never sees the tests, nor what they expect, nor the pipe that the verdict leaves by; it is only asked for values, which
arrive as plain data. Run as a script by ``sandbox.py``; imports nothing but the standard library and its neighbours.
"""

import builtins
import json
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

# Run with -I -S, so the package is not on the path; its own folder is there for these two imports only.
if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from cadran.align.sandbox import confine
from cadran.align.sandbox.plain import decode, encode, receive, send

if __name__ == "__main__":
    del sys.path[0]

_REASON = 500  # characters of a reason: it ends in a report
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
_ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor")
_SPECIAL = ("len", "bool", "str", "repr", "getitem", "iter", "next", "neg", "abs", "int", "float", "enter", "exit")


class AnswerError(Exception):
    """What the answer raised, when that is no built-in exception."""


class Held:
    """The answer's side: runs the code, then evaluates what it is asked, and keeps what is no plain data."""

    def __init__(self) -> None:
        self._objects: list[Any] = []

    def keep(self, value: Any) -> int:
        self._objects.append(value)
        return len(self._objects) - 1

    def serve(self, code: str, asks: int, replies: int) -> NoReturn:
        """Run the code and answer questions until there are no more."""
        module = types.ModuleType("answer")
        sys.modules["answer"] = module
        try:
            exec(compile(code, "<answer>", "exec"), module.__dict__)
            names = {
                name: encode(value, self.keep) for name, value in vars(module).items() if self._public(name, value)
            }
            send(replies, {"names": names})
        except BaseException as error:
            send(replies, _raised(error))
            os._exit(0)
        while True:
            try:
                ask = receive(asks)
            except EOFError:
                os._exit(0)
            try:
                reply = self._evaluate(ask)
                send(replies, reply)
            except BaseException as error:
                send(replies, _raised(error))

    @staticmethod
    def _public(name: str, value: Any) -> bool:
        return not name.startswith("__") and not isinstance(value, types.ModuleType)

    def _evaluate(self, ask: dict[str, Any]) -> dict[str, Any]:
        target = self._objects[ask["target"]]
        given = decode(ask["arguments"], self._objects.__getitem__)
        named = decode(ask["named"], self._objects.__getitem__)
        operation = ask["operation"]
        if operation == "call":
            value = target(*given, **named)
        elif operation == "attribute":
            value = getattr(target, given[0])
        elif operation == "set":
            setattr(target, given[0], given[1])
            value = None
        elif operation in ("str", "repr", "bool", "len", "iter", "next", "abs", "int", "float"):
            value = getattr(builtins, operation)(target)
        else:
            value = getattr(type(target), f"__{operation}__")(target, *given)
            if value is NotImplemented:
                raise TypeError(f"unsupported operation {operation}")
        # A list, dictionary or set that was handed in may have been changed in place, as sorting does.
        return {"value": encode(value, self.keep), "arguments": encode(given, self.keep)}


class Remote:
    """The tests' side of an object that stays with the answer; every use of it asks the answer's process."""

    __slots__ = ("_ask", "_handle")

    def __init__(self, ask: Callable[..., Any], handle: int) -> None:
        object.__setattr__(self, "_ask", ask)
        object.__setattr__(self, "_handle", handle)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._ask(self._handle, "call", arguments, named)

    def __getattr__(self, name: str) -> Any:
        return self._ask(self._handle, "attribute", (name,), {})

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask(self._handle, "set", (name, value), {})

    def __hash__(self) -> int:
        return int(self._handle)


def _special(name: str) -> Callable[..., Any]:
    def method(self: Remote, *arguments: Any) -> Any:
        # An object of the answer's must not judge itself against what a test expects: it could claim to equal it.
        if name in _COMPARISONS and not isinstance(arguments[0], Remote):
            return NotImplemented
        return self._ask(self._handle, name, (None, None, None) if name == "exit" else arguments, {})

    return method


for _name in (*_COMPARISONS, *_ARITHMETIC, *_SPECIAL):
    setattr(Remote, f"__{_name}__", _special(_name))


class Link:
    """The tests' end of the two pipes to the answer's process."""

    def __init__(self, asks: int, replies: int) -> None:
        self._asks, self._replies = asks, replies

    def remote(self, handle: int) -> Remote:
        return Remote(self.ask, handle)

    def names(self) -> dict[str, Any]:
        """What the answer defines; names of built-in functions are left out, so that tests mean their own ``len``.

        Names with two underscores are dropped here too: a ``__builtins__`` sent by hand would replace the tests'.
        """
        found = _checked(receive(self._replies))["names"]
        kept = {name for name in found if not name.startswith("__") and not hasattr(builtins, name)}
        return {name: decode(found[name], self.remote) for name in sorted(kept)}

    def ask(self, handle: int, operation: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Have the answer's process do something with one of its objects."""
        message = {"target": handle, "operation": operation}
        message |= {"arguments": encode(list(arguments), _handle_of), "named": encode(named, _handle_of)}
        send(self._asks, message)
        reply = _checked(receive(self._replies))
        for before, after in zip(arguments, decode(reply["arguments"], self.remote), strict=True):
            if type(before) is list and type(after) is list and before != after:
                before[:] = after
            elif type(before) in (dict, set) and type(after) is type(before) and before != after:
                before.clear()
                before.update(after)
        return decode(reply["value"], self.remote)


def _handle_of(value: Any) -> int:
    if isinstance(value, Remote):
        return int(value._handle)
    raise TypeError(f"a test can hand plain data to the answer, not a {type(value).__name__}")


def _raised(error: BaseException) -> dict[str, Any]:
    try:
        text = str(error)[:_REASON]
    except BaseException:
        text = ""
    return {"raised": type(error).__name__, "text": text}


def _checked(reply: dict[str, Any]) -> dict[str, Any]:
    """The reply, or the exception it reports, as the built-in one of that name where there is one."""
    if "raised" not in reply:
        return reply
    name, text = str(reply["raised"]), str(reply.get("text", ""))
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception) and kind is not AssertionError:
        try:
            raise kind(text)
        except TypeError as error:  # such as UnicodeDecodeError, which takes five arguments
            if kind is not TypeError:
                raise AnswerError(f"{name}: {text}") from error
            raise
    raise AnswerError(f"{name}: {text}")


def judge(tests: str, link: Link) -> str:
    """Run the tests against the answer.

    Returns:
        "" when every statement of them and every ``test_`` function ran to its end, else why not.
    """
    stage = "the answer's code"
    try:
        namespace = {"__name__": "tests", **link.names()}
        stage = "a test"
        exec(compile(tests, "<tests>", "exec"), namespace)
        for name, value in list(namespace.items()):
            if name.startswith("test_") and isinstance(value, types.FunctionType):
                value()
    except EOFError:
        return "the answer's process ended (it left, or took more memory or time than it may)"
    except AssertionError as error:
        return f"a test failed: line {_line(error)}"
    except BaseException as error:
        raised = _raised(error)
        return f"{stage} raised {raised['raised']}: {raised['text']}"[:_REASON]
    return ""


def _line(error: BaseException) -> int:
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<tests>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _fork() -> int:
    """``os.fork`` with the child bound to its parent's life."""
    parent = os.getpid()
    child = os.fork()
    if not child:
        confine.die_with_parent()
        if os.getppid() not in (parent, 0):  # it ended before; 0 is a parent outside of the child's process namespace
            os._exit(0)
    return child


def main(job_bytes: int) -> NoReturn:
    """Read the job from standard input, confine, fork twice, and write what is in force and the verdict.

    Args:
        job_bytes: length of the first part of the input (the answer's code and the limits); the tests follow it.
    """
    confine.die_with_parent()
    verdict = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    job = json.loads(os.pread(0, job_bytes, 0))
    if os.getppid() != job["parent"]:  # it ended before this process was bound to its life
        os._exit(0)
    skip = frozenset(job["skip"])
    confine.limit(job["memory"], job["seconds"])
    separate = "namespaces" not in skip and confine.separate()
    if _fork():
        os.close(verdict)
        os.wait()
        os._exit(0)
    asks, replies = os.pipe(), os.pipe()
    layers = os.pipe()
    if not _fork():
        os.dup2(null, 0)
        _keep_open({0, 1, 2, asks[0], replies[1], layers[1]})
        send(layers[1], {"layers": confine.seal(skip, separate, signals=False)})
        os.close(layers[1])
        Held().serve(job["code"], asks[0], replies[1])
    os.close(asks[0])
    os.close(replies[1])
    tests = b"".join(iter(lambda: os.read(0, 1 << 16), b"")) if os.lseek(0, job_bytes, 0) else b""
    os.dup2(null, 0)
    _keep_open({0, 1, 2, verdict, asks[1], replies[0], layers[0]})
    inner = receive(layers[0])["layers"]
    confine.seal(skip, separate, signals=True)
    send(verdict, {"protection": (["namespaces"] if separate else []) + inner + ["limits"]})
    reason = judge(tests.decode(), Link(asks[1], replies[0]))
    send(verdict, {"passed": not reason, "reason": reason})
    os._exit(0)


def _keep_open(kept: set[int]) -> None:
    for descriptor in range(confine.OPEN_FILES):
        if descriptor not in kept:
            try:
                os.close(descriptor)
            except OSError:
                continue


if __name__ == "__main__":
    main(int(sys.argv[1]))
