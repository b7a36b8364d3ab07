"""The chat template of a checkpoint: the text that its own Jinja makes of a conversation.

The text equals that of ``transformers`` (``apply_chat_template(tokenize=False)``, version 5) to the character: the same
environment, the same view of the messages, the same choice among several templates. What the template may do is the
sandbox's affair (``template_sandbox``); here every way in which it can fail becomes one sentence.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import CodeType
from typing import Any

from jinja2.exceptions import TemplateSyntaxError

from cadran.errors import UserError
from cadran.tokenizer.special_ids import read_configuration
from cadran.tokenizer.template_meter import OverBudget
from cadran.tokenizer.template_sandbox import Refusal, compile_template, run

LONGEST_TEMPLATE = 1 << 16  # characters; the longest in use has a quarter of them

SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

_REASONING = ("reasoning_content", "thinking", "reasoning")
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_INSTEAD = "use another template with --template NAME, or none with --raw"


class ChatTemplate:
    """One chat template, or several by name (``default``, ``tool_use``, ...).

    Args:
        source: the Jinja text, or a mapping of names to texts.
        variables: what every rendering sees, such as ``bos_token``; see ``template_variables``.

    Raises:
        UserError: it is not Jinja that the sandbox accepts, or none of several is the default.
    """

    def __init__(self, source: str | Mapping[str, str], variables: Mapping[str, Any] | None = None) -> None:
        self.sources = {"default": source} if isinstance(source, str) else dict(source)
        self.variables = _plain(dict(variables or {}))
        self._codes: dict[str, CodeType] = {}
        if "default" not in self.sources:
            names = ", ".join(sorted(self.sources)) or "none"
            raise UserError(f"This model has no default chat template (only {names}); {_INSTEAD}.")
        self._code("default")

    def source(self, tools: Any = None) -> str:
        """The Jinja text used: ``tool_use`` when there are tools and such a template, else the default."""
        return self.sources[self._name(tools)]

    def marks_answers(self, tools: Any = None) -> bool:
        """Whether the template used says itself what the assistant writes (``{% generation %}``)."""
        return _GENERATION.search(self.source(tools)) is not None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        now: datetime | None = None,
        **extra: Any,
    ) -> str:
        """The text of a conversation.

        Args:
            messages: mappings, usually with ``role`` and ``content``; a key whose value is None counts as absent.
            tools: JSON schemas of functions.
            add_generation_prompt: open an answer at the end.
            now: the date for templates that write it; the clock when absent, and then the text changes every day.
            **extra: further variables of the template (``documents``, ``enable_thinking``, ...).

        Raises:
            UserError: no message, something that is not plain data, a conversation that the template refuses, or a
                template that fails, reaches for what it must not or works without end.
        """
        return self.render_marked(messages, tools, add_generation_prompt, now, **extra)[0]

    def render_marked(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        now: datetime | None = None,
        **extra: Any,
    ) -> tuple[str, list[tuple[int, int]]]:
        """As ``render``, with the ranges of characters that stand in ``{% generation %}``."""
        variables = {
            "documents": None,  # defined, as `transformers` has it
            **self.variables,
            **_plain(extra),
            "messages": _messages(messages),
            "tools": _tools(tools),
            "add_generation_prompt": add_generation_prompt,
        }
        code = self._code(self._name(tools))
        try:
            return run(code, variables, now)
        except Refusal as refusal:
            said = _sentence(refusal)
            raise UserError(f"The chat template refuses this conversation: {said}; change it, or {_INSTEAD}.") from None
        except OverBudget as error:
            raise UserError(f"The chat template of this model was stopped because {error}; {_INSTEAD}.") from None
        except (RecursionError, MemoryError):
            raise UserError(
                f"The chat template of this model was stopped: it calls itself forever; {_INSTEAD}."
            ) from None
        except Exception as error:  # a template can raise whatever Python can
            problem = f"{type(error).__name__}: {_sentence(error)}"
            raise UserError(
                f"The chat template of this model fails on this conversation ({problem}); {_INSTEAD}."
            ) from None

    def _name(self, tools: Any) -> str:
        return "tool_use" if tools is not None and "tool_use" in self.sources else "default"

    def _code(self, name: str) -> CodeType:
        if name not in self._codes:
            self._codes[name] = _compiled(self.sources[name])
        return self._codes[name]


def find_template(folder: Path) -> str | dict[str, str] | None:
    """The chat template stored with a model.

    Files of their own (``chat_template.jinja``, ``additional_chat_templates/NAME.jinja``) come before the entry of
    ``tokenizer_config.json``, as in ``transformers``.

    Args:
        folder: of the model.

    Returns:
        The Jinja text, several by name, or None when there is none.

    Raises:
        UserError: a file cannot be read, or the entry is neither a text nor named texts.
    """
    found = {}
    if (single := folder / "chat_template.jinja").is_file():
        found["default"] = _read(single, 4 * LONGEST_TEMPLATE)
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        found[path.stem] = _read(path, 4 * LONGEST_TEMPLATE)
    if found:
        return found["default"] if list(found) == ["default"] else found
    return stored_template(tokenizer_configuration(folder))


def stored_template(configuration: Mapping[str, Any]) -> str | dict[str, str] | None:
    """The chat template in the content of a ``tokenizer_config.json``.

    Raises:
        UserError: it is neither a text nor a list of named texts.
    """
    entry = configuration.get("chat_template")
    if entry is None or isinstance(entry, str):
        return entry
    if isinstance(entry, dict):
        entry = [{"name": name, "template": text} for name, text in entry.items()]
    if isinstance(entry, list) and all(isinstance(each, dict) for each in entry):
        named = [(each.get("name"), each.get("template")) for each in entry]
        if all(isinstance(name, str) and isinstance(text, str) for name, text in named):
            return dict(named)
    raise UserError(f"chat_template in tokenizer_config.json is neither a text nor named texts; {_INSTEAD}.")


def template_variables(configuration: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens that a template can write by name, from the content of a ``tokenizer_config.json``."""
    variables = {}
    for name in SPECIAL_NAMES:
        token = configuration.get(name)
        if isinstance(token, dict):  # with the flags of an added token
            token = token.get("content")
        if isinstance(token, str):
            variables[name] = token
    return variables


