"""A model behind a server, for ``cadran chat --url``: what ``Conversation`` asks of an engine, asked over HTTP."""

from collections.abc import Generator, Sequence

from cadran.client.client import Client
from cadran.client.wire import Message, Piece
from cadran.engine.sampler import SamplingParams
from cadran.errors import UserError


class RemoteModel:
    """One model of a server.

    Args:
        client: of the server.
        name: of the model; None takes the first of the list.

    Raises:
        UserError: the server cannot be reached, or has no such model.
    """

    chats = True
    runner_reason = ""

    def __init__(self, client: Client, name: str | None = None) -> None:
        described = client.described_models()
        names = [str(model["id"]) for model in described]
        if not names:
            raise UserError("the server has no model; pull one there with cadran pull smollm2")
        if name is not None and name not in names:
            raise UserError(f"the server has no model {name}; those there are: {', '.join(names)}")
        self.name = name or names[0]
        self._client = client
        found = described[names.index(self.name)]
        self.context = int(found.get("max_model_len") or 0)

    def chat(
        self, messages: Sequence[Message], params: SamplingParams, stop: Sequence[str] = ()
    ) -> Generator[Piece, None, None]:
        """An answer in pieces, each with its ``text``; closing it stops the server's work."""
        return self._client.stream(
            self.name, messages, temperature=params.temperature, top_p=params.top_p, top_k=params.top_k,
            min_p=params.min_p, repetition_penalty=params.repetition_penalty, seed=params.seed,
            max_tokens=params.max_tokens, stop=list(stop) or None,
        )  # fmt: skip

    def generate(self, text: str, params: SamplingParams, stop: Sequence[str] = ()) -> Generator[Piece, None, None]:
        """As ``chat``, of one turn."""
        return self.chat([{"role": "user", "content": text}], params, stop)
