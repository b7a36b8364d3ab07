"""``cadran doctor``: what this machine and installation are, what is slower than it could be, and how to mend it.

Nothing found is an error of the command: whatever cannot be examined is a finding like the others.
"""

import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

Facts = dict[str, Any]

INSTRUCTION_SETS = (
    "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "amx_int8",
    "neon", "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
"""Those that kernels for language models use, by the names of Linux."""
COMPILERS = ("c++", "g++", "clang++", "cl")
LITTLE = 2 * 10**9
"""Bytes of free memory or disk below which it is said that there is little."""
REINSTALL = "in Cadran's folder type: pip install --force-reinstall --no-deps --no-cache-dir ."
COMPILER_HELP = (
    "install a C++17 compiler (Debian and Ubuntu: apt install g++; Fedora: dnf install gcc-c++; macOS: xcode-select "
    "--install; Windows: the Visual Studio Build Tools)"
)


def doctor(as_json: Annotated[bool, typer.Option("--json", help="For a program.")] = False) -> None:
    """Show what this machine offers, what is slower than it could be, and what to type to mend it."""
    import json

    facts = examine()
    advice = list(advise(facts))
    if as_json:
        print(json.dumps(facts | {"advice": advice}, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("", "", box=None, pad_edge=False, show_header=False)
    for name, value in _rows(facts):
        table.add_row(name, value)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200  # a program reads it: one line a fact
    console.print(table)
    console.print()
    for number, sentence in enumerate(advice, 1):
        console.print(f"{number}. {sentence}", soft_wrap=True)
    if not advice:
        console.print("nothing is amiss")


def examine() -> Facts:
    """Everything that is known of this machine, by topic; a topic that failed holds ``error``."""
    topics: dict[str, Callable[[], Facts]] = {
        "versions": _versions,
        "cpu": _cpu,
        "native": _native,
        "threads": _threads,
        "memory": _memory,
        "gpu": _gpu,
        "storage": _storage,
        "settings": _settings,
    }
    facts: Facts = {}
    for topic, look in topics.items():
        try:
            facts[topic] = look()
        except Exception as error:  # a broken installation is what this command is for
            facts[topic] = {"error": f"{type(error).__name__}: {error}"}
    return facts


def _versions() -> Facts:
    from importlib.metadata import PackageNotFoundError, version

    from cadran import __version__

    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = None
    system = platform.platform()
    return {"cadran": __version__, "python": platform.python_version(), "torch": torch, "platform": system}


def _cpu() -> Facts:
    name, flags = platform.processor() or platform.machine(), set[str]()
    if sys.platform == "darwin":
        name, flags = _sysctl("machdep.cpu.brand_string") or name, {"neon"} if platform.machine() == "arm64" else flags
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            if key == "model name":
                name = value
            elif key in ("flags", "Features"):
                flags = set(value.split())
                break
    return {"name": name, "instruction_sets": [known for known in INSTRUCTION_SETS if known in flags]}


def _sysctl(key: str) -> str:
    import subprocess

    done = subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, timeout=10, check=False)
    return done.stdout.strip()


def _native() -> Facts:
    import ctypes
    import shutil

    from cadran.engine.native.library import available, library, why_not

    compiler = next((name for name in COMPILERS if shutil.which(name)), None)
    if not available():
        return {"available": False, "why_not": why_not(), "compiler": compiler}
    core = library()
    core.cadran_isa.restype = core.cadran_isas.restype = ctypes.c_char_p
    usable = [name.strip() for name in core.cadran_isas().decode().split(",") if name.strip()]
    return {"available": True, "kernel": core.cadran_isa().decode(), "usable": usable, "compiler": compiler}


def _threads() -> Facts:
    from cadran.engine.threads import thread_limits

    limits = thread_limits()
    quota, physical = limits.quota, limits.physical
    return {"usable": limits.usable, "affinity": limits.affinity, "quota": quota, "physical_cores": physical}


def _memory() -> Facts:
    import psutil

    memory = psutil.virtual_memory()
    return {"total": int(memory.total), "available": int(memory.available)}


def _gpu() -> Facts:
    try:
        import torch
    except (ImportError, OSError) as error:
        return {"cuda": [], "mps": False, "error": f"torch cannot be imported: {error}"}
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"cuda": names if torch.cuda.is_available() else [], "mps": torch.backends.mps.is_available()}


def _storage() -> Facts:
    import shutil

    import platformdirs

    from cadran.library.find import models_folder

    places = {"models": models_folder(), "cache": Path(platformdirs.user_cache_dir("cadran"))}
    facts: Facts = {}
    for name, folder in places.items():
        standing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        facts[name] = {"folder": str(folder), "bytes": _size(folder), "free": shutil.disk_usage(standing).free}
    return facts


def _size(folder: Path) -> int:
    """Bytes of the files below a folder; what vanishes or may not be read counts nothing."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).lstat().st_size
            except OSError:
                continue
    return total


def _settings() -> Facts:
    """Cadran's environment variables; of what may be secret, only that it is set."""
    found = {name: value for name, value in sorted(os.environ.items()) if name.startswith("CADRAN_")}
    secret = ("KEY", "TOKEN", "SECRET", "PASSWORD")
    return {name: "set" if any(word in name for word in secret) else value for name, value in found.items()}


def advise(facts: Facts) -> Iterator[str]:
    """What is not as good as it could be: what it costs, why, and what to type.

    Args:
        facts: of ``examine``.
    """
    yield from _advise_native(facts["native"])
    if facts["settings"].get("CADRAN_RUNNER") == "torch" and facts["native"].get("available"):
        yield "models run on PyTorch because CADRAN_RUNNER is torch; type unset CADRAN_RUNNER to use the native core"
    if "torch" in facts["versions"] and facts["versions"]["torch"] is None:
        yield "torch is not installed: nothing can be trained; type pip install torch"
    threads = facts["threads"]
    if (quota := threads.get("quota")) is not None and quota < threads["affinity"]:
        yield (
            f"a control group grants {quota:g} of {threads['affinity']} processors, so {threads['usable']} threads "
            "are used; give the container more (docker run --cpus) if it should be faster"
        )
    from cadran.cli.readable import bytes_of

    if (free := facts["memory"].get("available")) is not None and free < LITTLE:
        yield f"only {bytes_of(free)} of memory are free; close other programs before opening a larger model"
    for name in ("models", "cache"):
        place = facts["storage"].get(name)
        if isinstance(place, dict) and place["free"] < LITTLE:
            yield f"only {bytes_of(place['free'])} of disk are free at {place['folder']}; free some space"
    for topic, found in facts.items():
        if "error" in found and topic != "native":
            yield f"{topic} could not be examined: {found['error']}"


def _advise_native(native: Facts) -> Iterator[str]:
    why = native.get("error") or native.get("why_not")
    if not native.get("available"):
        why = why or "it was not built when Cadran was installed"
        if "pip install" not in why:  # else the reason says itself what to type
            why += f"; {REINSTALL}" if native.get("compiler") else f"; {COMPILER_HELP}, then {REINSTALL}"
        yield (
            "the native core is not there, so every model runs on PyTorch: reading prompts and writing answers are "
            "slower, 8- and 4-bit weights are unpacked and take several times the memory, and starting waits for "
            f"torch. The reason: {why}"
        )
    elif native.get("kernel") == "scalar":
        best = [name for name in native["usable"] if name != "scalar"]
        mend = "see whether CADRAN_ISA is set" if best else "a processor with AVX2 or NEON would be faster"
        yield f"the native core runs its plain kernel, without vector instructions, which is slowest; {mend}"


def _rows(facts: Facts) -> Iterator[tuple[str, str]]:
    from cadran.cli.readable import bytes_of

    def told(topic: str, say: Callable[[Facts], str]) -> str:
        found = facts[topic]
        try:
            return say(found)
        except (KeyError, TypeError):
            return f"unknown ({found.get('error', 'incomplete')})"

    versions = facts["versions"]
    for name in ("cadran", "python", "torch", "platform"):
        yield name, str(versions.get(name) or "not installed")
    yield "processor", told("cpu", lambda cpu: cpu["name"])
    yield "instruction sets", told("cpu", lambda cpu: ", ".join(cpu["instruction_sets"]) or "none known")
    yield "native core", told("native", lambda core: "there" if core["available"] else "not there")
    if facts["native"].get("available"):
        yield "kernel", told("native", lambda core: f"{core['kernel']} (usable here: {', '.join(core['usable'])})")
    yield "compiler", told("native", lambda core: core["compiler"] or "none found")
    yield "threads", told("threads", _threads_told)
    yield "memory", told("memory", lambda m: f"{bytes_of(m['available'])} free of {bytes_of(m['total'])}")
    yield "graphics", told("gpu", lambda gpu: ", ".join([*gpu["cuda"], *(["Metal"] if gpu["mps"] else [])]) or "none")
    for name in ("models", "cache"):
        yield (
            name,
            told(
                "storage",
                lambda s, name=name: (  # type: ignore[misc]
                    f"{bytes_of(s[name]['bytes'])} in {s[name]['folder']} ({bytes_of(s[name]['free'])} free)"
                ),
            ),
        )
    for name, value in facts["settings"].items():
        yield name, value


def _threads_told(threads: Facts) -> str:
    quota = "none" if threads["quota"] is None else f"{threads['quota']:g}"
    cores = threads["physical_cores"] or "unknown"
    return f"{threads['usable']} (affinity {threads['affinity']}, quota {quota}, physical cores {cores})"
