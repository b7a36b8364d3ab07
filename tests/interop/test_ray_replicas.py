"""The application as two replicas of a Ray Serve deployment on this machine."""

import os
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))

from tiny import tiny_model

from cadran.serve.cluster import deployment
from cadran.serve.settings import ServeSettings

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'cadran[cluster]'")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray import serve

    folder = tmp_path_factory.mktemp("ray")
    model = tiny_model(folder / "tiny")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        settings = ServeSettings(models=[str(model)], database=f"sqlite:///{folder / 'shared.db'}", threads=1)
        serve.run(deployment(settings, replicas=2, cores=0.5), name="cadran", route_prefix="/")
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


def test_every_replica_gives_the_same_answer(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

    def ask(_: int) -> str:
        said = client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "Ça va ?"}], max_tokens=12, seed=4
        )
        return said.choices[0].message.content or ""

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ask, range(24)))) == 1


def test_a_stream_passes_through(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "Ça va ?"}], "max_tokens": 12, "seed": 4}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    pieces = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**asked, stream=True)]
    assert "".join(pieces) == whole and len(pieces) > 2


def test_what_one_replica_stores_the_other_finds(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    made = client.responses.create(model="tiny", input="Ça va ?", max_output_tokens=8)
    found = {client.responses.retrieve(made.id).output_text for _ in range(12)}
    assert found == {made.output_text}


def test_requests_reach_both_replicas(url: str) -> None:
    def born(_: int) -> str:
        metrics = httpx.get(f"{url}/metrics", timeout=30).text.splitlines()
        return next(line for line in metrics if "_created" in line and not line.startswith("#"))

    with ThreadPoolExecutor(8) as pool:
        assert len({line.rpartition(" ")[2] for line in pool.map(born, range(60))}) == 2
