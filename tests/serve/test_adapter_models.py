"""Several models with adapters: each lies over the model that it was made for, and is asked for in several ways."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from live import LiveServer
from small_adapters import said, small_adapter
from tiny import tiny_model

from cadran.errors import UserError
from cadran.serve.service import Service
from cadran.serve.settings import ServeSettings, read_settings


@pytest.fixture(scope="module")
def folder(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a model ``other``, deeper than ``tiny``, and adapters of both."""
    folder = tmp_path_factory.mktemp("models")
    tiny_model(folder / "other", seed=5, layers=3)
    for seed, (name, base) in enumerate({"a": tiny, "b": folder / "other", "c": folder / "other"}.items()):
        small_adapter(base, folder / name, seed)
    return folder


@pytest.fixture(scope="module")
def served(tiny: Path, folder: Path) -> Iterator[LiveServer]:
    adapters = {"mine": "a", "other:mine": "b", "deep:more": "c", "other:wrong": "a", "wrong": "b"}
    live = LiveServer(
        models=[str(tiny), str(folder / "other")],
        alias={"deep": "other", "best": "other:more"},
        adapters={name: str(folder / path) for name, path in adapters.items()},
    )
    yield live
    live.close()


def test_a_bare_name_means_the_adapter_of_the_model_that_is_asked(served: LiveServer) -> None:
    texts = {model: said(served, model) for model in ("tiny", "tiny:mine", "other", "other:mine", "other:more")}
    assert len(set(texts.values())) == 5
    for model in ("", "tiny"):
        assert said(served, model, lora="mine") == texts["tiny:mine"]
    for model in ("other", "deep", "other:latest"):
        assert said(served, model, lora="mine") == texts["other:mine"]
        assert said(served, model, lora="deep:mine") == texts["other:mine"]
    assert said(served, "best") == said(served, "deep:more") == texts["other:more"]
    # Where no model is named, the first that has such an adapter; so it is where the name stands for the model.
    assert said(served, "", lora="more") == said(served, "more") == texts["other:more"]
    assert said(served, "mine") == texts["tiny:mine"]


@pytest.mark.parametrize(
    ("model", "lora"),
    [
        ("tiny", "more"),
        ("tiny", "other:mine"),
        ("none", "mine"),
        ("", "none"),
        ("tiny:mine", "mine"),
        ("", ":"),
        ("", "mine:"),
        ("", ":mine:"),
    ],
)
def test_an_adapter_of_another_model_is_not_found(served: LiveServer, model: str, lora: str) -> None:
    answer = httpx.post(f"{served.url}/v1/completions", json={"model": model, "lora": lora, "prompt": "x"})
    assert answer.status_code == 404 and "other:mine" in answer.json()["error"]["message"]


def test_the_lists_name_all_of_them(served: LiveServer) -> None:
    names = ["tiny", "other", "tiny:mine", "other:mine", "other:more", "other:wrong", "tiny:wrong"]
    ids = [model["id"] for model in httpx.get(f"{served.url}/v1/models").json()["data"]]
    assert [id for id in ids if id not in ("deep", "best")] == names
    listed = httpx.get(f"{served.url}/lora-adapters").json()
    assert [(one["id"], one["model"]) for one in listed] == list(enumerate(names[2:]))
    assert [one["path"] for one in listed] == ["mine", "mine", "more", "wrong", "wrong"]


def test_a_number_names_the_model_too(served: LiveServer) -> None:
    asked = {"prompt": "La rivière", "n_predict": 20, "temperature": 0, "ignore_eos": True, "lora": [{"id": 1}]}
    for model in ({}, {"model": "other"}):
        body = httpx.post(f"{served.url}/completion", json={**asked, **model}, timeout=60).json()
        assert body["content"] == said(served, "other:mine")
    assert httpx.post(f"{served.url}/completion", json={**asked, "model": "tiny"}).status_code == 404
    assert httpx.post(f"{served.url}/completion", json={**asked, "lora": [{"id": 5}]}).status_code == 400


@pytest.mark.parametrize("model", ["other:wrong", "tiny:wrong"])
def test_an_adapter_of_another_base_is_refused_and_the_others_go_on(served: LiveServer, model: str) -> None:
    answer = httpx.post(f"{served.url}/v1/completions", json={"model": model, "prompt": "x"}, timeout=60)
    message = answer.json()["error"]["message"]
    assert answer.status_code == 400 and message.startswith(f"the model {model} cannot be opened: "), message
    assert said(served, "tiny:mine") and said(served, "other:mine")


@pytest.mark.parametrize(
    ("adapters", "complaint"),
    [
        ({"none:mine": "a"}, "the adapter mine is for none, which is not served; those served: tiny, other"),
        ({"mine": "a", "tiny:mine": "b"}, "tiny:mine is named twice"),
        ({":mine": "a"}, "write NAME=FOLDER, or MODEL:NAME=FOLDER"),
        ({"tiny:": "a"}, "write NAME=FOLDER, or MODEL:NAME=FOLDER"),
    ],
)
def test_what_cannot_be_meant_is_said_at_the_start(
    tiny: Path, folder: Path, adapters: dict[str, str], complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        Service(ServeSettings(models=[str(tiny), str(folder / "other")], adapters=adapters))


def test_the_settings_file_names_the_model_in_the_key(tmp_path: Path) -> None:
    file = tmp_path / "cadran.toml"
    file.write_text('[serve]\nadapter_folder = "all"\n[serve.adapters]\n"other:mine" = "b"\nmine = "a"\n')
    settings = read_settings(file)
    assert settings.adapters == {"other:mine": "b", "mine": "a"} and settings.adapter_folder == "all"
