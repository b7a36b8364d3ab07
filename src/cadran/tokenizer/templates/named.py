"""The chat formats that ``--template NAME`` knows: for a model that was taught one of them and does not say which.

Each file states the facts of a format (which marks, which blanks) for conversations of text. A format that writes
special tokens is refused for a vocabulary without them: as ordinary text they would mean nothing to the model.
"""

from difflib import get_close_matches
from pathlib import Path

from cadran.errors import UserError

_NEEDED: dict[str, tuple[str, ...]] = {
    "alpaca": (),
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "deepseek": ("<｜User｜>", "<｜Assistant｜>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "llama2": (),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "mistral": (),
    "phi3": ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    "plain": (),
    "qwen": ("<|im_start|>", "<|im_end|>"),
    "vicuna": (),
    "zephyr": (),
}

NAMES = tuple(_NEEDED)


def named_template(name: str) -> str:
    """The Jinja text of a format.

    Raises:
        UserError: there is none of that name.
    """
    if name not in _NEEDED:
        near = get_close_matches(name, NAMES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"There is no chat template {name!r}; {hint}take one of {', '.join(NAMES)}.")
    return (Path(__file__).parent / f"{name}.jinja").read_text(encoding="utf-8").rstrip("\n")


def needed_tokens(name: str) -> tuple[str, ...]:
    """The special tokens that a format writes beside BOS and EOS, which it takes from the model."""
    return _NEEDED[name]
