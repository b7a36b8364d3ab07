"""The peers, installed and compiled from the package registry into the user's cache folder, each in its own place.

llama.cpp is compiled for this processor from the source inside the ``llama-cpp-python`` archive: its own programs
measure it better than bindings do. The two others get a virtual environment each, so that what they ask for never
meets what Cadran asks for. An interrupted build goes on where it was.
"""

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

from cadran.errors import UserError
from engine_peers.models import CACHE, folder

LLAMA_CPP = "llama-cpp-python==0.3.36"
OPENVINO = "openvino-genai==2026.4.1.0"
ONNXRUNTIME = "onnxruntime-genai==0.18.0"
BESIDE: Mapping[str, tuple[str, ...]] = {
    OPENVINO: ("numpy",),
    # The builder of the ONNX files needs what opens the checkpoint.
    ONNXRUNTIME: ("onnxruntime==1.31.1", "onnx==1.23.2", "onnx-ir==1.1.0", "torch==2.13.*", "transformers==5.23.0"),
}

_PROGRAMS = ("llama-bench", "llama-server")
_FLAGS = {
    "CMAKE_BUILD_TYPE": "Release", "GGML_NATIVE": "ON", "GGML_OPENMP": "ON", "BUILD_SHARED_LIBS": "OFF",
    "LLAMA_BUILD_TESTS": "OFF", "LLAMA_BUILD_EXAMPLES": "OFF", "LLAMA_BUILD_APP": "OFF", "LLAMA_OPENSSL": "OFF",
    "LLAMA_BUILD_UI": "OFF", "LLAMA_USE_PREBUILT_UI": "OFF",
}  # fmt: skip
_LAST_LINES = 5


def llama_cpp(jobs: int = os.cpu_count() or 1) -> Path:
    """Folder of the compiled programs ``llama-bench`` and ``llama-server``; compiling takes minutes.

    Raises:
        UserError: the archive cannot be fetched, or there is no compiler or CMake.
    """
    place = _place(LLAMA_CPP)
    programs = place / "build" / "bin"
    if (place / "ready").is_file():
        return programs
    if missing := [program for program in ("cmake", "c++") if shutil.which(program) is None]:
        raise UserError(
            f"llama.cpp cannot be compiled without {' and '.join(missing)}: install a C++ compiler and CMake"
        )
    source = _source(place)
    flags = [f"-D{name}={value}" for name, value in _FLAGS.items()]
    _run("cmake of llama.cpp", ["cmake", "-S", str(source), "-B", str(place / "build"), *flags])
    build = ["cmake", "--build", str(place / "build"), f"-j{jobs}", "--target", *_PROGRAMS]
    _run("compiling llama.cpp", build)
    (place / "ready").touch()
    return programs


def python_of(requirement: str) -> Path:
    """The interpreter of the environment that a peer is installed in.

    Raises:
        UserError: it cannot be installed.
    """
    place = _place(requirement)
    python = place / "venv" / "bin" / "python"
    if not (place / "ready").is_file():
        _run(f"an environment for {requirement}", [sys.executable, "-m", "venv", "--clear", str(place / "venv")])
        pip = [str(python), "-m", "pip", "install", "--quiet", requirement, *BESIDE[requirement]]
        _run(f"installing {requirement}", pip)
        (place / "ready").touch()
    return python


def onnx_folder(name: str, kind: str) -> Path:
    """A model as ONNX Runtime GenAI reads it, made by its own builder: blocks of 32, int8 activations.

    Args:
        name: of the model.
        kind: int8 or int4; of the embedding and head too.

    Raises:
        UserError: the builder fails.
    """
    target = CACHE / "models" / f"{name}-{kind}.onnx"
    if target.is_dir():
        return target
    work = target.with_name(f".{target.name}.making")
    shutil.rmtree(work, ignore_errors=True)
    command = [str(python_of(ONNXRUNTIME)), "-m", "onnxruntime_genai.models.builder", "-e", "cpu", "-p", kind]
    command += ["-i", str(folder(name)), "-o", str(work), "-c", str(work / "cache")]
    options = ["--extra_options", "accuracy_level=4", "block_size=32", "fuse_mlp_gate_up=true"]
    _run(f"the ONNX file of {name}", command + options, {"HF_HUB_OFFLINE": "1"})
    shutil.rmtree(work / "cache", ignore_errors=True)
    work.rename(target)
    return target


def _place(requirement: str) -> Path:
    place = CACHE / "peers" / requirement.replace("==", "-")
    place.mkdir(parents=True, exist_ok=True)
    return place


def _source(place: Path) -> Path:
    """llama.cpp's source folder, out of the archive."""
    source = place / "source"
    if source.is_dir():
        return source
    name = LLAMA_CPP.partition("==")[0]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", name]
    _run(f"fetching {LLAMA_CPP}", [*command, "--dest", str(place), LLAMA_CPP])
    archive = next(place.glob("*.tar.gz"))
    work = place / ".unpacking"
    shutil.rmtree(work, ignore_errors=True)
    with tarfile.open(archive) as packed:
        packed.extractall(work, filter="data")
    next(work.glob("*/vendor/llama.cpp")).rename(source)
    shutil.rmtree(work)
    archive.unlink()
    return source


def _run(what: str, command: list[str], environment: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        command, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = " / ".join((done.stderr or done.stdout).strip().splitlines()[-_LAST_LINES:])
        raise UserError(f"{what} failed ({said[-400:]}): mend that, then type the same command again")
