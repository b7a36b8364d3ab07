import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from cadran.align.sandbox.sandbox import Limits, Outcome, run_tests

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the sandbox needs POSIX")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kernel layers are Linux's")

ADD = "assert add(2, 3) == 5\nassert add(-1, 1) == 0"
RIGHT = "def add(a, b):\n    return a + b\n"
LAYERS = [
    (),
    ("namespaces",),
    ("landlock", "seccomp"),
    ("namespaces", "seccomp"),
    ("namespaces", "landlock", "seccomp"),
]
"""Layers left out: each layer must hold where others are not to be had."""


PATIENT = Limits(seconds=60)
"""Time enough for what comes to an end, on a machine however busy."""


def inside(body: str, tests: str = ADD, limits: Limits = PATIENT, **options: Any) -> Outcome:
    """The outcome of an `add` that does something else first, and is right if it gets through."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return run_tests(f"def add(a, b):\n{lines}\n    return a + b\n", tests, limits, **options)


def test_right_answer_passes_and_wrong_one_does_not() -> None:
    assert run_tests(RIGHT, ADD, PATIENT).passed
    started = time.monotonic()
    wrong = run_tests("def add(a, b):\n    return a - b\n", ADD, PATIENT)
    assert not wrong.passed
    assert wrong.reason == "a test failed: line 1"
    assert 0 < wrong.seconds <= time.monotonic() - started


def test_the_time_that_the_sandbox_takes_to_start_is_not_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    start: Any = subprocess.Popen

    def late(command: list[str], **options: Any) -> Any:
        return start(["/bin/sh", "-c", 'sleep 2; exec "$@"', "late", *command], **options)

    monkeypatch.setattr("cadran.align.sandbox.sandbox.subprocess.Popen", late)
    outcome = inside("import time\ntime.sleep(60)", limits=Limits(seconds=0.3))
    assert outcome.reason == "it ran longer than 0.3 seconds" and outcome.protection
    assert outcome.seconds > 2.3


def test_protection_in_force_is_reported() -> None:
    protection = run_tests(RIGHT, ADD).protection
    assert "limits" in protection
    assert "seccomp" in protection or "guard" in protection
    assert run_tests(RIGHT, ADD, skip=("namespaces", "landlock", "seccomp")).protection == ("guard", "limits")


FORGERIES = {
    "leaves early": "import sys\nsys.exit(0)",
    "leaves hard": "import os\nos._exit(0)",
    "leaves when called": "import os\ndef add(a, b):\n    os._exit(0)",
    "raises to leave": "def add(a, b):\n    raise SystemExit(0)",
    "equals everything": "class E:\n    def __eq__(self, other): return True\ndef add(a, b):\n    return E()",
    "equals as a number": "class E(int):\n    def __eq__(self, other): return True\ndef add(a, b):\n    return E(1)",
    "patches builtins": "import builtins\nbuiltins.__build_class__ = builtins.AssertionError = Exception\n"
    "def add(a, b):\n    return 1",
    "replaces the tests' names": "AssertionError = Exception\n__builtins__ = {}\ndef add(a, b):\n    return 1",
    "prints a verdict": "import os\nv = b'{\"passed\": true, \"reason\": \"\"}'\n"
    "for fd in range(20):\n    try: os.write(fd, len(v).to_bytes(4, 'big') + v)\n    except OSError: pass\n"
    "def add(a, b):\n    return 1",
    "walks the stack": "import sys\ndef add(a, b):\n    f = sys._getframe()\n    while f:\n"
    "        for v in [*f.f_locals.values(), *f.f_globals.values()]:\n"
    "            if 'assert add' in str(v): return 5\n        f = f.f_back\n    return 1",
    "searches the heap": "import gc\ndef add(a, b):\n    for o in gc.get_objects():\n"
    "        if isinstance(o, dict) and 'passed' in o: o['passed'] = True\n    return 1",
    "reads the input": "import os\ndef add(a, b):\n    for fd in range(20):\n"
    "        try: d = os.pread(fd, 9999, 0)\n        except OSError: continue\n"
    "        if b'assert' in d: return 5\n    return 1",
    "speaks the protocol": "import sys\nm = sys.modules['__main__']\nfor fd in range(20):\n    try:\n"
    "        m.send(fd, {'names': {'__builtins__': {'dict': []}, 'add': 5, 'len': 1}})\n    except OSError: pass",
    "reads the other process": "import os\ndef add(a, b):\n"
    "    memory = open(f'/proc/{os.getppid()}/mem', 'r+b')\n    return 5",
    "kills the other process": "import os\ndef add(a, b):\n    os.kill(os.getppid(), 9)",
    "defines the tests": "test_add = None\ndef add(a, b):\n    return 1",
    "is a deep list": "def add(a, b):\n    x = []\n    for _ in range(100000): x = [x]\n    return x",
    "is a huge text": "def add(a, b):\n    return 'x' * (1 << 26)",
    "defines nothing": "x = 1",
    "is no Python": "def add(a, b) return 5",
    "is a null byte": "def add(a, b):\n    return 1\0",
    "is empty": "",
    "is half a character": "x = '\ud800'",
}  # fmt: skip


@pytest.mark.parametrize("code", FORGERIES.values(), ids=FORGERIES.keys())
def test_wrong_answer_cannot_make_itself_pass(code: str) -> None:
    outcome = run_tests(code, f"{ADD}\ndef test_add():\n    assert add(1, 1) == 2\n", Limits(seconds=4))
    assert not outcome.passed
    assert outcome.reason
    assert len(outcome.reason) < 700


@pytest.mark.parametrize(
    "body", ["while True: pass", "import time; time.sleep(60)", "import re; re.match('(a+)+$', 'a' * 60 + '!')"]
)
def test_answer_that_never_returns_is_stopped_in_time(body: str) -> None:
    outcome = inside(body, limits=Limits(seconds=1.0))
    assert not outcome.passed
    assert outcome.reason == "it ran longer than 1 seconds"
    assert 1 <= outcome.seconds < 60


@pytest.mark.parametrize("skip", LAYERS, ids=" ".join)
def test_no_process_can_be_started(skip: tuple[str, ...]) -> None:
    body = (
        "import os, subprocess\n"
        "started = 0\n"
        "for start in (os.fork, lambda: subprocess.run(['/bin/true']), lambda: 1 / (os.system('true') == 0)):\n"
        "    try:\n"
        "        start()\n"
        "        started += 1\n"
        "    except (OSError, ZeroDivisionError):\n"
        "        pass\n"
        "return started"
    )
    outcome = inside(body, "assert add(1, 2) == 0", skip=skip)
    assert outcome.passed, outcome.reason


@linux
@pytest.mark.parametrize("skip", LAYERS, ids=" ".join)
def test_nothing_outlives_the_trial(skip: tuple[str, ...]) -> None:
    # A small fork bomb that leaves its process group and then only waits, so that no limit of CPU time ends it.
    body = (
        "import os, time\n"
        "for call in [os.setsid] + [os.fork] * 5:\n"
        "    try: call()\n"
        "    except OSError: pass\n"
        "time.sleep(60)"
    )
    inside(body + MARK, limits=Limits(seconds=0.6), skip=skip)
    assert _gone()


@linux
def test_trial_ends_with_the_process_that_started_it() -> None:
    code = "import time\ntime.sleep(600)\n"
    script = (
        f"from cadran.align.sandbox.sandbox import *; run_tests({code!r} + {MARK!r}, 'assert x', Limits(seconds=600))"
    )
    trainer = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 60
    while len(_trials()) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(_trials()) == 3
    trainer.kill()
    trainer.wait()
    assert _gone()


MARK = "#" * (100_000 + os.getpid() % 20_000)
"""Makes the job of these tests as long as no other's, so that its processes are known by their last argument."""


