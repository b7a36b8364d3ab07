"""Digests of weights: read once, remembered over restarts, never believed when the file has changed."""

import asyncio
import hashlib
import json
import os
import threading
from pathlib import Path

import pytest

from cadran.errors import UserError
from cadran.library.record import FileRecord, Record
from cadran.serve import digest
from cadran.serve.digest import digest_of, file_digest
from cadran.serve.known_model import KnownModel


@pytest.fixture(autouse=True)
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are read to be hashed, in a cache folder of the test's own."""
    found: list[Path] = []
    real = digest.sha256_file

    def counted(path: Path) -> str:
        found.append(path)
        return real(path)

    monkeypatch.setattr(digest, "sha256_file", counted)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda _: str(tmp_path / "cache"))
    monkeypatch.setenv("CADRAN_HOME", str(tmp_path / "home"))
    return found


def weights(folder: Path, content: bytes = b"weights") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.safetensors"
    path.write_bytes(content)
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_file_is_read_once_for_all_servers(tmp_path: Path, reads: list[Path]) -> None:
    path = weights(tmp_path / "model")
    assert file_digest(path) == file_digest(path) == sha256(b"weights")
    assert (
        KnownModel("a", tmp_path / "model").digest == KnownModel("b", tmp_path / "model").digest == sha256(b"weights")
    )
    assert reads == [path]


def test_a_changed_file_is_read_again(tmp_path: Path, reads: list[Path]) -> None:
    path = weights(tmp_path / "model")
    file_digest(path)
    path.write_bytes(b"others!")  # as long as before
    os.utime(path, ns=(1, 1))
    assert file_digest(path) == sha256(b"others!")
    assert len(reads) == 2


@pytest.mark.parametrize("damage", ["", "[]", "null", '{"bytes": 7}', "[" * 5000, '{"sha256": "x"}'])
def test_a_damaged_note_is_written_anew(tmp_path: Path, reads: list[Path], damage: str) -> None:
    path = weights(tmp_path / "model")
    file_digest(path)
    (note,) = (tmp_path / "cache" / "digests").iterdir()
    note.write_text(damage)
    assert file_digest(path) == sha256(b"weights")
    assert json.loads(note.read_text())["sha256"] == sha256(b"weights")


def test_notes_on_files_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    file_digest(first)
    first.unlink()
    file_digest(second)
    (note,) = (tmp_path / "cache" / "digests").iterdir()
    assert json.loads(note.read_text())["path"] == str(second.resolve())


def test_without_a_cache_folder_it_is_read_each_time(tmp_path: Path, reads: list[Path]) -> None:
    path = weights(tmp_path / "model")
    (tmp_path / "cache").write_text("a file")
    assert file_digest(path) == file_digest(path) == sha256(b"weights")
    assert len(reads) == 2


def test_the_record_of_a_pulled_model_is_believed_until_the_file_changes(tmp_path: Path, reads: list[Path]) -> None:
    folder = tmp_path / "home" / "models" / "pulled"
    path = weights(folder)
    recorded = "ab" * 32
    Record("pulled", "x", None, None, {path.name: FileRecord(7, recorded)}).write(folder)
    assert file_digest(path) == recorded and reads == []
    os.utime(path, (4e9, 4e9))
    assert file_digest(path) == sha256(b"weights")
    path.write_bytes(b"longer weights")
    os.utime(path, (1, 1))
    assert file_digest(path) == sha256(b"longer weights")


def test_a_record_elsewhere_is_not_believed(tmp_path: Path) -> None:
    path = weights(tmp_path / "found")
    Record("found", "x", None, None, {path.name: FileRecord(7, "ab" * 32)}).write(path.parent)
    assert file_digest(path) == sha256(b"weights")


def test_an_adapter_and_each_shard_change_the_digest(tmp_path: Path) -> None:
    weights(tmp_path / "model")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").write_bytes(b"adapter")
    plain = KnownModel("a", tmp_path / "model").digest
    adapted = KnownModel("a", tmp_path / "model", adapter=adapter).digest
    assert adapted == sha256(f"{sha256(b'weights')}\n{sha256(b'adapter')}".encode()) != plain


def test_many_who_ask_at_once_read_once_and_elsewhere(tmp_path: Path, reads: list[Path]) -> None:
    path = weights(tmp_path / "model")
    known = KnownModel("a", tmp_path / "model")
    threads: list[str] = []
    real = digest.sha256_file

    def watched(path: Path) -> str:
        threads.append(threading.current_thread().name)
        return real(path)

    digest.sha256_file = watched

    async def work() -> None:
        leaving = asyncio.create_task(digest_of(known))
        others = [asyncio.create_task(digest_of(known)) for _ in range(5)]
        await asyncio.sleep(0)
        leaving.cancel()
        assert set(await asyncio.gather(*others)) == {sha256(b"weights")}
        assert await digest_of(known) == sha256(b"weights")

    asyncio.run(work())
    assert reads == [path]
    assert threads != [threading.current_thread().name]


def test_files_that_are_gone_are_named(tmp_path: Path) -> None:
    path = weights(tmp_path / "model")
    known = KnownModel("a", tmp_path / "model", adapter=tmp_path / "gone")
    with pytest.raises(UserError, match=r"adapter_model\.safetensors"):
        asyncio.run(digest_of(known))
    path.unlink()
    with pytest.raises(UserError):
        asyncio.run(digest_of(KnownModel("a", tmp_path / "model")))
