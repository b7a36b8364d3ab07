"""A tiny chat model and a server that serves it, for every test of this folder."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from httpx import _config
from live import LiveServer
from tiny import tiny_model

# Of every client that names no time of its own; five seconds would make a busy machine a failure.
for _what in ("connect", "read", "write", "pool"):
    setattr(_config.DEFAULT_TIMEOUT_CONFIG, _what, 60.0)

_randbits = secrets.randbits


@pytest.fixture(autouse=True)
def _one_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that name no seed get the same one: a random model that ends at once would fail a test now and then."""
    monkeypatch.setattr(secrets, "randbits", lambda bits: 7)


@pytest.fixture
def fresh_seeds(_one_seed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that name no seed get one each, as they do outside of the tests."""
    monkeypatch.setattr(secrets, "randbits", _randbits)


@pytest.fixture
def database(tmp_path: Path) -> str:
    """Address of a database that is not there yet, for one test alone."""
    return f"sqlite:///{tmp_path / 'state.db'}"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny chat model, called ``tiny``."""
    return tiny_model(tmp_path_factory.mktemp("served") / "tiny")


@pytest.fixture(scope="session")
def server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that all tests share: leave it as it was found."""
    database = f"sqlite:///{tmp_path_factory.mktemp('state') / 'state.db'}"
    live = LiveServer(models=[str(tiny)], alias={"meta/meta-llama-3-70b-instruct": "tiny"}, database=database)
    yield live
    live.close()
