"""`documents.jsonl`: what is written is what is read, whole or not at all."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cadran.corpus.document import Document, DocumentWriter, document_id, read_documents
from cadran.errors import UserError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
DOCUMENT = st.builds(Document, TEXT, TEXT, TEXT, TEXT, st.dictionaries(TEXT, TEXT, max_size=3))


@given(st.lists(st.tuples(DOCUMENT, st.sampled_from(["train", "validation"])), max_size=5))
def test_what_is_written_is_what_is_read(tmp_path_factory, entries):
    path = tmp_path_factory.mktemp("documents") / "documents.jsonl"
    with DocumentWriter(path) as writer:
        for document, split in entries:
            writer.write(document, split)
    assert list(read_documents(path)) == entries


def test_a_line_has_the_six_keys_in_order(tmp_path):
    path = tmp_path / "documents.jsonl"
    with DocumentWriter(path) as writer:
        writer.write(Document("0" * 16, "œuf\u2028", "s", "fr", {"title": "é"}), "validation")
    line = path.read_text(encoding="utf-8").removesuffix("\n")
    assert list(json.loads(line)) == ["id", "text", "source", "language", "split", "meta"]
    assert "œuf" in line  # readable, not escaped


def test_document_id_is_the_start_of_sha256_of_source_nul_key():
    assert document_id("wiki-en", "Alpaca") == hashlib.sha256(b"wiki-en\0Alpaca").hexdigest()[:16]
    assert document_id("a", "bc") != document_id("ab", "c")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "documents.jsonl"
    path.write_text("old")
    with pytest.raises(RuntimeError), DocumentWriter(path) as writer:
        writer.write(Document("0", "new", "s", "en", {}), "train")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["documents.jsonl"]


@pytest.mark.parametrize(
    "line", ["{", "{}", '{"id": 1}', "[]", "null", '{"id":"","text":"","source":"","language":""}']
)
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "documents.jsonl"
    with DocumentWriter(path) as writer:
        writer.write(Document("0", "good", "s", "en", {}), "train")
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=r"Line 2 of .*documents\.jsonl"):
        list(read_documents(path))


def test_a_missing_or_binary_file_is_a_user_error(tmp_path: Path):
    with pytest.raises(UserError, match="build the corpus first"):
        list(read_documents(tmp_path / "documents.jsonl"))
    (tmp_path / "documents.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="damaged"):
        list(read_documents(tmp_path / "documents.jsonl"))
