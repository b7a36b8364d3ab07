"""Adapters that come and go while the server runs: loaded from one folder only, finished before they are closed."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from live import LiveServer, asking
from paced import Paced
from small_adapters import said, small_adapter
from tiny import tiny_model

from cadran.engine.engine import Engine
from cadran.engine.native import library
from cadran.errors import UserError
from cadran.serve.adapters import MOST, Adapters
from cadran.serve.api_error import ApiError
from cadran.serve.known_model import KnownModel
from cadran.serve.shelf import Shelf
from cadran.serve.state.api_key import add_key


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``open`` with adapters that clients may load, and beside it the models and an adapter that they may not."""
    root = tmp_path_factory.mktemp("loading")
    slow = tiny_model(root / "slow", context=100_000, layers=4)
    other = tiny_model(root / "other", seed=5, layers=3)
    for seed, (name, base) in enumerate({"one": slow, "two": slow, "deep": other}.items()):
        small_adapter(base, root / "open" / name, seed)
    small_adapter(slow, root / "secret", 9)
    (root / "open" / "empty").mkdir()
    (root / "open" / "link").symlink_to(root / "secret")
    (root / "open" / "round").symlink_to(root / "open" / "round")
    (root / "open" / "inner").symlink_to(root / "open" / "one")
    return root


@pytest.fixture(scope="module")
def paced() -> Paced:
    return Paced()


@pytest.fixture(scope="module")
def served(root: Path, paced: Paced) -> Iterator[LiveServer]:
    live = LiveServer(
        paced,
        models=[str(root / "slow"), str(root / "other")],
        alias={"river": "slow", "slow:short": "slow"},
        adapters={"fixed": str(root / "open" / "two")},
        adapter_folder=str(root / "open"),
    )
    yield live
    live.close()


