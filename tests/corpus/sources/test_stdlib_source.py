"""The standard library as a corpus: prose with titles, source without tests, no network."""

import pytest
from cadran.corpus.sources.stdlib import StdlibSource, _documented
from cadran.errors import UserError


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    return list(StdlibSource(stdlib=True).documents(tmp_path_factory.mktemp("cache")))


def test_it_is_a_corpus_of_prose_and_code(documents):
    prose = [document for document in documents if "title" in document.meta]
    code = [document for document in documents if document.key.startswith("source/")]
    assert len(prose) > 5000 and len(code) > 400
    assert len(prose) + len(code) == len(documents)
    assert sum(len(document.text) for document in code) > 5_000_000
    assert len({document.key for document in documents}) == len(documents)


def test_prose_has_the_fields_of_an_article(documents):
    copy = next(document for document in documents if document.key == "doc/shutil.copyfile")
    assert copy.meta["title"] == "shutil.copyfile" and copy.meta["topic"] == "function"
    assert copy.meta["description"].startswith("Copy data from src to dst")
    assert copy.text == f"{copy.meta['title']}\n\n{copy.meta['extract']}"
    assert {document.meta["topic"] for document in documents if "topic" in document.meta} >= {
        "module",
        "class",
        "function",
        "method",
    }


def test_neither_tests_nor_the_machine_are_read(documents):
    paths = [document.meta["path"] for document in documents if "path" in document.meta]
    assert "json/decoder.py" in paths
    for path in paths:
        assert not {"test", "tests", "idle_test", "site-packages", "encodings"} & set(path.split("/"))
        assert "_sysconfigdata" not in path and not path.startswith("/")


def test_reading_and_fingerprint_are_repeatable(documents, tmp_path):
    source = StdlibSource(stdlib=True)
    for first, again in zip(documents[:300], source.documents(tmp_path), strict=False):
        assert first == again
    record = source.fingerprint(tmp_path)
    assert record == source.fingerprint(tmp_path)
    assert record.licence == "PSF-2.0" and record.bytes > 5_000_000
    assert source.language == "en"


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
