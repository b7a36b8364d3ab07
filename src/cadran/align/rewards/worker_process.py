"""The child of ``worker.py``: reads a request per line, writes a reply per line.

Requests: ``{"start": true}``, ``{"load": path, "function": name}``, ``{"messages", "answer", "reference"}`` (calls what
was loaded), ``{"pattern", "whole", "text"}`` and ``{"schema", "instance"}``.
"""

import importlib
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, BinaryIO

from cadran.align.rewards.finite import number_of

_SHOWN = 300


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer until the requests end."""
    function: Callable[..., Any] | None = None
    for line in requests:
        request = json.loads(line)
        reply: dict[str, Any]
        try:
            if "start" in request:
                reply = {"started": True}
            elif "load" in request:
                function, reply = _load(request["load"], request["function"])
            elif "pattern" in request:
                pattern = re.compile(request["pattern"], re.DOTALL if request["whole"] else 0)
                found = (pattern.fullmatch if request["whole"] else pattern.search)(request["text"])
                reply = {"value": float(found is not None)}
            elif "schema" in request:
                reply = _validate(request["schema"], request["instance"])
            else:
                assert function is not None
                reply = _value(function(request["messages"], request["answer"], request["reference"]))
        except BaseException as error:
            reply = {"raised": f"{type(error).__name__}: {_text(error)}"}
        replies.write(json.dumps(reply).encode() + b"\n")
        replies.flush()


def _load(path: str, name: str) -> tuple[Callable[..., Any] | None, dict[str, Any]]:
    """A function of a file, with the file's folder on the import path as if it were run."""
    sys.path.insert(0, str(Path(path).resolve().parent))
    spec = importlib.util.spec_from_file_location("user_reward", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["user_reward"] = module
    spec.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        there = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        return None, {"missing": (get_close_matches(name, there, 1, 0.0) or [""])[0]}
    return function, {"loaded": True}


def _value(returned: Any) -> dict[str, Any]:
    number = number_of(returned)
    return {"value": number} if number is not None else {"wrong": repr(returned)[:_SHOWN]}


def _validate(schema: Any, instance: Any) -> dict[str, Any]:
    """Whether an instance satisfies a schema; references to other documents are not followed (no network)."""
    jsonschema = importlib.import_module("jsonschema")
    registry = importlib.import_module("referencing").Registry()
    validator = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    validator.check_schema(schema)
    return {"value": float(validator(schema, registry=registry).is_valid(instance))}


def _text(error: BaseException) -> str:
    try:
        return " ".join(str(error).split())[:_SHOWN]
    except BaseException:
        return ""


if __name__ == "__main__":
    # What the user's function prints goes to the error stream, not between the replies, and it reads nothing.
    private_input, private_output = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    with os.fdopen(private_input, "rb") as requests_in, os.fdopen(private_output, "wb") as replies_out:
        serve(requests_in, replies_out)