def tokenizer_configuration(folder: Path) -> dict[str, Any]:
    """Content of ``tokenizer_config.json``, with what only an old ``special_tokens_map.json`` says; {} without one.

    Raises:
        UserError: a file cannot be read or is not a JSON object.
    """
    older = read_configuration(folder / "special_tokens_map.json")
    newer = read_configuration(folder / "tokenizer_config.json")
    return older | {key: value for key, value in newer.items() if value is not None}


def _compiled(source: str) -> CodeType:
    if len(source) > LONGEST_TEMPLATE:
        raise UserError(f"The chat template has {len(source):,} characters, over {LONGEST_TEMPLATE:,}; {_INSTEAD}.")
    try:
        return compile_template(source)
    except TemplateSyntaxError as error:
        problem = f"line {error.lineno}: {_sentence(error)}"
    except OverBudget as error:
        problem = str(error)
    except (SyntaxError, RecursionError, MemoryError):
        problem = "it is nested too deep"
    except Exception as error:  # the parser of a hostile text
        problem = f"{type(error).__name__}: {_sentence(error)}"
    raise UserError(f"The chat template of this model cannot be used ({problem}); {_INSTEAD}.")


def _messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Plain copies of the messages, with one name for the model's reasoning where several are in use."""
    if isinstance(messages, (str, Mapping)) or not messages:
        raise UserError("The conversation is empty; give it at least one message.")
    plain = []
    for number, message in enumerate(messages, start=1):
        copy = _plain(message)
        if not isinstance(copy, dict):
            kind = type(message).__name__
            raise UserError(f"Message {number} is of type {kind}; write it as a mapping with a role and a content.")
        copy = {key: value for key, value in copy.items() if value is not None}
        reasoning = next((copy[key] for key in _REASONING if key in copy), None)
        if reasoning is not None:
            copy = {"thinking": reasoning, **copy, "reasoning_content": reasoning}
        plain.append(copy)
    return plain


def _tools(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    if tools is None:
        return None
    plain = [_plain(tool) for tool in tools]
    for number, tool in enumerate(plain, start=1):
        if not isinstance(tool, dict):
            raise UserError(f"Tool {number} is not a JSON object; give each tool as its JSON schema.")
    return plain


def _plain(value: Any, level: int = 0) -> Any:
    """A copy made of JSON's types alone: a template cannot reach what is not there."""
    if level > 100:
        raise UserError("The conversation holds data nested more than 100 deep; flatten it.")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # of a subclass, its text and nothing of its methods
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, Mapping):
        return {_plain(key, level + 1): _plain(part, level + 1) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [_plain(part, level + 1) for part in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    raise UserError(f"The conversation holds a {type(value).__name__}; give plain JSON data only.")


def _read(path: Path, longest: int) -> str:
    try:
        if path.stat().st_size > longest:
            raise UserError(f"{path} has more than {longest:,} bytes; make or fetch it anew.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); make or fetch it anew.") from error


def _sentence(error: BaseException) -> str:
    """The message of an error, short and on one line: it may hold anything, codes of the terminal included."""
    text = "".join(character if character.isprintable() else " " for character in str(error)[:300])
    return text.strip().rstrip(".") or type(error).__name__
