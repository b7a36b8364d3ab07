"""The whole stage: planted trouble is removed and accounted for, twice gives the same bytes, mistakes say so."""

import json
import shutil

import pytest

from cadran.corpus import DataSheet, build_corpus, parse_source, read_documents
from cadran.corpus.document import document_id
from cadran.corpus.sources.unreachable import SourceUnreachable
from cadran.errors import UserError
from cadran.files import read_json, sha256_file

RULES = ["normalise", "too_short", "exact_duplicate", "near_duplicate"]


def build(sources, out, **options):
    settings = {"validation": 0.1, "near_duplicate_threshold": 0.8, "minimum_characters": 20, "fallback": []}
    parsed = [parse_source(source) for source in sources]
    return build_corpus(parsed, out, out.parent / "cache", **(settings | options))


def paragraph(seed: int, words: int = 90) -> str:
    return " ".join(f"mot{(seed * 7919 + index * 104729) % 5003}" for index in range(words)) + "."


@pytest.fixture
def texts(tmp_path):
    """Three good texts and one of each kind of trouble."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, text in {
        "a.txt": "Première page. " + paragraph(1),
        "b.txt": "Seconde page. " + paragraph(2),
        "c.txt": "L'été, déjà. " + paragraph(3),
        "d-exact.txt": "PREMIÈRE page.\n\n" + paragraph(1),
        "e-near.txt": "Seconde page! " + paragraph(2) + " Fin.",
        "f-short.txt": "Trop court.",
    }.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "g-broken.txt").write_bytes(b"L'\xe9t\xe9, d\xe9j\xe0. " + paragraph(3).encode())
    return {"folder": str(folder), "name": "pages", "language": "fr", "licence": "CC0-1.0"}


def removed(out):
    return [json.loads(line) for line in (out / "removed.jsonl").read_text(encoding="utf-8").splitlines()]


def test_each_planted_trouble_is_removed_by_its_rule(texts, tmp_path):
    sheet = build([texts], tmp_path / "out", validation=0.4)
    names = ["a", "b", "c", "d-exact", "e-near", "f-short", "g-broken"]
    identity = {name: document_id("pages", f"{name}.txt") for name in names}
    kept = [document.id for document, _ in read_documents(tmp_path / "out" / "documents.jsonl")]
    assert kept == [identity["a"], identity["b"], identity["c"]]
    gone = {row["id"]: row for row in removed(tmp_path / "out")}
    assert {key: (row["rule"], row.get("duplicate_of")) for key, row in gone.items()} == {
        identity["d-exact"]: ("exact_duplicate", identity["a"]),
        identity["e-near"]: ("near_duplicate", identity["b"]),
        identity["f-short"]: ("too_short", None),
        identity["g-broken"]: ("exact_duplicate", identity["c"]),
    }
    assert gone[identity["f-short"]]["start"] == "Trop court."
    assert all(len(row["start"]) <= 80 and row["source"] == "pages" for row in gone.values())
    assert sheet.sources[0].counts == {"repaired file: not UTF-8, read as Windows-1252": 1}
    assert [(count.rule, count.before.documents, count.after.documents) for count in sheet.rules] == [
        ("normalise", 7, 7),
        ("too_short", 7, 6),
        ("exact_duplicate", 6, 4),
        ("near_duplicate", 4, 3),
    ]


def test_the_sheet_adds_up(texts, tmp_path):
    out = tmp_path / "out"
    sheet = build([texts, {"synthetic": 300, "seed": 1}], out)
    assert [count.rule for count in sheet.rules] == RULES
    for before, after in zip(sheet.rules, sheet.rules[1:], strict=False):
        assert before.after == after.before
    documents = list(read_documents(out / "documents.jsonl"))
    assert sheet.rules[-1].after.documents == len(documents)
    assert sheet.rules[-1].after.bytes == sum(len(document.text.encode()) for document, _ in documents)
    assert sheet.rules[0].before.documents == len(documents) + len(removed(out))
    for split in ("train", "validation"):
        assert sheet.kept(split).documents == sum(side == split for _, side in documents)
        for language, amounts in sheet.languages.items():
            mine = [document for document, side in documents if side == split and document.language == language]
            assert amounts[split].documents == len(mine)
            assert amounts[split].bytes == sum(len(document.text.encode()) for document in mine)
    assert set(sheet.languages) == {"en", "fr"}
    assert [record.name for record in sheet.sources] == ["pages", "synthetic"]


def test_the_sheet_on_disk_is_the_sheet_returned(texts, tmp_path):
    sheet = build([texts], tmp_path / "out")
    content = read_json(tmp_path / "out" / "datasheet.json")
    assert content == sheet.to_json()
    assert DataSheet.from_json(content) == sheet
    assert set(content["rules"][0]) == {"rule", "documents_in", "bytes_in", "documents_out", "bytes_out"}


def test_twice_gives_the_same_bytes_and_says_nothing_of_the_machine(texts, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(texts["folder"], moved / "texts")
    build([texts, {"synthetic": 200, "seed": 5}], tmp_path / "one")
    build([texts | {"folder": str(moved / "texts")}, {"synthetic": 200, "seed": 5}], tmp_path / "two")
    names = ["datasheet.json", "documents.jsonl", "removed.jsonl"]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == names  # no temporary file is left
    for name in names:
        assert sha256_file(tmp_path / "one" / name) == sha256_file(tmp_path / "two" / name)
        assert str(tmp_path) not in (tmp_path / "one" / name).read_text(encoding="utf-8")


def test_a_document_stays_on_its_side_when_a_source_is_added(texts, tmp_path):
    build([{"synthetic": 300, "seed": 5}], tmp_path / "one")
    build([texts, {"synthetic": 400, "seed": 5}], tmp_path / "two")
    one = {document.id: split for document, split in read_documents(tmp_path / "one" / "documents.jsonl")}
    two = {document.id: split for document, split in read_documents(tmp_path / "two" / "documents.jsonl")}
    assert set(one.values()) == {"train", "validation"}
    assert all(two[key] == split for key, split in one.items())


def test_meta_reaches_the_documents_normalised(articles_wheel, tmp_path):
    build([articles_wheel, {"synthetic": 10}], tmp_path / "out")
    documents = [document for document, _ in read_documents(tmp_path / "out" / "documents.jsonl")]
    assert documents[0].source == "tiny" and documents[0].meta["topic"] == "Numbers"
    chats = [document for document in documents if "messages" in document.meta]
    assert len(chats) == 2 and json.loads(chats[0].meta["messages"])[0]["role"] == "user"


def test_an_unreachable_source_falls_back_for_all_and_says_so(texts, articles_wheel, registry, tmp_path):
    shutil.rmtree(registry)
    sheet = build([texts, articles_wheel], tmp_path / "out", fallback=[parse_source({"synthetic": 50})])
    assert [record.name for record in sheet.sources] == ["synthetic"]
    assert {document.source for document, _ in read_documents(tmp_path / "out" / "documents.jsonl")} == {"synthetic"}
    (notice,) = sheet.notices
    assert "tiny-articles==1.0 could not be fetched" in notice
    assert "made from the fallback instead: synthetic" in notice


def test_an_unreachable_source_without_fallback_is_an_error_that_leaves_nothing(articles_wheel, registry, tmp_path):
    shutil.rmtree(registry)
    with pytest.raises(SourceUnreachable):
        build([articles_wheel], tmp_path / "out")
    assert not (tmp_path / "out" / "documents.jsonl").exists()


def test_other_mistakes_do_not_fall_back(texts, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        build([texts | {"folder": "nowhere"}], tmp_path / "out", fallback=[parse_source({"synthetic": 50})])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"minimum_characters": 10**6}, "No document is left"),
        ({"validation": 1.0}, "`validation: 1.0`"),
        ({"validation": -0.1}, "`validation: -0.1`"),
        ({"near_duplicate_threshold": 0.0}, "`near_duplicate_threshold: 0.0`"),
        ({"near_duplicate_threshold": 1.5}, "`near_duplicate_threshold: 1.5`"),
        ({"minimum_characters": -1}, "`minimum_characters: -1`"),
    ],
)
def test_impossible_choices_are_one_sentence(texts, tmp_path, change, sentence):
    with pytest.raises(UserError) as error:
        build([texts], tmp_path / "out", **change)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_no_source_or_two_of_one_name_are_mistakes(texts, tmp_path):
    with pytest.raises(UserError, match="has no source"):
        build([], tmp_path / "out")
    with pytest.raises(UserError, match="2 sources have the name pages"):
        build([texts, texts], tmp_path / "out")


def test_an_error_in_the_middle_keeps_the_previous_corpus(texts, tmp_path):
    out = tmp_path / "out"
    build([texts], out)
    before = {path.name: sha256_file(path) for path in out.iterdir()}
    with pytest.raises(UserError):
        build([texts], out, minimum_characters=10**6)
    assert {path.name: sha256_file(path) for path in out.iterdir()} == before


def test_a_small_corpus_has_both_splits_and_says_that_one_was_moved(texts, tmp_path):
    sheet = build([texts], tmp_path / "out", validation=1e-6)
    assert (sheet.kept("train").documents, sheet.kept("validation").documents) == (2, 1)
    assert any("was moved so that both splits have some" in notice for notice in sheet.notices)


def test_progress_names_the_phases_and_counts_up(texts, tmp_path):
    calls = []
    build([texts, {"synthetic": 1200}], tmp_path / "out", progress=lambda phase, done: calls.append((phase, done)))
    phases = list(dict.fromkeys(phase for phase, _ in calls))
    assert phases == ["fetch pages", "fetch synthetic", "read pages", "read synthetic", "near-duplicates", "write"]
    assert [done for phase, done in calls if phase == "read synthetic"] == [500, 1000, 1200]
