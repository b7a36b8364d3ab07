"""The list shows everything that is here, broken things too; removing stays inside the models folder."""

import json
import shutil

import pytest

from cadran.errors import UserError
from cadran.library.catalogue import catalogue, remove
from cadran.library.local import LocalOrigin
from cadran.library.pull import pull
from cadran.library.work_folder import work_folder


def test_pulled_models_and_those_of_runs_are_described(model_folder, gguf_file, models, tmp_path):
    pull(LocalOrigin(model_folder), "b")
    pull(LocalOrigin(gguf_file), "a")
    stage = tmp_path / "runs" / "mine" / "sft"
    shutil.copytree(model_folder, stage)
    shutil.copytree(model_folder, tmp_path / "runs" / "mine" / "base")  # not finished
    (stage / "stage.json").write_text("{}")
    first, second, third = catalogue(tmp_path / "runs")
    assert [entry.name for entry in (first, second, third)] == ["a", "b", "mine/sft"]
    assert (first.place, first.architecture, first.kind, first.licence) == ("pulled", "llama", "Q8_0", "apache-2.0")
    assert (second.parameters, second.kind, second.context, second.licence) == (first.parameters, "F32", 64, "mit")
    assert second.capabilities == ("chat", "fill-in-the-middle") and first.capabilities == ("chat", "tools")
    assert (third.place, third.origin, third.parameters) == ("run", None, first.parameters)
    assert second.bytes == sum(path.stat().st_size for path in model_folder.iterdir())
    assert json.loads(json.dumps([entry.to_json() for entry in (first, second, third)]))[1]["origin"] == "local:tiny"


def test_what_is_damaged_or_unfinished_is_listed_with_its_cure(model_folder, models, tmp_path):
    for name in ("cut", "gone", "odd"):
        pull(LocalOrigin(model_folder), name)
    weights = models / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    (models / "gone" / "config.json").unlink()
    (models / "odd" / "cadran.json").write_text("[]")
    with work_folder(models, "half", "hf:a/b") as work:
        (work / ".part").write_bytes(b"some")
    entries = {entry.name: entry for entry in catalogue(tmp_path / "no-runs")}
    assert entries.keys() == {"cut", "gone", "odd", "half"}
    for name in ("cut", "gone", "odd"):
        assert f"cadran models rm {name}" in entries[name].problem
    assert entries["half"].place == "unfinished" and "pull it again" in entries["half"].problem


def test_nothing_is_here_at_first(models, tmp_path):
    assert catalogue(tmp_path / "runs") == []


def test_removing_takes_the_model_and_nothing_else(model_folder, models):
    pull(LocalOrigin(model_folder), "a")
    pull(LocalOrigin(model_folder), "b")
    remove("a")
    assert sorted(path.name for path in models.iterdir()) == ["b"]
    with pytest.raises(UserError, match="no pulled model a: those here are b"):
        remove("a")


def test_removing_an_unfinished_one_clears_its_hidden_folder(models):
    with work_folder(models, "half", "hf:a/b") as work:
        (work / ".part").write_bytes(b"some")
    remove("half")
    assert list(models.iterdir()) == []


@pytest.mark.parametrize("name", ["..", "../models", ".", "", "/", "a/../..", "*"])
def test_removing_what_is_no_name_is_refused(name, model_folder, models):
    pull(LocalOrigin(model_folder), "a")
    with pytest.raises(UserError, match="cannot name a model"):
        remove(name)
    assert (models / "a" / "config.json").is_file()


def test_a_link_or_a_folder_of_the_users_own_is_not_removed(model_folder, models):
    pull(LocalOrigin(model_folder), "a")
    (models / "link").symlink_to(model_folder)
    (models / "own").mkdir()
    for name in ("link", "own"):
        with pytest.raises(UserError, match="was not pulled"):
            remove(name)
    assert (model_folder / "config.json").is_file() and (models / "own").is_dir()