def post(live: LiveServer, verb: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{live.url}/v1/{verb}_lora_adapter", json=body, timeout=60)


def load(live: LiveServer, name: str, path: str, **body: Any) -> dict[str, Any]:
    answer = post(live, "load", lora_name=name, lora_path=path, **body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def unload(live: LiveServer, name: str, **body: Any) -> None:
    answer = post(live, "unload", lora_name=name, **body)
    assert answer.status_code == 200, answer.text


def listed(live: LiveServer) -> list[str]:
    return [one["model"] for one in httpx.get(f"{live.url}/lora-adapters").json()]


def open_ones(live: LiveServer) -> list[str]:
    return sorted(live.call(lambda: [one.known.name for one in live.service.shelf._open_ones()]))


def test_an_adapter_is_there_from_its_loading_to_its_unloading(served: LiveServer, root: Path) -> None:
    plain, before = said(served, "slow"), open_ones(served)
    assert load(served, "one", "one")["model"] == "slow:one"
    assert listed(served) == ["slow:fixed", "slow:one"]
    assert "slow:one" in [model["id"] for model in httpx.get(f"{served.url}/v1/models").json()["data"]]
    text = said(served, "slow:one")
    # As vLLM's clients write it, and as ours do.
    assert text == said(served, "one") == said(served, "slow", lora="one") != plain
    unload(served, "one")
    assert listed(served) == ["slow:fixed"] and open_ones(served) == before
    refused = httpx.post(f"{served.url}/v1/completions", json={"model": "slow:one", "prompt": "x"})
    assert refused.status_code == 404
    assert said(served, "slow") == plain


def test_the_model_is_named_in_either_way(served: LiveServer) -> None:
    for name, base in (("other:deep", None), ("deep", "other"), ("other:deep", "other")):
        assert load(served, name, "deep", base_model=base)["model"] == "other:deep"
        assert said(served, "other:deep") != said(served, "other")
        unload(served, "deep", base_model="other")
    assert load(served, "river:one", "inner")["model"] == "slow:one"
    unload(served, "river:one")
    assert listed(served) == ["slow:fixed"]


def test_requests_under_way_are_finished_and_a_new_one_of_the_name_is_another(served: LiveServer, paced: Paced) -> None:
    asked = {"prompt": "La rivière", "max_tokens": 600, "temperature": 0, "ignore_eos": True, "stream": True}
    load(served, "mine", "one")
    first = said(served, "slow:mine", max_tokens=600)
    paced.hold_after(2)  # reading the prompt, and a burst of a few hundred tokens at most
    try:
        with httpx.stream("POST", f"{served.url}/v1/completions", json={"model": "slow:mine", **asked}) as answer:
            lines = answer.iter_lines()
            pieces = [next(lines)]
            unload(served, "mine")
            held = served.call(lambda: [one.known.name for one in served.service.shelf._dropped.values()])
            assert held == ["slow:mine"], "the answer was over before the adapter was unloaded"
            paced.hold.set()
            load(served, "mine", "two")
            assert said(served, "slow:mine", max_tokens=600) != first
            pieces += [line for line in lines if line]
    finally:
        paced.hold.set()
    assert pieces.pop() == "data: [DONE]"
    told = [json.loads(piece.removeprefix("data: "))["choices"] for piece in pieces]
    assert "".join(choices[0]["text"] for choices in told if choices) == first
    deadline = time.monotonic() + 60
    while open_ones(served).count("slow:mine") > 1:
        assert time.monotonic() < deadline, "its memory was not given back"
        time.sleep(0.02)
    unload(served, "mine")


def test_a_folder_that_was_trained_again_is_read_again(served: LiveServer, root: Path) -> None:
    texts = []
    for seed in (21, 22):
        small_adapter(root / "slow", root / "open" / "changing", seed)
        load(served, "changing", "changing")
        texts.append(said(served, "slow:changing"))
        unload(served, "changing")
    assert texts[0] != texts[1]


def test_numbers_are_nobody_else_s_afterwards(served: LiveServer) -> None:
    one = load(served, "one", "one")["id"]
    two = load(served, "two", "two")["id"]
    unload(served, "one")
    text = said(served, "slow:two")
    again = load(served, "again", "one")["id"]
    assert len({one, two, again}) == 3
    asked = {"prompt": "La rivière", "n_predict": 20, "temperature": 0, "ignore_eos": True}
    by_number = [
        httpx.post(f"{served.url}/completion", json={**asked, "lora": [{"id": id}]}, timeout=60) for id in (one, two)
    ]
    assert by_number[0].status_code == 400 and by_number[1].json()["content"] == text
    for name in ("two", "again"):
        unload(served, name)


@pytest.mark.parametrize(
    ("body", "status", "said_of_it"),
    [
        ({"lora_name": "fixed"}, 400, "slow:fixed is taken"),
        ({"lora_name": "short"}, 400, "slow:short is taken"),
        ({"lora_name": "a/b"}, 400, "letters, digits"),
        ({"lora_name": "été"}, 400, "letters, digits"),
        ({"lora_name": "x" * 65}, 400, "letters, digits"),
        ({"lora_name": "latest"}, 400, "letters, digits"),
        ({"lora_name": "slow:"}, 400, "letters, digits"),
        ({"lora_name": "none:one"}, 404, "no model 'none'"),
        ({"lora_name": "other:one", "base_model": "slow"}, 400, "two models"),
        ({"lora_name": "slow:fixed:one"}, 400, "is an adapter itself"),
        ({"lora_path": "empty"}, 400, "holds no adapter"),
        ({"lora_path": "deep"}, 400, "the model slow:new cannot be opened"),
        ({"lora_path": "none"}, 404, "no folder 'none' in adapter_folder"),
        ({"lora_path": "one/adapter_config.json"}, 404, "no folder"),
        ({"lora_path": "round"}, 404, "no folder"),
        ({"lora_path": "one\0"}, 404, "no folder"),
        ({"lora_path": "x" * 5000}, 404, "no folder"),
        ({"lora_path": "../secret"}, 403, "outside of adapter_folder"),
        ({"lora_path": "one/../../secret"}, 403, "outside of adapter_folder"),
        ({"lora_path": "link"}, 403, "outside of adapter_folder"),
        ({"lora_path": "/"}, 403, "outside of adapter_folder"),
        ({"lora_path": "."}, 403, "outside of adapter_folder"),
        ({"lora_path": ""}, 400, "lora_path"),
        ({"lora_name": 3}, 400, "lora_name"),
    ],
)
def test_what_cannot_be_loaded_is_refused(
    served: LiveServer, body: dict[str, Any], status: int, said_of_it: str
) -> None:
    before = listed(served)
    answer = post(served, "load", **{"lora_name": "new", "lora_path": "one", **body})
    assert (answer.status_code, said_of_it in answer.json()["error"]["message"]) == (status, True), answer.text
    assert listed(served) == before and "slow:new" not in open_ones(served)


def test_what_was_not_loaded_is_not_unloaded(served: LiveServer) -> None:
    for name in ("none", "other:fixed", "slow", ":", "a:" * 50_000):
        answer = post(served, "unload", lora_name=name)
        assert answer.status_code == 404 and "those there are: slow:fixed" in answer.json()["error"]["message"]
    kept = post(served, "unload", lora_name="fixed")
    assert kept.status_code == 403 and "settings" in kept.json()["error"]["message"]
    assert said(served, "slow:fixed")


def test_of_two_who_take_a_name_one_gets_it(served: LiveServer) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(served, "load", lora_name="race", lora_path="one"), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [400] * 7
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(served, "unload", lora_name="race"), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] + [404] * 7


def test_without_the_setting_nothing_is_loaded(server: LiveServer) -> None:
    for verb in ("load", "unload"):
        answer = post(server, verb, lora_name="one", lora_path="one")
        assert answer.status_code == 403 and "--adapter-folder" in answer.json()["error"]["message"]


def test_only_a_key_and_no_foreign_page_may(root: Path, served: LiveServer) -> None:
    asked = {"lora_name": "keyed", "lora_path": "one"}
    foreign = {"origin": "https://elsewhere.example"}
    assert httpx.post(f"{served.url}/v1/load_lora_adapter", json=asked, headers=foreign).status_code == 403
    live = LiveServer(models=[str(root / "slow")], adapter_folder=str(root / "open"))
    try:
        with live.service.database.session() as session:
            key = {"authorization": f"Bearer {add_key(session, 'anna')}"}
        for verb in ("load", "unload"):
            url = f"{live.url}/v1/{verb}_lora_adapter"
            assert httpx.post(url, json=asked).status_code == 401
            assert httpx.post(url, json=asked, headers=key, timeout=60).status_code == 200
    finally:
        live.close()


def test_the_folder_must_be_there_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"adapter_folder is .* and there is no such folder"):
        Adapters({}, folder=str(tmp_path / "none"))


