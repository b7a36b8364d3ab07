"""A folder of mixed, partly broken files: what is text is read, in order; the rest is skipped, counted, or an error."""

import json
import os
from collections import Counter

import pytest

from cadran.corpus.sources.folder import FolderSource
from cadran.errors import UserError

PAGE = """<html><head><title>T</title></head><body><nav><a href="/">Accueil</a> <a href="/x">Menu</a></nav>
<article><h1>Les dials</h1><p>{text}</p><p>Un second paragraphe, assez long pour compter comme du texte.</p></article>
<footer>Mentions légales</footer></body></html>"""
SENTENCE = "Un modèle de langue est fait de milliards de petits cadrans, et chacun se règle un peu à chaque exemple."


def read(folder, counts=None, **fields):
    source = FolderSource(folder=str(folder), **fields)
    return list(source.documents(folder / "cache", counts))


def test_every_format_is_read_in_the_order_of_the_paths(tmp_path):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "note.md").write_text("# Title\n\ntext")
    (tmp_path / "a.txt").write_text("plain")
    (tmp_path / "c.PY").write_text("print('code')\n")
    (tmp_path / "page.html").write_text(PAGE.format(text=SENTENCE), encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text('{"text": "one"}\n\n{"text": "two", "n": 1}\n')
    pyarrow.parquet.write_table(pyarrow.table({"text": ["x", None, "z"], "n": [1, 2, 3]}), tmp_path / "t.parquet")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\0")
    counts = Counter()
    found = read(tmp_path, counts, language="fr")
    assert [document.key for document in found] == [
        "a.txt",
        "b/note.md",
        "c.PY",
        "page.html",
        "rows.jsonl#1",
        "rows.jsonl#3",
        "t.parquet#1",
        "t.parquet#3",
    ]
    texts = {document.key: document.text for document in found}
    assert texts["b/note.md"] == "# Title\n\ntext"
    assert SENTENCE in texts["page.html"] and "Menu" not in texts["page.html"]
    assert (texts["rows.jsonl#3"], texts["t.parquet#3"]) == ("two", "z")
    assert {document.language for document in found} == {"fr"}
    assert found[2].meta == {"path": "c.PY", "format": "py"}
    assert counts == {"skipped row: broken or without a text": 1}


def test_a_bad_file_among_good_ones_is_skipped_and_counted(tmp_path):
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "binary.txt").write_bytes(b"\0\1\2\3" * 100)
    (tmp_path / "fake.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "broken.jsonl").write_text("{{{\nnot json\n")
    (tmp_path / "half.jsonl").write_text('{"text": "kept"}\n{"text": \n42\n')
    (tmp_path / "dead.txt").symlink_to(tmp_path / "nowhere.txt")
    (tmp_path / "empty.txt").write_text("")
    counts = Counter()
    assert [document.text for document in read(tmp_path, counts)] == ["good", "kept"]
    assert counts == {
        "skipped file: binary": 1,
        "skipped file: not a Parquet file": 1,
        "skipped file: no row with a text": 1,
        "skipped file: cannot be opened": 1,
        "skipped row: broken or without a text": 2,
    }


def test_old_encodings_are_read_and_counted(tmp_path):
    (tmp_path / "old.txt").write_bytes("déjà vu, 5 €".encode("cp1252"))
    (tmp_path / "old.jsonl").write_bytes('{"text": "été"}\n{"text": "hiver"}\n'.encode("cp1252"))
    (tmp_path / "windows.txt").write_bytes("déjà vu".encode("utf-16"))
    (tmp_path / "windows.jsonl").write_bytes('{"text": "né"}\r\n{"text": "œuf"}\r\n'.encode("utf-16"))
    page = PAGE.format(text=SENTENCE).replace("<head>", '<head><meta charset="iso-8859-15">')
    (tmp_path / "old.html").write_bytes(page.encode("iso-8859-15"))
    counts = Counter()
    texts = {document.key: document.text for document in read(tmp_path, counts)}
    assert SENTENCE in texts.pop("old.html")
    assert texts == {
        "old.txt": "déjà vu, 5 €",
        "old.jsonl#1": "été",
        "old.jsonl#2": "hiver",
        "windows.txt": "déjà vu",
        "windows.jsonl#1": "né",
        "windows.jsonl#2": "œuf",
    }
    assert counts == {"repaired file: not UTF-8, read as Windows-1252": 2}


def test_hidden_files_and_links_out_of_the_folder_are_not_read(tmp_path):
    folder, outside = tmp_path / "texts", tmp_path / "private"
    folder.mkdir()
    outside.mkdir()
    (outside / "secret.txt").write_text("secret")
    (folder / "open.txt").write_text("open")
    (folder / ".hidden.txt").write_text("hidden")
    (folder / ".git").mkdir()
    (folder / ".git" / "config.txt").write_text("hidden")
    (folder / "link.txt").symlink_to(outside / "secret.txt")
    (folder / "linked").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    (folder / "inside.txt").symlink_to(folder / "open.txt")
    os.mkfifo(folder / "pipe.txt")
    assert [(document.key, document.text) for document in read(folder)] == [
        ("inside.txt", "open"),
        ("open.txt", "open"),
    ]


def test_a_long_text_becomes_parts_that_join_to_the_whole(tmp_path):
    text = "\n\n".join(f"Paragraph {number}. " + "word " * 60 for number in range(200))
    (tmp_path / "book.txt").write_text(text)
    (tmp_path / "line.txt").write_text("x" * 40_000)
    (tmp_path / "code.py").write_text("x = 1\n" * 10_000)
    found = read(tmp_path)
    book = [document for document in found if document.key.startswith("book")]
    assert "".join(document.text for document in book) == text
    assert len(book) > 5 and all(len(document.text) <= 8000 for document in book)
    assert all(document.text.startswith("Paragraph") for document in book)
    assert [document.key for document in book[:2]] == ["book.txt#1", "book.txt#2"]
    assert [len(d.text) for d in found if d.key.startswith("line")] == [8000] * 5
    assert [d.key for d in found if d.key.startswith("code")] == ["code.py"]


def test_rows_without_a_text_keep_themselves_in_meta(tmp_path):
    row = {"messages": [{"role": "user", "content": "Bonjour"}, {"role": "assistant", "content": "Salut"}], "id": 3}
    (tmp_path / "chats.jsonl").write_text(json.dumps(row) + "\n")
    (document,) = read(tmp_path)
    assert document.text == "Bonjour\nSalut"
    assert json.loads(document.meta["row"]) == row


@pytest.mark.parametrize("make", ["missing", "file", "empty", "unknown", "binary", "blank"])
def test_nothing_to_read_is_one_sentence(tmp_path, make):
    folder = tmp_path / "texts"
    if make == "file":
        folder.write_text("text")
    elif make != "missing":
        folder.mkdir()
    if make == "unknown":
        (folder / "photo.jpg").write_bytes(b"\xff\xd8")
    if make == "binary":
        (folder / "one.txt").write_bytes(b"\0" * 100)
        (folder / "two.md").write_bytes(b"\0" * 100)
    if make == "blank":
        (folder / "one.txt").write_text("  \n")
    with pytest.raises(UserError) as error:
        read(folder)
    expected = {
        "missing": "does not exist",
        "file": "give the folder that contains it",
        "empty": "holds no file to read",
        "unknown": "holds no file to read",
        "binary": "2 skipped file: binary",
        "blank": "all files are empty",
    }
    assert expected[make] in str(error.value) and "\n" not in str(error.value)


def test_fingerprint_follows_names_and_contents_and_not_the_place(tmp_path):
    for place in ("one", "two"):
        (tmp_path / place / "texts").mkdir(parents=True)
        (tmp_path / place / "texts" / "a.txt").write_text("text")
    records = [FolderSource(folder=str(tmp_path / place / "texts")).fingerprint(tmp_path) for place in ("one", "two")]
    assert records[0] == records[1]
    assert str(tmp_path) not in str(records[0])
    (tmp_path / "one" / "texts" / "a.txt").write_text("test")
    assert FolderSource(folder=str(tmp_path / "one" / "texts")).fingerprint(tmp_path).sha256 != records[0].sha256
    (tmp_path / "two" / "texts" / "a.txt").rename(tmp_path / "two" / "texts" / "b.txt")
    assert FolderSource(folder=str(tmp_path / "two" / "texts")).fingerprint(tmp_path).sha256 != records[0].sha256
