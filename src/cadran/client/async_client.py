"""The client for programs on an event loop; its methods mean what those of ``client`` mean."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from types import TracebackType
from typing import Any

import httpx

from cadran.client.client import TIMEOUT
from cadran.client.wire import (
    Answer,
    Piece,
    Prompt,
    chat_request,
    read_answer,
    read_line,
    refusal,
    server_url,
    unreachable,
)


class AsyncClient:
    """A server of Cadran from Python.

    ``print(await AsyncClient().chat("smollm2", "What is the capital of France?"))``

    Args:
        url: of the server, with or without ``/v1``.
        api_key: what ``cadran keys add`` printed; None where the server wants none.
        transport: for tests; None opens connections.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        api_key: str | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = server_url(url)
        headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._http = httpx.AsyncClient(base_url=self.url, headers=headers, timeout=TIMEOUT, transport=transport)

    async def models(self) -> list[str]:
        """Names of the models that the server has.

        Raises:
            ServerError: it cannot be reached, or refuses.
        """
        return [str(model["id"]) for model in await self.described_models()]

    async def described_models(self) -> list[dict[str, Any]]:
        """The same with all that the server tells of each.

        Raises:
            ServerError: as ``models``.
        """
        return list((await self._ask("GET", "/v1/models"))["data"])

    async def chat(self, model: str, prompt: Prompt, **options: Any) -> Answer:
        """A whole answer.

        Args:
            model: as the server calls it.
            prompt: one question, or the messages of a conversation.
            options: fields of OpenAI's request: ``temperature``, ``max_tokens``, ``tools``, ``response_format``, ...

        Raises:
            ServerError: the server cannot be reached, or refuses.
        """
        body = chat_request(model, prompt, options, stream=False)
        return read_answer(await self._ask("POST", "/v1/chat/completions", body))

    async def stream(self, model: str, prompt: Prompt, **options: Any) -> AsyncGenerator[Piece, None]:
        """An answer in pieces; closing the generator stops the server's work on it.

        Args:
            model: as for ``chat``, like the rest.
            prompt: see there.
            options: see there.

        Raises:
            ServerError: as ``chat``, or the answer failed on its way.
        """
        body = chat_request(model, prompt, options, stream=True)
        try:
            async with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code >= 400:
                    raise refusal(response.status_code, await response.aread(), self.url)
                async for line in response.aiter_lines():
                    if (piece := read_line(line)) is not None:
                        yield piece
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from error

    async def embed(self, model: str, texts: Sequence[str]) -> list[list[float]]:
        """Texts as vectors of length one.

        Raises:
            ServerError: as ``chat``.
        """
        body = {"model": model, "input": list(texts), "encoding_format": "float"}
        found = (await self._ask("POST", "/v1/embeddings", body))["data"]
        return [row["embedding"] for row in sorted(found, key=lambda row: row["index"])]

    async def tokenize(self, model: str, text: str) -> list[int]:
        """The ids of a text, without those that a model puts before it.

        Raises:
            ServerError: as ``chat``.
        """
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        return [int(id) for id in (await self._ask("POST", "/tokenize", body))["tokens"]]

    async def rate(self, rating: Mapping[str, Any]) -> None:
        """Say what people thought of an answer; see ``align.ratings`` for the fields. It is kept when this returns.

        Raises:
            ServerError: as ``chat``.
        """
        await self._ask("POST", "/api/votes", dict(rating))

    async def _ask(self, method: str, path: str, body: object = None) -> Any:
        try:
            response = await self._http.request(method, path, json=body)
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from error
        if response.status_code >= 400:
            raise refusal(response.status_code, response.content, self.url)
        return response.json()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