def _gone() -> bool:
    deadline = time.monotonic() + 60
    while _trials() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not _trials()


def _trials() -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        if len(command) > 2 and command[-2].endswith("sandbox/trial.py") and 0 < int(command[-1]) - len(MARK) < 1000:
            found.append(process.pid)
    return found


def test_memory_is_limited() -> None:
    outcome = inside("x = bytearray(1 << 30)", limits=Limits(seconds=60, memory=256 << 20))
    assert not outcome.passed
    assert "MemoryError" in outcome.reason or "ended" in outcome.reason


@pytest.mark.parametrize("skip", LAYERS, ids=" ".join)
def test_socket_of_this_machine_cannot_be_reached(skip: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.05)
        port = listening.getsockname()[1]
        body = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)"
        outcome = inside(body, skip=skip)
        assert not outcome.passed
        assert "PermissionError" in outcome.reason or "Unreachable" in outcome.reason or "unreachable" in outcome.reason
        with pytest.raises(TimeoutError):
            listening.accept()


@linux
def test_namespaces_alone_cut_the_network() -> None:
    if "namespaces" not in run_tests(RIGHT, ADD).protection:
        pytest.skip("this machine permits no namespaces")
    script = (
        "import socket, sys\n"
        "from cadran.align.sandbox import confine\n"
        "if confine.separate():\n"
        "    try: socket.create_connection(('127.0.0.1', int(sys.argv[1])), 2)\n"
        "    except OSError: print('cut')\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = str(listening.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-c", script, port], capture_output=True, text=True, timeout=60, check=True
        )
    assert done.stdout == "cut\n"


