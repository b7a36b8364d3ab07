"""Predictions, asked for by the ``replicate`` package itself."""

import asyncio
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import replicate
from live import LiveServer
from replicate.exceptions import ModelError, ReplicateError
from replicate.version import Versions
from replicate_engines import SAYINGS, saying, slow

from cadran.serve.replicate.output import streamable

LLAMA = "meta/meta-llama-3-70b-instruct"

PROGRAM = """
import os
import replicate # pip install replicate

# Get your token from -> https://replicate.com/account/api-tokens
os.environ["REPLICATE_API_TOKEN"] = "TOKEN"
api = replicate.Client(api_token=os.environ["REPLICATE_API_TOKEN"])

# Running llama3 model using replicate
output = api.run(
    "meta/meta-llama-3-70b-instruct",
        input={"prompt": 'Hey how are you?'}
    )

# Printing llama3's response
for item in output:
    print(item, end="")
"""


def make_client(live: LiveServer) -> replicate.Client:
    client = replicate.Client(api_token="none", base_url=live.url)
    client.poll_interval = 0.02
    return client


@pytest.fixture(scope="module")
def spoken(tiny: Path) -> Iterator[LiveServer]:
    """A server whose model says what the seed asks for."""
    live = LiveServer(saying, models=[str(tiny)], alias={LLAMA: "tiny"})
    yield live
    live.close()


@pytest.fixture(scope="module")
def unhurried(tiny: Path) -> Iterator[LiveServer]:
    """A server whose model takes 20 ms for a token."""
    live = LiveServer(slow, models=[str(tiny)], alias={LLAMA: "tiny"})
    yield live
    live.close()


@pytest.fixture
def client(spoken: LiveServer) -> replicate.Client:
    return make_client(spoken)


@pytest.fixture
def patient(unhurried: LiveServer) -> replicate.Client:
    return make_client(unhurried)


@pytest.fixture
def version(client: replicate.Client) -> str:
    return str(Versions(client, LLAMA).list()[0].id)


def asked(**input: Any) -> dict[str, Any]:
    return {"prompt": "Ça va, l'été ?", "max_tokens": 200, **input}


LONG = asked(max_tokens=300, min_tokens=300, seed=9)
"""An answer that takes six seconds where a token takes 20 ms."""


