"""Keys and sizes as Anthropic's clients meet them: the gate refuses, this family finds the words."""

from collections.abc import Iterator
from pathlib import Path

import anthropic
import httpx
import pytest
from live import LiveServer

from cadran.serve.state.api_key import add_key
from cadran.serve.state.database import Database

HELLO = [{"role": "user", "content": "Hallo"}]
ASKED = {"model": "tiny", "max_tokens": 2, "messages": HELLO}
LIMIT = 20_000


@pytest.fixture(scope="module")
def guarded(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The address of a server that wants a key, and the key."""
    url = f"sqlite:///{tmp_path_factory.mktemp('guarded') / 'state.db'}"
    database = Database(url)
    with database.session() as session:
        key = add_key(session, "somebody")
    database.close()
    live = LiveServer(models=[str(tiny)], database=url, body_limit=LIMIT)
    yield live.url, key
    live.close()


def test_key_comes_as_bearer_or_as_x_api_key(guarded: tuple[str, str]) -> None:
    url, key = guarded
    for headers in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}):
        assert httpx.post(f"{url}/v1/messages", json=ASKED, headers=headers).json()["type"] == "message"
    client = anthropic.Anthropic(base_url=url, api_key=key, max_retries=0)
    assert client.messages.count_tokens(model="tiny", messages=HELLO).input_tokens > 0


def test_wrong_key_is_an_authentication_error(guarded: tuple[str, str]) -> None:
    client = anthropic.Anthropic(base_url=guarded[0], api_key="wrong", max_retries=0)
    with pytest.raises(anthropic.AuthenticationError) as caught:
        client.messages.create(**ASKED)
    assert caught.value.type == "authentication_error" and caught.value.request_id
    assert httpx.head(f"{guarded[0]}/").status_code == 200


def test_large_body_is_413(guarded: tuple[str, str]) -> None:
    client = anthropic.Anthropic(base_url=guarded[0], api_key=guarded[1], max_retries=0)
    with pytest.raises(anthropic.APIStatusError) as caught:
        client.messages.create(model="tiny", max_tokens=2, messages=[{"role": "user", "content": "a" * LIMIT}])
    assert (caught.value.status_code, caught.value.type) == (413, "request_too_large")

    def endless() -> Iterator[bytes]:
        for _ in range(5):
            yield b" " * LIMIT

    headers = {"x-api-key": guarded[1], "content-type": "application/json"}
    answer = httpx.post(f"{guarded[0]}/v1/messages", content=endless(), headers=headers)
    assert answer.status_code == 413 and answer.json()["error"]["type"] == "request_too_large"
