"""The client for programs that wait. ``async_client`` is the same for those that do not."""

from collections.abc import Generator, Mapping, Sequence
from types import TracebackType
from typing import Any

import httpx

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

TIMEOUT = httpx.Timeout(600, connect=10)
"""Seconds; a long prompt on a slow machine takes minutes before its first token."""


class Client:
    """A server of Cadran from Python.

    ``print(Client().chat("smollm2", "What is the capital of France?"))``

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
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = server_url(url)
        headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=TIMEOUT, transport=transport)

    def models(self) -> list[str]:
        """Names of the models that the server has.

        Raises:
            ServerError: it cannot be reached, or refuses.
        """
        return [str(model["id"]) for model in self.described_models()]

    def described_models(self) -> list[dict[str, Any]]:
        """The same with all that the server tells of each.

        Raises:
            ServerError: as ``models``.
        """
        return list((self._ask("GET", "/v1/models"))["data"])

    def chat(self, model: str, prompt: Prompt, **options: Any) -> Answer:
        """A whole answer.

        Args:
            model: as the server calls it.
            prompt: one question, or the messages of a conversation.
            options: fields of OpenAI's request: ``temperature``, ``max_tokens``, ``tools``, ``response_format``, ...

        Raises:
            ServerError: the server cannot be reached, or refuses.
        """
        return read_answer(
            self._ask("POST", "/v1/chat/completions", chat_request(model, prompt, options, stream=False))
        )

    def stream(self, model: str, prompt: Prompt, **options: Any) -> Generator[Piece, None, None]:
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
            with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code >= 400:
                    raise refusal(response.status_code, response.read(), self.url)
                for line in response.iter_lines():
                    if (piece := read_line(line)) is not None:
                        yield piece
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from error

    def embed(self, model: str, texts: Sequence[str]) -> list[list[float]]:
        """Texts as vectors of length one.

        Raises:
            ServerError: as ``chat``.
        """
        body = {"model": model, "input": list(texts), "encoding_format": "float"}
        found = self._ask("POST", "/v1/embeddings", body)["data"]
        return [row["embedding"] for row in sorted(found, key=lambda row: row["index"])]

    def tokenize(self, model: str, text: str) -> list[int]:
        """The ids of a text, without those that a model puts before it.

        Raises:
            ServerError: as ``chat``.
        """
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        return [int(id) for id in self._ask("POST", "/tokenize", body)["tokens"]]

    def rate(self, rating: Mapping[str, Any]) -> None:
        """Say what people thought of an answer; see ``align.ratings`` for the fields. It is kept when this returns.

        Raises:
            ServerError: as ``chat``.
        """
        self._ask("POST", "/api/votes", dict(rating))

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        try:
            response = self._http.request(method, path, json=body)
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from error
        if response.status_code >= 400:
            raise refusal(response.status_code, response.content, self.url)
        return response.json()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