@limits(max_examples=100, deadline=None)
@given(path=st.lists(st.sampled_from(["..", ".", "", "/", "one", "link", "round", "secret", "open", "\0", "~"])
                     | st.text(max_size=5)).map("/".join))  # fmt: skip
def test_no_path_leads_outside(root: Path, path: str) -> None:
    try:
        found = Adapters({}, folder=str(root / "open")).find(path)
    except ApiError as refused:
        assert refused.kind in ("permission", "not_found", "invalid")
    else:
        assert found.parent == (root / "open").resolve() and found.name == "one"


def test_no_more_are_loaded_than_may_be(tmp_path: Path) -> None:
    adapters, base = Adapters({}, folder=str(tmp_path)), KnownModel("a", tmp_path)
    known = [adapters.load(base, f"n{number}", tmp_path) for number in range(MOST)]
    with pytest.raises(ApiError, match="unload one of them first"):
        adapters.load(base, "more", tmp_path)
    adapters.unload(known[0])
    assert adapters.load(base, "more", tmp_path).number == MOST


def test_the_first_model_stays_the_base_and_what_lies_over_a_model_goes_with_it(tmp_path: Path) -> None:
    a, b = KnownModel("a", tmp_path), KnownModel("b", tmp_path)
    adapters = Adapters({"mine": "x", "b:mine": "y"}, folder=str(tmp_path))
    assert [known.name for known in adapters.over([a, b])] == ["a:mine", "b:mine"]
    adapters.load(b, "new", tmp_path)
    assert [known.name for known in adapters.over([b, a])] == ["a:mine", "b:mine", "b:new"]
    assert [known.name for known in adapters.over([a])] == ["a:mine"]
    assert [known.name for known in adapters.over([a, b])] == ["a:mine", "b:mine"]