@pytest.mark.parametrize("skip", LAYERS, ids=" ".join)
def test_files_outside_cannot_be_written_or_removed(tmp_path: Path, skip: tuple[str, ...]) -> None:
    kept = tmp_path / "kept"
    kept.write_text("mine")
    body = (
        "import os\n"
        "done = []\n"
        f"kept, new = {str(kept)!r}, {str(tmp_path / 'new')!r}\n"
        "calls = [lambda: open(kept, 'w').write('x'), lambda: open(new, 'w'), lambda: os.remove(kept),\n"
        "         lambda: os.rename(kept, new), lambda: os.mkdir(new), lambda: os.truncate(kept, 0)]\n"
        "for n, call in enumerate(calls):\n"
        "    try:\n"
        "        call()\n"
        "        done.append(n)\n"
        "    except OSError:\n"
        "        pass\n"
        "return done"
    )
    outcome = inside(body, "assert add(1, 2) == []", skip=skip)
    assert outcome.passed, outcome.reason
    assert kept.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [kept]


@linux
def test_what_may_be_written_is_small() -> None:
    big = (
        "total = 0\nfor n in range(200):\n    with open(f'f{n}', 'wb') as f:\n        total += f.write(b'x' * 1000000)"
    )
    assert not inside(big).passed
    assert not inside(
        "open('f', 'wb', buffering=0).write(b'x' * (2 << 20)); 1 / (2 << 20 == __import__('os').path.getsize('f'))"
    ).passed


@linux
@pytest.mark.parametrize("skip", LAYERS, ids=" ".join)
def test_secrets_of_the_environment_are_out_of_reach(monkeypatch: pytest.MonkeyPatch, skip: tuple[str, ...]) -> None:
    monkeypatch.setenv("API_TOKEN", "s3cret-token")
    body = (
        "import os, glob\n"
        "seen = [str(dict(os.environ))]\n"
        f"for path in ['/proc/self/environ', '/proc/{os.getpid()}/environ', *glob.glob('/proc/[0-9]*/environ')]:\n"
        "    try: seen.append(open(path, 'rb').read().decode('latin-1'))\n"
        "    except OSError: pass\n"
        "return sum('s3cret-token' in text for text in seen)"
    )
    outcome = inside(body, "assert add(1, 1) == 0", skip=skip)
    assert outcome.passed, outcome.reason


@linux
def test_files_of_the_user_cannot_be_read_where_landlock_is_there(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("the right answers")
    if "landlock" not in run_tests(RIGHT, ADD).protection:
        pytest.skip("this kernel has no Landlock")
    outcome = inside(f"open({str(tmp_path / 'rows.jsonl')!r}).read()")
    assert "PermissionError" in outcome.reason


def test_huge_output_neither_stops_nor_fills_anything() -> None:
    outcome = inside("import sys\nfor stream in (sys.stdout, sys.stderr):\n    stream.write('x' * 50_000_000)")
    assert outcome.passed, outcome.reason


def test_huge_exception_is_cut() -> None:
    outcome = inside("raise ValueError('x' * 1_000_000)")
    assert not outcome.passed
    assert len(outcome.reason) <= 600