def test_the_program_of_the_brief_prints_an_answer(
    spoken: LiveServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REPLICATE_API_TOKEN", "")
    monkeypatch.setenv("REPLICATE_BASE_URL", spoken.url)
    space: dict[str, Any] = {}
    exec(PROGRAM, space)
    assert os.environ["REPLICATE_API_TOKEN"] == "TOKEN"
    assert isinstance(space["output"], list) and space["output"]
    assert capsys.readouterr().out == "".join(space["output"])


@pytest.mark.parametrize("seed", SAYINGS)
def test_joined_output_is_the_text(client: replicate.Client, seed: int) -> None:
    output = client.run(LLAMA, input=asked(seed=seed))
    assert "".join(output) == SAYINGS[seed]


@pytest.mark.parametrize("wait", [True, 5, False])
def test_a_version_is_run_as_an_iterator(client: replicate.Client, version: str, wait: bool | int) -> None:
    output = client.run(f"{LLAMA}:{version}", input=asked(seed=1), wait=wait)
    assert not isinstance(output, list)
    assert "".join(output) == SAYINGS[1]


def test_a_model_without_an_alias_has_an_owner(client: replicate.Client, version: str) -> None:
    assert "".join(client.run("cadran/tiny", input=asked(seed=1))) == SAYINGS[1]
    assert "".join(client.run(f"cadran/tiny:{version}", input=asked(seed=1))) == SAYINGS[1]


def test_without_waiting_the_client_polls(patient: replicate.Client) -> None:
    output = patient.run(LLAMA, input=asked(max_tokens=20, min_tokens=20, seed=9), wait=False)
    again = patient.run(LLAMA, input=asked(max_tokens=20, min_tokens=20, seed=9))
    assert "".join(output) == "".join(again) != ""


@pytest.mark.parametrize("seed", SAYINGS)
def test_the_stream_carries_the_text(client: replicate.Client, seed: int) -> None:
    events = list(client.stream(LLAMA, input=asked(seed=seed)))
    assert [str(event.event.value) for event in events][-1] == "done" and events[-1].data == "{}"
    assert "".join(map(str, events)) == streamable(SAYINGS[seed])
    ids = [event.id for event in events]
    assert len(set(ids)) == len(ids) and all(ids)


@pytest.mark.usefixtures("fresh_seeds")
def test_seed_makes_an_answer_again_and_none_another(client: replicate.Client) -> None:
    first, second = ("".join(client.run(LLAMA, input=asked(seed=77, max_tokens=40))) for _ in range(2))
    other = ["".join(client.run(LLAMA, input=asked(max_tokens=40, temperature=2, top_k=0, top_p=1))) for _ in range(3)]
    assert first == second
    assert len(set(other)) > 1


def test_a_prediction_is_created_polled_and_listed(client: replicate.Client) -> None:
    created = client.models.predictions.create(LLAMA, asked(seed=2))
    assert (created.status, created.output, created.model, created.version) == ("starting", None, LLAMA, "hidden")
    created.wait()
    assert created.status == "succeeded" and "".join(created.output) == SAYINGS[2]
    assert created.input == asked(seed=2) and created.logs == "" and created.error is None
    assert created.metrics["output_token_count"] > 0 and created.metrics["predict_time"] > 0
    assert created.started_at and created.completed_at and created.created_at.endswith("Z")
    assert client.predictions.get(created.id).output == created.output
    assert client.predictions.list()[0].id == created.id


def test_a_held_prediction_that_is_not_done_is_starting_and_goes_on(patient: replicate.Client) -> None:
    created = patient.models.predictions.create(LLAMA, asked(max_tokens=100, min_tokens=100, seed=9), wait=1)
    assert (created.status, created.output, created.started_at) == ("starting", None, None)
    seen: list[list[str]] = []
    while created.status not in ("succeeded", "failed", "canceled"):
        created.reload()
        seen.append(created.output or [])
    assert created.status == "succeeded" and created.metrics["output_token_count"] == 100
    assert all(after[: len(before)] == before for before, after in itertools.pairwise(seen))
    assert any(0 < len(output) < len(seen[-1]) for output in seen)


def test_cancelling_frees_the_place_and_keeps_what_was_said(patient: replicate.Client, unhurried: LiveServer) -> None:
    created = patient.models.predictions.create(LLAMA, LONG)
    while not created.output:
        created.reload()
    created.cancel()
    assert created.status == "canceled" and created.completed_at
    assert unhurried.call(lambda: unhurried.service.admission.running) == 0
    created.reload()
    assert 0 < len(created.output) < 300
    created.cancel()
    assert created.status == "canceled"
    events = list(created.stream())
    assert events[-1].data == '{"reason":"canceled"}'
    unhurried.settle()


def test_a_stream_ends_when_the_prediction_is_cancelled(patient: replicate.Client) -> None:
    created = patient.models.predictions.create(LLAMA, LONG, stream=True)
    said = []
    for event in created.stream():
        said.append(event.event.value)
        if len(said) == 2:
            created.cancel()
    assert said[-1] == "done" and len(said) < 300


def test_a_prediction_of_an_engine_that_fails_has_failed(tiny: Path) -> None:
    def broken(known: Any) -> Any:
        engine = slow(known, 0.0)

        def failing(*_: Any) -> Any:
            raise RuntimeError("a defect")

        runner: Any = engine.runner
        runner.burst = failing  # the prompt is read, and a token or two are chosen
        return engine

    live = LiveServer(broken, models=[str(tiny)])
    try:
        client = make_client(live)
        with pytest.raises(ModelError, match="engine failed"):
            client.run("cadran/tiny", input=asked(max_tokens=300, seed=9))
        failed = client.predictions.list()[0]
        assert failed.status == "failed" and failed.error and failed.completed_at
        with pytest.raises(RuntimeError, match="engine failed"):
            list(failed.stream())
        live.settle()
    finally:
        live.close()


@pytest.mark.parametrize(
    ("input", "field"),
    [
        ({}, "prompt is required"),
        (asked(temperature=-1), "input.temperature"),
        (asked(temperature="hot"), "input.temperature"),
        (asked(max_tokens=None, max_new_tokens=0), "input.max_new_tokens"),
        (asked(top_p=2), "input.top_p"),
        (asked(min_tokens=3, max_tokens=2), "input.min_tokens"),
        (asked(prompt_template="no place"), "input.prompt_template"),
        (asked(messages=[{"role": "user", "content": "x"}]), "input.messages"),
    ],
)
def test_a_wrong_input_is_422_and_names_the_field(client: replicate.Client, input: dict[str, Any], field: str) -> None:
    with pytest.raises(ReplicateError) as caught:
        client.run(LLAMA, input=input)
    assert caught.value.status == 422 and caught.value.title == "Input validation failed"
    assert field in (caught.value.detail or "")


def test_errors_have_their_status(client: replicate.Client) -> None:
    with pytest.raises(ReplicateError) as unknown:
        client.run("nobody/nothing", input=asked())
    assert unknown.value.status == 404 and "tiny" in (unknown.value.detail or "")
    with pytest.raises(ReplicateError) as version:
        client.predictions.create(version="0" * 64, input=asked())
    assert version.value.status == 422
    with pytest.raises(ReplicateError) as long:
        client.run(LLAMA, input=asked(prompt="word " * 2000))
    assert long.value.status == 400 and "512" in (long.value.detail or "")
    with pytest.raises(ReplicateError) as prediction:
        client.predictions.get("nothing")
    assert prediction.value.status == 404
    with pytest.raises(ReplicateError) as webhook:
        client.models.predictions.create(LLAMA, asked(), webhook="http://10.0.0.1/")
    assert webhook.value.status == 422 and "webhook" in (webhook.value.detail or "")


def test_a_version_has_the_schema_of_an_iterator(client: replicate.Client, version: str) -> None:
    found = Versions(client, LLAMA).get(version)
    assert found.id == version and len(version) == 64
    schemas = found.openapi_schema["components"]["schemas"]
    assert schemas["Output"]["x-cog-array-type"] == "iterator"
    assert schemas["Input"]["required"] == ["prompt"]
    assert schemas["Input"]["properties"]["max_tokens"]["default"] == 512
    with pytest.raises(ReplicateError, match="404"):
        Versions(client, LLAMA).get("1" * 64)


def test_a_model_is_found_with_its_version(client: replicate.Client, version: str) -> None:
    model = client.models.get(LLAMA)
    assert model.latest_version is not None and model.latest_version.id == version
    assert "".join(client.run(model, input=asked(seed=1))) == SAYINGS[1]
    assert "".join(client.run(model.latest_version, input=asked(seed=1))) == SAYINGS[1]


def test_account_and_hardware(client: replicate.Client) -> None:
    assert client.accounts.current().username == "cadran"
    assert [hardware.sku for hardware in client.hardware.list()] == ["cpu"]


def test_the_asynchronous_client_runs_streams_and_cancels(spoken: LiveServer, unhurried: LiveServer) -> None:
    async def work() -> None:
        client, patient = make_client(spoken), make_client(unhurried)
        assert "".join(await client.async_run(LLAMA, input=asked(seed=2))) == SAYINGS[2]
        said = [str(event) async for event in await client.async_stream(LLAMA, input=asked(seed=2))]
        assert "".join(said) == SAYINGS[2]
        created = await patient.models.predictions.async_create(LLAMA, LONG)
        await created.async_cancel()
        assert created.status == "canceled"

    asyncio.run(work())
    unhurried.settle()
