"""Installing from source: with a compiler the core is in the wheel, without one there is still a wheel."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.network, pytest.mark.slow]


def build_wheel(folder: Path, **environment: str) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode and "No matching distribution found for scikit-build-core" in done.stderr:
        pytest.skip("no registry answers, and building needs scikit-build-core")
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_a_wheel_holds_the_core_and_fits_every_python(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path)
    assert "-py3-none-" in wheel.name and not wheel.name.endswith("-any.whl")
    assert "cadran/_native/libcadran.so" in zipfile.ZipFile(wheel).namelist()


def test_without_a_compiler_there_is_a_wheel_without_the_core(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path, CC="/nowhere/cc", CXX="/nowhere/c++")
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "cadran/engine/engine.py" in names
    assert not [name for name in names if "_native" in name]
