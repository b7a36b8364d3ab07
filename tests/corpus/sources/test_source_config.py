"""A recipe's mapping becomes the source it describes, or a sentence that says what to change."""

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from cadran.corpus.sources.config import SourceConfig, parse_source
from cadran.corpus.sources.folder import FolderSource
from cadran.corpus.sources.hub import HubSource
from cadran.corpus.sources.pypi import PypiSource
from cadran.corpus.sources.stdlib import StdlibSource
from cadran.corpus.sources.synthetic import SyntheticSource
from cadran.errors import UserError

PYPI = {"pypi": "a-b==1.0", "file": "a_b/data/x.json", "sha256": "0" * 64, "reader": "articles"}


@pytest.mark.parametrize(
    ("mapping", "kind", "name"),
    [
        (PYPI, PypiSource, "a-b-x"),
        ({"folder": "some/texts"}, FolderSource, "texts"),
        ({"folder": "some/texts/", "name": "mine", "language": "fr"}, FolderSource, "mine"),
        ({"hf": "org/name", "split": "test", "field": "body", "config": "fr", "limit": 10}, HubSource, "name"),
        ({"stdlib": True}, StdlibSource, "stdlib"),
        ({"synthetic": 30, "seed": 2}, SyntheticSource, "synthetic"),
    ],
)
def test_the_key_that_is_present_decides_the_kind(mapping, kind, name):
    source = parse_source(mapping)
    assert type(source) is kind
    assert source.name == name
    assert TypeAdapter(list[SourceConfig]).validate_python([mapping, source]) == [source, source]
    assert hash(source) == hash(parse_source(mapping))


def test_a_source_survives_a_resolved_recipe():
    class Recipe(BaseModel):
        sources: list[SourceConfig]

    recipe = Recipe(sources=[parse_source(PYPI), parse_source({"synthetic": 3})])
    assert Recipe.model_validate(recipe.model_dump()) == recipe
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert recipe.model_dump(exclude_defaults=True)["sources"][1] == {"name": "synthetic", "synthetic": 3}


@pytest.mark.parametrize(
    ("mapping", "sentence"),
    [
        ({"folder": "x", "langauge": "fr"}, "no key 'langauge': did you mean `language:`"),
        (PYPI | {"sha": "0"}, "no key 'sha': did you mean `sha256:`"),
        ({"foldr": "x"}, "did you mean `folder:`"),
        ({}, "add one of pypi, folder, hf, stdlib, synthetic"),
        ({"zzz": 1}, "begins with 'zzz'"),
        ({"folder": "x", "hf": "y"}, "make it two sources"),
        ({"folder": 3}, "`folder:` of the folder source is wrong"),
        ({"folder": ""}, "`folder:` of the folder source is wrong"),
        ({"folder": "x", "language": "french"}, "two small letters"),
        (PYPI | {"sha256": "abc"}, "64 hexadecimal digits"),
        (PYPI | {"reader": "poems"}, "'articles', 'chitchat' or 'python'"),
        ({"pypi": "a==1"}, "needs `file:`"),
        ({"synthetic": 0}, "greater than or equal to 1"),
        ({"synthetic": "many"}, "`synthetic:`"),
        ({"stdlib": False}, "`stdlib:`"),
        ({"hf": "a/b", "limit": 0}, "`limit:`"),
        ("folder", "is a mapping"),
    ],
)
def test_a_mistake_is_one_sentence_with_the_way_out(mapping, sentence):
    with pytest.raises(UserError) as error:
        parse_source(mapping)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_source_cannot_be_changed_afterwards():
    with pytest.raises(ValidationError):
        parse_source({"folder": "x"}).folder = "y"
