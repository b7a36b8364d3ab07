"""How many threads the engine may use: as many as the scheduler, the container and the cores allow.

More threads than that wait for each other: a container of two cores on a machine of ninety-two ran 45 times slower
with one thread for each of the ninety-two (ollama issue 17916).
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True, slots=True)
class ThreadLimits:
    """What bounds the number of threads.

    Attributes:
        affinity: processors that this process may run on.
        quota: processors' worth of time that its control groups grant; None when they set no limit.
        physical: cores of the machine; None when it does not say.
    """

    affinity: int
    quota: float | None
    physical: int | None

    @property
    def usable(self) -> int:
        """The smallest of them, rounded down, at least 1."""
        limits = [self.affinity, *(limit for limit in (self.quota, self.physical) if limit is not None)]
        return max(1, int(min(limits)))


def usable_threads() -> int:
    """Threads worth using now, at least 1."""
    return thread_limits().usable


def thread_limits(root: Path = Path("/")) -> ThreadLimits:
    """What bounds the number of threads of this process.

    Args:
        root: of the file system whose ``proc`` and ``sys`` are read.
    """
    import psutil

    here = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return ThreadLimits(len(here), cgroup_quota(root), psutil.cpu_count(logical=False))


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """Processors' worth of time that the control groups of this process grant, versions 1 and 2.

    A group cannot use more than those around it, so the smallest of all of them counts.

    Args:
        root: as of ``thread_limits``.

    Returns:
        None when nothing limits it, or on systems without control groups.

    Source: the kernel's cgroup-v2.rst (``cpu.max``) and sched-bwc.rst (``cpu.cfs_quota_us``).
    """
    quotas = (quota for folder in _folders(root) for quota in (_unified(folder), _legacy(folder)) if quota is not None)
    return min(quotas, default=None)


def _unified(folder: Path) -> float | None:
    words = _words(folder / "cpu.max")
    return _ratio(words[0], words[1] if len(words) > 1 else "100000") if words else None


def _legacy(folder: Path) -> float | None:
    quota, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
    return _ratio(quota[0], period[0]) if quota and period else None


def _ratio(quota: str, period: str) -> float | None:
    """None without a limit, which is ``max`` in version 2 and -1 in version 1."""
    try:
        time, of = int(quota), int(period)
    except ValueError:
        return None
    return time / of if time > 0 and of > 0 else None


def _folders(root: Path) -> Iterator[Path]:
    """Folders of this process's groups and of those around them, wherever a CPU controller is mounted."""
    paths = {  # controllers, none in version 2 -> path of the group
        frozenset(filter(None, line.split(":", 2)[1].split(","))): line.split(":", 2)[2]
        for line in _lines(root / "proc/self/cgroup")
        if line.count(":") >= 2
    }
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or not kind:
            continue
        unified = kind[0] == "cgroup2"
        if not unified and not (kind[0] == "cgroup" and "cpu" in kind[-1].split(",")):
            continue
        for controllers, path in paths.items():
            if (not controllers) if unified else ("cpu" in controllers):
                yield from _upwards(root / fields[4].replace("\\040", " ").lstrip("/"), fields[3], path)


def _upwards(mount: Path, top: str, path: str) -> Iterator[Path]:
    """From the group up to the highest that is mounted; ``top`` is the group that the mount shows as its root."""
    inside = PurePosixPath(path)
    # In a container the path may be told from outside of what is mounted: then only the mount's own files are ours.
    inside = inside.relative_to(top) if inside.is_relative_to(top) else PurePosixPath()
    if ".." in inside.parts:
        inside = PurePosixPath()
    for part in (inside, *inside.parents):
        yield mount / str(part).lstrip("/")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return next((line.split() for line in _lines(path)), [])
