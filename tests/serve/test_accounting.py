"""Accounts of work that generates nothing: embeddings, ranking, decisions."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import LiveServer
from replicate_engines import slow
from sqlalchemy import select

from cadran.serve.lent import lent
from cadran.serve.state.api_key import add_key
from cadran.serve.state.database import Database
from cadran.serve.state.usage import Usage

TEXTS = ["La rivière est calme.", "In summer nobody fishes."]
PREDICATE = {"type": "predicate", "instructions": "It rains."}
ASKED: list[tuple[str, dict[str, Any], Sequence[str]]] = [
    ("/v1/embeddings", {"input": TEXTS}, ("usage", "prompt_tokens")),
    ("/v1/rerank", {"query": "calme", "documents": TEXTS}, ("usage", "prompt_tokens")),
    ("/v1/decisions", {"input": "a", "questions": [PREDICATE]}, ("usage", "input_tokens")),
    ("/v1/systemone", {"state": "a", "questions": {"q": {"type": "noul"}}}, ("usage", "input_tokens")),
    ("/api/embed", {"input": TEXTS}, ("prompt_eval_count",)),
    ("/api/embeddings", {"prompt": TEXTS[0]}, ()),
]
"""Path, body, and where the answer tells how many tokens were read."""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'state.db'}"


def rows_of(url: str) -> list[Usage]:
    database = Database(url)
    with database.reading() as session:
        rows = session.scalars(select(Usage).order_by(Usage.id)).all()
    database.close()
    return list(rows)


def test_what_only_reads_is_accounted_for_too(tiny: Path, url: str) -> None:
    live = LiveServer(models=[str(tiny)], database=url)
    with live.service.database.session() as session:
        headers = {"x-api-key": add_key(session, "anna")}
    told = []
    for path, body, place in ASKED:
        answer = httpx.post(live.url + path, json={"model": "tiny", **body}, headers=headers)
        assert answer.status_code == 200, answer.text
        timing = {part.split(";")[0].strip(): part for part in answer.headers["server-timing"].split(",")}
        assert float(timing["prefill"].split("=")[1]) > 0 and timing["decode"].endswith("=0.0")
        count: Any = answer.json()
        for name in place:
            count = count[name]
        told.append(count if place else None)
    figures = httpx.get(f"{live.url}/metrics", headers=headers).text
    live.close()
    rows = rows_of(url)
    assert [(row.key, row.model, row.route, row.generated_tokens, row.outcome) for row in rows] == [
        ("anna", "tiny", path, 0, "done") for path, _, _ in ASKED
    ]
    assert [count or row.prompt_tokens for count, row in zip(told, rows, strict=True)] == [
        row.prompt_tokens for row in rows
    ]
    assert all(row.prompt_tokens > row.cached_tokens >= 0 and row.seconds > 0 for row in rows)
    total = sum(row.prompt_tokens for row in rows)
    assert f'cadran_prompt_tokens_total{{model="tiny"}} {float(total)}' in figures


def test_what_was_refused_before_anything_was_read_is_no_account(tiny: Path, url: str) -> None:
    live = LiveServer(models=[str(tiny)], database=url)
    for path, body in (
        ("/v1/embeddings", {"input": "z" * 5000}),
        ("/v1/embeddings", {"input": "a", "model": "none"}),
        ("/api/embed", {"input": []}),
        ("/models/load", {}),
    ):
        httpx.post(live.url + path, json={"model": "tiny", **body})
    live.close()
    assert rows_of(url) == []


def test_work_that_is_given_up_or_fails_is_accounted_for_as_far_as_it_came(tiny: Path, url: str) -> None:
    live = LiveServer(models=[str(tiny)], database=url)

    async def work(reason: type[BaseException]) -> None:
        async with lent(live.service, "tiny") as loan:
            loan.read(7, 3)
            raise reason

    async def both() -> None:
        for reason in (ValueError, asyncio.CancelledError):
            with pytest.raises(reason):
                await asyncio.create_task(work(reason))

    asyncio.run_coroutine_threadsafe(both(), live._loop).result(60)
    live.settle()
    live.close()
    assert [(row.prompt_tokens, row.cached_tokens, row.outcome) for row in rows_of(url)] == [
        (7, 3, "failed"),
        (7, 3, "cancelled"),
    ]


def test_a_stream_that_is_left_is_accounted_for_by_its_tokens(tiny: Path, url: str) -> None:
    live = LiveServer(slow, models=[str(tiny)], database=url)
    body = {"model": "tiny", "prompt": "a", "stream": True, "max_tokens": 400, "ignore_eos": True, "n": 8}
    with httpx.stream("POST", f"{live.url}/v1/completions", json=body) as answer:
        spoken: set[int] = set()
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                spoken |= {choice["index"] for choice in json.loads(line[6:])["choices"] if choice["text"]}
            if len(spoken) == 8:
                break
    live.settle()
    live.close()
    (row,) = rows_of(url)
    assert row.outcome == "cancelled" and 8 <= row.generated_tokens <= 3200
