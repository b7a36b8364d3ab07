"""What this machine can do: its matrix-multiply speed, and the number type that is worth using on it."""

import os
import platform
import shutil
import statistics
import subprocess
import sys
import sysconfig
import time
from typing import Literal

import psutil
import torch

Precision = Literal["fp32", "bf16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}

HUGE_PAGES = (
    "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=8589934592:"
    "glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=268435456"
)
"""glibc settings under which large activations are kept in huge pages instead of being mapped anew each step."""

BF16_ADVANTAGE = 1.5
"""How much faster a bfloat16 product must be before it is worth its rounding: below this, casting eats the gain."""


def restart_with_huge_pages() -> None:
    """Start this command again with ``HUGE_PAGES`` where that helps (Linux with glibc); once, and not when set.

    The allocator reads its settings when a process starts, so they cannot be changed from inside.
    LAB.md has the gain. Set ``CADRAN_HUGE_PAGES=0`` to do without.
    """
    wanted = os.environ.get("CADRAN_HUGE_PAGES", "1") == "1"
    if not wanted or not sys.platform.startswith("linux") or "GLIBC_TUNABLES" in os.environ:
        return
    if platform.libc_ver()[0] != "glibc":
        return
    environment = dict(os.environ, GLIBC_TUNABLES=HUGE_PAGES)
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def matmul_speed(precision: Precision = "fp32", size: int = 1024, repeats: int = 9) -> float:
    """Median floating-point operations a second of a square product on the CPU with torch's current threads.

    Args:
        precision: number type of the factors.
        size: rows and columns.
        repeats: products timed after one that is not.

    Returns:
        FLOP/s, two for each multiply-add.
    """
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(size, size, generator=generator).to(DTYPES[precision])
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        torch.mm(left, left)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds[1:])


def best_precision() -> Precision:
    """``bf16`` where its products are ``BF16_ADVANTAGE`` times as fast as fp32's, measured now; else ``fp32``.

    They take turns, and each counts at its best: whatever else runs can only slow a product, and to be misled costs a
    run on a fixed time half of its tokens.
    """
    turns = [(matmul_speed("bf16", repeats=5), matmul_speed("fp32", repeats=5)) for _ in range(4)]
    rounded, exact = (max(speeds) for speeds in zip(*turns, strict=True))
    return "bf16" if rounded > BF16_ADVANTAGE * exact else "fp32"


def why_not_compile() -> str | None:
    """Why ``torch.compile`` cannot work here, in a few words; None when it can: a compiler and Python's headers."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return "no C++ compiler (g++ or clang++) was found"
    header = sysconfig.get_path("include")
    probe = f'#include "{header}/Python.h"\nint main() {{ return 0; }}\n'
    command = [compiler, "-x", "c++", f"-I{header}", "-fsyntax-only", "-"]
    try:
        done = subprocess.run(command, input=probe, text=True, capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the C++ compiler does not run ({error})"
    return None if done.returncode == 0 else "the C++ compiler does not find Python's headers"


def memory_available() -> int:
    """Bytes of memory that can be used now without swapping."""
    return int(psutil.virtual_memory().available)
