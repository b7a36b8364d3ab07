"""A file is the old one or a whole new one, also where two write it at once."""

import os

import pytest

from cadran import files


def test_two_that_write_one_file_at_once_each_leave_it_whole(tmp_path, monkeypatch):
    path, seen, flush, ours = tmp_path / "kept.json", [], os.fsync, os.getpid()

    def flush_while_another_writes(handle):
        flush(handle)
        if not seen:
            seen.append(None)
            monkeypatch.setattr(os, "getpid", lambda: ours + 1)  # another process
            files.write_bytes(path, b"the other, longer")
            seen[:] = [path.read_bytes()]

    monkeypatch.setattr(os, "fsync", flush_while_another_writes)
    files.write_bytes(path, b"one")
    assert seen == [b"the other, longer"] and path.read_bytes() == b"one"
    assert [found.name for found in tmp_path.iterdir()] == ["kept.json"]


def test_what_fails_leaves_the_old_content_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "kept.json"
    files.write_bytes(path, b"old")

    def full(handle):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old" and [found.name for found in tmp_path.iterdir()] == ["kept.json"]
