"""The standard library as a corpus: prose with titles, source without tests, no network."""

from itertools import islice

import pytest

from cadran.corpus.sources.stdlib import StdlibSource, _documented
from cadran.errors import UserError

PART = ("asyncio/", "json/", "email/", "dataclasses.py", "shutil.py", "zipfile.py")


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """Documents of some modules only: parsing all of them takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        everything = StdlibSource(stdlib=True)._files()
        patch.setattr(StdlibSource, "_files", lambda self: [file for file in everything if file[1].startswith(PART)])
        return list(StdlibSource(stdlib=True).documents(tmp_path_factory.mktemp("cache")))


def test_it_is_a_corpus_of_prose_and_code(documents):
    prose = [document for document in documents if "title" in document.meta]
    code = [document for document in documents if document.key.startswith("source/")]
    assert len(prose) > 500 and len(code) > 40
    assert len(prose) + len(code) == len(documents)
    assert len({document.key for document in documents}) == len(documents)
    assert all(document.text.strip() and document.language == "en" for document in documents if document in prose)


def test_prose_has_the_fields_of_an_article(documents):
    copy = next(document for document in documents if document.key == "doc/shutil.copyfile")
    assert copy.meta["title"] == "shutil.copyfile" and copy.meta["topic"] == "function"
    assert copy.meta["description"].startswith("Copy data from src to dst")
    assert copy.text == f"{copy.meta['title']}\n\n{copy.meta['extract']}"
    topics = {document.meta["topic"] for document in documents if "topic" in document.meta}
    assert topics >= {"module", "class", "function", "method"}


def test_neither_tests_nor_the_machine_are_read():
    files = StdlibSource(stdlib=True)._files()
    assert len(files) > 400 and "json/decoder.py" in {relative for _, relative in files}
    for _, relative in files:
        assert not {"test", "tests", "idle_test", "site-packages", "encodings"} & set(relative.split("/"))
        assert "_sysconfigdata" not in relative and not relative.startswith("/")


def test_reading_and_fingerprint_are_repeatable(documents, tmp_path):
    source = StdlibSource(stdlib=True)
    for first, again in zip(documents, islice(source.documents(tmp_path), 70), strict=False):
        assert first == again
    record = source.fingerprint(tmp_path)
    assert record == source.fingerprint(tmp_path)
    assert record.licence == "PSF-2.0" and record.bytes > 5_000_000


def test_docstrings_are_found_wherever_they_are():
    import ast

    code = '''"""Module."""
if True:
    def f():
        """Inner."""
class C:
    """Class."""
    async def m(self):
        """Method."""
        def helper():
            """Helper."""
    def silent(self): pass
'''
    assert list(_documented(ast.parse(code), "mod", "module")) == [
        ("mod", "module", "Module."),
        ("mod.f", "function", "Inner."),
        ("mod.C", "class", "Class."),
        ("mod.C.m", "method", "Method."),
        ("mod.C.m.helper", "function", "Helper."),
    ]


def test_a_python_without_sources_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(UserError, match="without source files"):
        StdlibSource(stdlib=True).fingerprint(tmp_path)


def test_code_alone_is_read_without_prose(tmp_path, monkeypatch):
    files = [file for file in StdlibSource(stdlib=True)._files() if file[1].startswith("json/")]
    monkeypatch.setattr(StdlibSource, "_files", lambda self: files)
    source = StdlibSource(stdlib="code")
    found = list(source.documents(tmp_path))
    assert [document.key for document in found] == [f"source/{relative}" for _, relative in files]
    assert source.fingerprint(tmp_path).bytes == sum(path.stat().st_size for path, _ in files)
    assert source.fingerprint(tmp_path).sha256 != StdlibSource(stdlib=True).fingerprint(tmp_path).sha256
