"""Data sets through `datasets`: local folders of the same shape, and a remote one that is streamed only once."""

import json

import pytest

from cadran.corpus.sources.config import parse_source
from cadran.corpus.sources.unreachable import SourceUnreachable
from cadran.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-home")


def jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_local_folder_of_jsonl_is_read_by_split_and_limit(tmp_path):
    jsonl(tmp_path / "set" / "train.jsonl", [{"text": f"row {n}", "n": n} for n in range(5)])
    jsonl(tmp_path / "set" / "test.jsonl", [{"text": "held out", "n": 0}])
    source = parse_source({"hf": str(tmp_path / "set"), "limit": 3, "language": "en"})
    found = list(source.documents(tmp_path / "cache"))
    assert [(document.key, document.text, document.language) for document in found] == [
        ("1", "row 0", "en"),
        ("2", "row 1", "en"),
        ("3", "row 2", "en"),
    ]
    test = parse_source({"hf": str(tmp_path / "set"), "split": "test"})
    assert [document.text for document in test.documents(tmp_path / "cache")] == ["held out"]
    record = source.fingerprint(tmp_path / "cache")
    assert record.name == "set" and str(tmp_path) not in str(record) and "first 3 rows" in record.locator


def test_a_local_folder_of_parquet_with_chats(tmp_path):
    import pyarrow
    import pyarrow.parquet

    messages = [[{"role": "user", "content": "Bonjour"}, {"role": "assistant", "content": "Salut"}]]
    (tmp_path / "set").mkdir()
    pyarrow.parquet.write_table(
        pyarrow.table({"messages": messages}), tmp_path / "set" / "train-00000-of-00001.parquet"
    )
    (document,) = parse_source({"hf": str(tmp_path / "set"), "field": "messages"}).documents(tmp_path / "cache")
    assert document.text == "Bonjour\nSalut"
    assert json.loads(document.meta["row"]) == {"messages": messages[0]}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"split": "tset"}, r"Available splits: \['train'\]"),
        ({"field": "txt"}, "it has text, n"),
        ({"config": "fr"}, "'fr' not found"),
    ],
)
def test_a_wrong_split_field_or_configuration_names_the_right_ones(tmp_path, change, sentence):
    jsonl(tmp_path / "set" / "train.jsonl", [{"text": "row", "n": 1}])
    with pytest.raises(UserError, match=sentence) as error:
        list(parse_source({"hf": str(tmp_path / "set"), **change}).documents(tmp_path / "cache"))
    assert not isinstance(error.value, SourceUnreachable)


def test_a_remote_set_is_streamed_once_and_read_again_without_network(tmp_path, monkeypatch):
    import datasets

    rows = [{"text": "one", "n": 1}, {"text": None, "n": 2}, {"text": "three", "n": float("nan")}]
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return iter(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = parse_source({"hf": "org/set", "config": "fr", "revision": "abc"})
    record = source.fingerprint(tmp_path / "cache")
    assert [document.text for document in source.documents(tmp_path / "cache")] == ["one", "three"]
    assert asked == [(("org/set",), {"name": "fr", "split": "train", "revision": "abc", "streaming": True})]
    assert record.locator == "org/set fr train abc"
    assert record == source.fingerprint(tmp_path / "cache")


def test_a_stream_that_breaks_leaves_nothing_in_the_cache(tmp_path, monkeypatch):
    import datasets

    def load_dataset(*args, **kwargs):
        yield {"text": "one"}
        raise ConnectionError("lost")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(SourceUnreachable, match="org/set could not be fetched"):
        parse_source({"hf": "org/set"}).fingerprint(tmp_path / "cache")
    assert list((tmp_path / "cache" / "hf").iterdir()) == []


def test_offline_is_unreachable_and_a_missing_set_is_a_mistake(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)

    def missing(*args, **kwargs):
        raise datasets.exceptions.DatasetNotFoundError("no")

    monkeypatch.setattr(datasets, "load_dataset", missing)
    with pytest.raises(UserError, match="no data set org/nothing") as error:
        parse_source({"hf": "org/nothing"}).fingerprint(tmp_path / "cache")
    assert not isinstance(error.value, SourceUnreachable)
