"""Votes: kept at once, appended to the run whose model answered, exported for those who learn from them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live import LiveServer
from tiny import tiny_model

from cadran.align.data.read import read_rows
from cadran.align.ratings import read_ratings
from cadran.serve.state.api_key import add_key

ASKED = [{"role": "system", "content": "Sois bref."}, {"role": "user", "content": "Qui\u2028es-tu 😀 ?"}]
THUMB: dict[str, Any] = {"messages": ASKED, "answer": "Un modèle.", "liked": True, "model": "sft", "language": "fr"}
CHOICE: dict[str, Any] = {"messages": ASKED, "chosen": "Un modèle.", "rejected": "Non.",
                          "models": {"chosen": "sft", "rejected": "other"}, "language": "fr"}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one stage."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    tiny_model(folder / "sft")
    (folder / "recipe.yaml").write_text("name: mine\n", encoding="utf-8")
    return folder


@pytest.fixture
def live(run: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveServer]:
    monkeypatch.setenv("CADRAN_HOME", str(tmp_path / "home"))
    (run / "ratings.jsonl").unlink(missing_ok=True)
    live = LiveServer(models=[str(run / "sft"), str(tiny)])
    yield live
    live.close()


def vote(live: LiveServer, body: Any, **headers: str) -> httpx.Response:
    return httpx.post(f"{live.url}/api/votes", json=body, headers=headers)


def test_votes_reach_the_run_and_the_export_as_rows_to_learn_from(live: LiveServer, run: Path, tmp_path: Path) -> None:
    for body in (THUMB, CHOICE):
        answer = vote(live, body)
        assert answer.status_code == 201 and answer.json()["appended"] is True
    rated = read_ratings(run / "ratings.jsonl")
    assert not rated.refused and len(rated.pairs) == len(rated.labelled) == 1
    assert rated.pairs[0].messages == ASKED and rated.pairs[0].chosen == "Un modèle."
    exported = tmp_path / "exported.jsonl"
    exported.write_bytes(httpx.get(f"{live.url}/api/votes/export").content)
    assert [line["kind"] for line in map(json.loads, exported.read_text().splitlines()) if "kind" in line] == ["rating"]
    rows = read_rows(exported)
    assert not rows.refused and [pair.rejected for pair in rows.pairs] == ["Non."]
    assert [(row.completion, row.label) for row in rows.labelled] == [("Un modèle.", True)]
    again = read_ratings(exported)
    assert (again.pairs[0].messages, again.labelled[0].label, again.refused) == (ASKED, True, [])
    assert not (tmp_path / "home" / "ratings.jsonl").exists()


def test_dpo_reads_an_export_of_choices(live: LiveServer, tmp_path: Path) -> None:
    vote(live, THUMB)
    vote(live, CHOICE)
    for only, kind in (("choices", "preference"), ("thumbs", "labelled")):
        exported = tmp_path / f"{only}.jsonl"
        exported.write_bytes(httpx.get(f"{live.url}/api/votes/export", params={"only": only}).content)
        rows = read_rows(exported, kind)  # type: ignore[arg-type]
        assert len(rows.pairs) + len(rows.labelled) == 1 and not rows.refused
    assert httpx.get(f"{live.url}/api/votes/export", params={"only": "x"}).status_code == 400


def test_a_vote_on_a_model_of_no_run_goes_to_the_user_s_folder(live: LiveServer, run: Path, tmp_path: Path) -> None:
    assert vote(live, THUMB | {"model": "tiny"}).json()["appended"]
    assert vote(live, THUMB | {"model": "long gone"}).json()["appended"]
    rated = read_ratings(tmp_path / "home" / "ratings.jsonl")
    assert len(rated.labelled) == 1 and not rated.refused, "the same answer twice: the last word counts"
    assert not (run / "ratings.jsonl").exists()


def test_who_changes_his_mind_is_exported_once(live: LiveServer) -> None:
    vote(live, THUMB)
    vote(live, THUMB | {"liked": False})
    vote(live, CHOICE)
    vote(live, CHOICE | {"chosen": "Non.", "rejected": "Un modèle."})
    lines = [json.loads(line) for line in httpx.get(f"{live.url}/api/votes/export").text.splitlines()]
    assert [line.get("liked", line.get("chosen")) for line in lines] == [False, "Non."]


def test_a_key_gets_its_own_votes_only(live: LiveServer, run: Path) -> None:
    with live.service.database.session() as session:
        keys = {name: add_key(session, name) for name in ("anna", "bert")}
    for name, key in keys.items():
        assert vote(live, THUMB | {"answer": name}, **{"x-api-key": key}).status_code == 201
    for name, key in keys.items():
        (line,) = httpx.get(f"{live.url}/api/votes/export", headers={"x-api-key": key}).text.splitlines()
        assert (json.loads(line)["by"], json.loads(line)["answer"]) == (name, name)
    assert vote(live, THUMB).status_code == 401


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": []},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "boss", "content": "x"}]},
        {"messages": [{"role": "assistant", "content": "x"}]},
        {"messages": [{"role": "user", "content": "\ud800"}]},
        {"messages": [{"role": "user", "content": ["x"]}]},
        {"messages": "x"},
        {"answer": " "},
        {"answer": "\udc80"},
        {"answer": None},
        {"liked": None},
        {"liked": "perhaps"},
        {"chosen": "a", "rejected": "b"},
        {"language": "\x00"},
        {"model": "a\nb"},
        {"model": "\ud800"},
        {"models": {"answer": "x" * 501}},
        {"models": ["x"]},
    ],
)
def test_what_nothing_can_be_learnt_from_is_refused_and_kept_nowhere(
    live: LiveServer, run: Path, wrong: dict[str, Any]
) -> None:
    body = json.dumps(THUMB | wrong)
    answer = httpx.post(f"{live.url}/api/votes", content=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]
    assert httpx.get(f"{live.url}/api/votes/export").text == ""
    assert not (run / "ratings.jsonl").exists()


def test_a_vote_as_long_as_a_book_is_refused(live: LiveServer) -> None:
    assert vote(live, THUMB | {"answer": "x" * (1 << 20)}).status_code == 413


def test_a_vote_is_kept_when_its_file_cannot_be_written(live: LiveServer, run: Path) -> None:
    (run / "ratings.jsonl").mkdir()
    try:
        answer = vote(live, THUMB)
        assert answer.status_code == 201 and answer.json()["appended"] is False
    finally:
        (run / "ratings.jsonl").rmdir()
    assert len(httpx.get(f"{live.url}/api/votes/export").text.splitlines()) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def test_no_vote_makes_the_server_fail(live: LiveServer) -> None:
    message = st.fixed_dictionaries({"role": JSON | st.just("user"), "content": JSON, "tool_calls": JSON})
    with httpx.Client(base_url=live.url) as client:

        @settings(max_examples=100, deadline=None)
        @given(
            field=st.sampled_from([*THUMB, *CHOICE, "kind", "extra"]),
            value=JSON,
            base=st.sampled_from([THUMB, CHOICE]),
            messages=st.lists(message, max_size=3) | st.just(ASKED),
        )
        def never_fails(field: str, value: Any, base: dict[str, Any], messages: Any) -> None:
            answer = client.post("/api/votes", content=json.dumps(base | {"messages": messages} | {field: value}))
            assert answer.status_code in (201, 400), answer.text
            if answer.status_code == 201:
                assert answer.json()["appended"] is True, "what is stored can be learnt from"

        never_fails()


def test_voting_loads_no_torch() -> None:
    code = "import sys, cadran.serve.votes, cadran.serve.application; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
