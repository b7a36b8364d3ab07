"""What a process gives up for good before it runs code that nobody has read.

In layers, each useful without the others, because machines differ in what they permit: resource limits (POSIX); user,
network, process, mount and IPC namespaces; Landlock (files); seccomp (system calls); and where the kernel offers no
seccomp, a guard inside the interpreter, which stops the careless and not the determined. Runs before anything of the
package is loaded, so it uses the standard library alone. It must never fail open in silence: it returns what is in
force, and the caller reports that.
"""

import ctypes
import os
import resource
import struct
import sys
from pathlib import Path
from typing import Any

SCRATCH_BYTES = 16 << 20
LARGEST_FILE = 1 << 20
OPEN_FILES = 64

_NEW_NAMESPACES = 0x00020000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000  # mount, IPC, user, process, network
_NEW_USER = 0x10000000
_PARENT_DEATH, _NO_NEW_PRIVILEGES, _SET_SECCOMP = 1, 38, 22  # prctl(2)

# Refused: sockets, other processes, new programs, mounts, keys, kernel modules, other processes' memory. Numbers from
# the kernel's tables; those from 424 on are the same on both machines.
_REFUSED = {
    "x86_64": (
        29, 41, 42, 44, 46, 49, 50, 57, 58, 59, 62, 64, 68, 101, 109, 112, 155, 161, 165, 166, 175, 246, 248, 249, 250,
        272, 298, 304, 307, 308, 310, 311, 313, 319, 321, 322, 323,
    ),
    "aarch64": (
        39, 40, 41, 51, 97, 104, 105, 117, 129, 154, 157, 186, 190, 194, 198, 200, 201, 203, 206, 211, 217, 218, 219,
        221, 241, 265, 268, 269, 270, 271, 273, 279, 280, 281, 282,
    ),
}  # fmt: skip
_REFUSED_EVERYWHERE = (424, 425, 428, 429, 430, 432, 434, 438, 442)
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE3, _CLONE_THREAD = 435, 0x00010000
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_ALLOW, _REFUSE, _NO_SUCH_CALL, _KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000  # EPERM 1, ENOSYS 38

_GUARDED = ("socket.", "subprocess.", "ctypes.", "os.exec", "os.posix_spawn", "os.fork", "os.system", "os.kill",
            "os.spawn", "os.chmod", "os.chown", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "pty.",
            "shutil.", "resource.", "os.truncate", "os.putenv", "signal.pthread_kill", "os.mkdir")  # fmt: skip


def limit(memory: int, seconds: int) -> None:
    """Resource limits of this process and what it starts.

    Args:
        memory: bytes of address space.
        seconds: of CPU time.
    """
    wanted = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: LARGEST_FILE,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in wanted.items():
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(kind, (value, value))
        except (OSError, ValueError):  # macOS refuses a limit of address space
            continue


def separate() -> bool:
    """Enter namespaces of our own (no network, no other processes) with a small scratch disk as working directory.

    The next child is the first process of the new process namespace: when it ends, everything in it is killed.

    Returns:
        Whether the kernel permitted it.
    """
    if not sys.platform.startswith("linux"):
        return False
    user, group, folder = os.getuid(), os.getgid(), Path.cwd()
    libc = _libc()
    if libc.unshare(_NEW_NAMESPACES) == 0:
        try:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
            Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
        except OSError:
            return False
    elif libc.unshare(_NEW_NAMESPACES & ~_NEW_USER) != 0:
        return False
    options = f"size={SCRATCH_BYTES},nr_inodes=1000,mode=700".encode()
    if libc.mount(b"scratch", os.fsencode(folder), b"tmpfs", 6, options) == 0:  # 6: no set-user-id, no devices
        os.chdir(folder)
    return True


def die_with_parent() -> None:
    """Be killed when the process that started this one ends (Linux; elsewhere nothing)."""
    if sys.platform.startswith("linux"):
        _libc().prctl(_PARENT_DEATH, 9, 0, 0, 0)


