"""``cadran doctor`` explains what is missing and never fails itself."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cadran.cli import doctor


def sound() -> dict[str, Any]:
    """A machine on which nothing is amiss."""
    plenty = 10**12
    return {
        "versions": {"cadran": "1", "python": "3.12", "torch": "2", "platform": "Linux"},
        "cpu": {"name": "A processor", "instruction_sets": ["avx2"]},
        "native": {"available": True, "kernel": "avx2", "usable": ["scalar", "avx2"], "compiler": "g++"},
        "threads": {"usable": 4, "affinity": 4, "quota": None, "physical_cores": 4},
        "memory": {"total": plenty, "available": plenty},
        "gpu": {"cuda": [], "mps": False},
        "storage": {name: {"folder": "somewhere", "bytes": 5, "free": plenty} for name in ("models", "cache")},
        "settings": {},
    }


def changed(topic: str, **changes: Any) -> dict[str, Any]:
    facts = sound()
    facts[topic] |= changes
    return facts


def test_it_prints_every_topic_and_ends_well() -> None:
    command = [sys.executable, "-m", "cadran", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    for word in ("python", "instruction sets", "native core", "threads", "memory", "graphics", "models", "cache"):
        assert word in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=600, check=False)
    facts = json.loads(done.stdout)
    assert facts.keys() == sound().keys() | {"advice"} and facts["threads"]["usable"] >= 1


def test_a_sound_machine_needs_no_advice() -> None:
    assert list(doctor.advise(sound())) == []


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (changed("native", available=False, why_not="no compiler was there", compiler=None), "apt install g++"),
        (changed("native", available=False, why_not="no compiler was there", compiler=None), "no compiler was there"),
        (changed("native", available=False, why_not=None, compiler="g++"), "pip install --force-reinstall"),
        (changed("native", kernel="scalar"), "CADRAN_ISA"),
        (changed("native", kernel="scalar", usable=["scalar"]), "a processor with AVX2"),
        (changed("settings", CADRAN_RUNNER="torch"), "unset CADRAN_RUNNER"),
        (changed("versions", torch=None), "pip install torch"),
        (changed("threads", quota=1.5, usable=1), "grants 1.5 of 4 processors"),
        (changed("memory", available=10**9), "1.00 GB of memory are free"),
        (changed("storage", cache={"folder": "there", "bytes": 1, "free": 0}), "disk are free at there"),
        (changed("gpu", error="torch cannot be imported: x"), "gpu could not be examined: torch cannot"),
    ],
)
def test_each_finding_says_what_to_do(facts: dict[str, Any], expected: str) -> None:
    advice = list(doctor.advise(facts))
    assert len(advice) == 1 and expected in advice[0]


def test_a_compiler_that_is_there_is_not_asked_for() -> None:
    (advice,) = doctor.advise(changed("native", available=False, why_not="it does not load", compiler="g++"))
    assert "apt install" not in advice and "it does not load" in advice and "PyTorch" in advice


@pytest.mark.parametrize("broken", ["_versions", "_cpu", "_native", "_threads", "_memory", "_gpu", "_storage"])
def test_whatever_fails_is_a_finding(
    broken: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> dict[str, Any]:
        raise OSError("the file is a lie")

    monkeypatch.setattr(doctor, "_gpu", lambda: {"cuda": [], "mps": False})
    monkeypatch.setattr(doctor, broken, fails)
    doctor.doctor()
    assert "OSError: the file is a lie" in capsys.readouterr().out


def test_a_torch_that_does_not_load_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "torch cannot be imported" in doctor._gpu()["error"]


def test_folders_are_counted_and_secrets_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "one").mkdir(parents=True)
    (tmp_path / "models" / "one" / "weights").write_bytes(b"x" * 1234)
    monkeypatch.setenv("CADRAN_HOME", str(tmp_path))
    monkeypatch.setenv("CADRAN_API_KEY", "swordfish")
    assert doctor._storage()["models"]["bytes"] == 1234
    assert doctor._settings()["CADRAN_API_KEY"] == "set"
    monkeypatch.setenv("CADRAN_HOME", str(tmp_path / "not" / "there"))
    assert doctor._storage()["models"]["bytes"] == 0 and doctor._storage()["models"]["free"] > 0