class Slow:
    """An engine that takes an adapter when it is told to."""

    def close(self) -> None: ...


def test_who_waits_for_an_adapter_that_is_unloaded_is_refused_and_nothing_stays_open(tmp_path: Path) -> None:
    """Also when another of its name is there by then."""
    released: list[asyncio.Event] = []

    async def work() -> None:
        loop, go = asyncio.get_running_loop(), asyncio.Event()
        released.append(go)

        def open(known: KnownModel) -> Engine:
            asyncio.run_coroutine_threadsafe(go.wait(), loop).result(60)
            return Slow()  # type: ignore[return-value]

        old = KnownModel("a:x", tmp_path, adapter=tmp_path, number=0)
        new = KnownModel("a:x", tmp_path, adapter=tmp_path, number=1)
        shelf = Shelf(lambda: [old], open)
        waiting = asyncio.create_task(shelf.take(old))
        await asyncio.sleep(0.01)
        await shelf.drop(old)
        shelf.add(new)
        taking = asyncio.create_task(shelf.take(new))
        await asyncio.sleep(0.01)
        go.set()
        with pytest.raises(ApiError, match="unloaded meanwhile"):
            await waiting
        assert (await taking).known.number == 1
        with pytest.raises(ApiError, match="unloaded meanwhile"):
            await shelf.take(old)
        async with asyncio.timeout(60):
            while len(shelf._open_ones()) > 1:
                await asyncio.sleep(0.01)
        assert [one.known.number for one in shelf.served] == [1]
        await shelf.end()

    asyncio.run(work())


@pytest.mark.skipif(not library.available(), reason=str(library.why_not()))
def test_loading_again_and_again_leaves_nothing_behind(served: LiveServer) -> None:
    load(served, "x", "one")
    for _ in range(6):
        unload(served, "x")
        load(served, "x", "one")
    unload(served, "x")
    assert "slow:x" not in open_ones(served)
    base = served.call(lambda: next(one for one in served.service.shelf.served if one.known.name == "slow"))
    fixed = "slow:fixed" in open_ones(served)
    assert base.users == int(fixed), "an adapter that went still holds its base"


def test_a_client_that_leaves_while_it_loads_leaves_nothing_behind(root: Path, tmp_path: Path) -> None:
    opening, go = threading.Event(), threading.Event()

    def open(known: KnownModel) -> Engine:
        opening.set()
        assert go.wait(120)
        return Engine.load(known.path)

    live = LiveServer(open, models=[str(root / "slow")], adapter_folder=str(root / "open"))
    try:
        asked = {"lora_name": "left", "lora_path": "one"}
        with asking(live, "/v1/load_lora_adapter", asked):
            assert opening.wait(60) and listed(live) == ["slow:left"]
        deadline = time.monotonic() + 60
        while listed(live):
            assert time.monotonic() < deadline, "it is listed although nobody was told that it is there"
            time.sleep(0.02)
        go.set()
        while open_ones(live) != ["slow"] or live.call(lambda: live.service.shelf.served[0].users):
            assert time.monotonic() < deadline, f"{open_ones(live)} are open"
            time.sleep(0.02)
        assert load(live, "left", "one")["model"] == "slow:left"
    finally:
        go.set()
        live.close()