def seal(skip: frozenset[str], scratch: bool, signals: bool) -> list[str]:
    """Give up files outside the working directory, the network, and starting processes; nothing gives them back.

    Args:
        skip: layers to leave out ("landlock", "seccomp"), to test the others alone.
        scratch: the working directory is a disk of limited size, so it may be written.
        signals: other processes may be signalled; without it, the end of this one would not end its children either.

    Returns:
        The layers in force.
    """
    layers = []
    if sys.platform.startswith("linux"):
        libc = _libc()
        # capset(2), version 3, this process: effective, permitted and inheritable sets empty.
        libc.capset(struct.pack("=Ii", 0x20080522, 0), bytes(24))
        libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        if "landlock" not in skip and _landlock(libc, scratch, signals):
            layers.append("landlock")
        if "seccomp" not in skip and _seccomp(libc):
            layers.append("seccomp")
    if "seccomp" not in layers or "landlock" not in layers:
        if "seccomp" not in layers:
            resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        _guard(str(Path.cwd()))
        layers.append("guard")
    return layers


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _landlock(libc: Any, scratch: bool, signals: bool) -> bool:
    """Reading only the interpreter's own files and the system's libraries, writing only the scratch disk.

    Source: the kernel's userspace-api/landlock.
    """
    version = libc.syscall(444, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    files = (1 << (13 if version < 2 else 14 if version < 3 else 15 if version < 5 else 16)) - 1
    attributes = struct.pack("=Q", files)
    if version >= 4:
        attributes += struct.pack("=Q", 3)  # TCP: neither bind nor connect
    if version >= 6:
        attributes += struct.pack("=Q", 1 if signals else 3)  # no abstract sockets of others, no signals to others
    ruleset = libc.syscall(444, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        return False
    readable = 1 << 2 | 1 << 3
    allowed = dict.fromkeys((sys.base_prefix, "/usr", "/lib", "/lib64", "/lib32"), readable)
    allowed |= {"/dev/null": 1 << 1 | 1 << 2, "/dev/urandom": 1 << 2, "/etc/ld.so.cache": 1 << 2}
    if scratch:
        allowed[str(Path.cwd())] = files & ~1 & ~(1 << 15)  # all but executing and driving devices
    for path, access in allowed.items():
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        rule = struct.pack("=Qi", access & files, descriptor)
        done = libc.syscall(445, ruleset, 1, rule, 0)
        os.close(descriptor)
        if done != 0:
            return False
    done = libc.syscall(446, ruleset, 0)
    os.close(ruleset)
    return bool(done == 0)


def _seccomp(libc: Any) -> bool:
    """A filter over system calls: those of ``_REFUSED`` fail with EPERM, threads may start, processes may not.

    Source: the kernel's userspace-api/seccomp_filter; seccomp(2).
    """
    machine = os.uname().machine
    if machine not in _REFUSED or sys.maxsize < 2**32:
        return False
    program: list[tuple[int, int, int, int]] = [
        (0x20, 0, 0, 4),  # load the architecture
        (0x15, 1, 0, _AUDIT_ARCH[machine]),
        (0x06, 0, 0, _KILL),
        (0x20, 0, 0, 0),  # load the call's number
    ]
    if machine == "x86_64":
        program += [(0x35, 0, 1, 0x40000000), (0x06, 0, 0, _REFUSE)]  # the x32 twins of every call
    for number in (*_REFUSED[machine], *_REFUSED_EVERYWHERE):
        program += [(0x15, 0, 1, number), (0x06, 0, 0, _REFUSE)]
    # clone3 hides its flags behind a pointer; without it the C library falls back to clone, whose flags can be read.
    program += [(0x15, 0, 1, _CLONE3), (0x06, 0, 0, _NO_SUCH_CALL)]
    program += [(0x15, 0, 3, _CLONE[machine]), (0x20, 0, 0, 16), (0x45, 1, 0, _CLONE_THREAD), (0x06, 0, 0, _REFUSE)]
    program += [(0x06, 0, 0, _ALLOW)]
    packed = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    header = struct.pack("@HP", len(program), ctypes.addressof(packed))
    return bool(libc.prctl(_SET_SECCOMP, 2, header, 0, 0) == 0)


def _guard(folder: str) -> None:
    """Refuse by audit hook what the kernel was not asked to refuse: sockets, processes, writing outside a folder."""

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(_GUARDED):
            raise PermissionError(f"{event} is not allowed here")
        if event == "open":
            path, _, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
            inside = isinstance(path, str | bytes) and os.path.realpath(os.fsdecode(path)).startswith(folder + os.sep)
            if (writes and not inside) or str(path).startswith("/proc"):
                raise PermissionError(f"{path!r} may not be opened here")

    sys.addaudithook(refuse)
