"""LoRA adapters chosen per request over one base: opened once, answered together, closed apart."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from live import LiveServer
from small_adapters import said, small_adapter

from cadran.engine.native import library

pytestmark = pytest.mark.skipif(not library.available(), reason=str(library.why_not()))
MODELS = ["tiny", "tiny:one", "tiny:two"]


@pytest.fixture(scope="module")
def adapters(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two that change what is said, and one that has a part the core does not share."""
    folder, made = tmp_path_factory.mktemp("adapters"), {}
    for seed, name in enumerate(("one", "two", "dora")):
        made[name] = str(small_adapter(tiny, folder / name, seed, dora=name == "dora"))
    return made


@pytest.fixture
def served(tiny: Path, adapters: dict[str, str]) -> Iterator[LiveServer]:
    live = LiveServer(models=[str(tiny)], adapters=adapters)
    yield live
    live.close()


def test_one_base_serves_all_of_them_together(served: LiveServer) -> None:
    alone = {model: said(served, model) for model in MODELS}
    assert len(set(alone.values())) == 3
    with ThreadPoolExecutor(12) as pool:
        together = {model: [pool.submit(said, served, model) for _ in range(4)] for model in MODELS}
        assert all({answer.result() for answer in together[model]} == {alone[model]} for model in MODELS)
    runners = served.call(lambda: {id(one.engine.runner) for one in served.service.shelf.served})
    assert len(runners) == 1, "each adapter opened a model of its own"


def test_llama_cpp_clients_choose_by_number(served: LiveServer) -> None:
    listed = httpx.get(f"{served.url}/lora-adapters").json()
    assert [(one["id"], one["path"]) for one in listed] == [(0, "one"), (1, "two"), (2, "dora")]
    asked = {
        "prompt": "La rivière",
        "n_predict": 20,
        "temperature": 0,
        "ignore_eos": True,
        "lora": [{"id": 1, "scale": 1}],
    }
    body = httpx.post(f"{served.url}/completion", json=asked, timeout=60).json()
    assert "content" in body, body
    assert body["content"] == said(served, "tiny:two") != said(served, "tiny")


def test_what_cannot_be_shared_is_opened_alone(served: LiveServer) -> None:
    assert said(served, "tiny:dora") and said(served, "tiny:one")
    names = served.call(lambda: {one.known.name: one.engine.runner.name for one in served.service.shelf.served})
    assert names == {"tiny": "native", "tiny:one": "native", "tiny:dora": "torch"}


def test_the_base_stays_open_as_long_as_an_adapter_is_on_it(tiny: Path, adapters: dict[str, str]) -> None:
    live = LiveServer(models=[str(tiny)], adapters=adapters, keep_alive=None)
    try:
        before = said(live, "tiny")
        said(live, "tiny:one")
        assert live.call(lambda: {one.known.name: one.users for one in live.service.shelf.served}) == {
            "tiny": 1, "tiny:one": 0
        }  # fmt: skip
        httpx.post(f"{live.url}/models/unload", json={"model": "tiny:one"}).raise_for_status()
        live.settle()
        assert said(live, "tiny") == before and said(live, "tiny:two") != before
    finally:
        live.close()


def test_an_adapter_that_does_not_fit_is_one_sentence(tiny: Path, tmp_path: Path) -> None:
    live = LiveServer(models=[str(tiny)], adapters={"broken": str(tmp_path)})
    try:
        answer = httpx.post(f"{live.url}/v1/completions", json={"model": "tiny:broken", "prompt": "x"}, timeout=60)
        assert answer.status_code < 500 and "adapter_config.json" in answer.json()["error"]["message"]
        assert said(live, "tiny")
        assert live.call(lambda: [one.users for one in live.service.shelf.served]) == [0]
    finally:
        live.close()
