"""Texts as vectors, for embeddings and for ranking: admitted like any other request, a few texts at a time.

Between two of the batches others are served, and a client that has gone away is noticed.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cadran.engine.engine import Engine
from cadran.errors import UserError
from cadran.serve.api_error import ApiError
from cadran.serve.lent import lent
from cadran.serve.service import Service

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Input = str | Sequence[int]
BATCH = 4096
"""Tokens that are read without looking up."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """What came of it.

    Attributes:
        rows: float32, shape (texts, width), of length one.
        model: its name, as the client wrote it where it did.
        tokens: that were read.
    """

    rows: "NDArray[np.float32]"
    model: str
    tokens: int


async def vectors(
    service: Service, model: str, inputs: Sequence[Input], *, param: str = "input", longest: int | None = None
) -> Vectors:
    """Embed texts: the mean of the final hidden states of each, of length one.

    Args:
        service: whose models and places.
        model: as the client wrote it.
        inputs: texts, or ids of tokens; none empty.
        param: the field they stand in, for complaints.
        longest: tokens after which a text is cut because the client asks for it; None cuts nothing.

    Raises:
        ApiError: no such model, no place; an input is empty, too long or none of the vocabulary's.
    """
    import numpy as np

    async with lent(service, model) as loan:
        engine, rows = loan.served.engine, []
        try:
            sequences = await asyncio.to_thread(_sequences, engine, inputs, param, longest)
            for batch in _batches(sequences):
                loan.read(sum(map(len, batch)) + len(batch) * len(engine.opening_ids))
                rows.append(await asyncio.to_thread(engine.embed, batch))
        except UserError as error:
            raise ApiError.of(error, param) from error
        return Vectors(np.concatenate(rows), model or loan.served.known.name, loan.prompt_tokens)


def _sequences(engine: Engine, inputs: Sequence[Input], param: str, longest: int | None) -> list[list[int]]:
    opening, size = engine.opening_ids, engine.tokenizer.vocabulary_size
    room = engine.context - len(opening)
    sequences = []
    for number, each in enumerate(inputs):
        ids = engine.tokenizer.encode(each) if isinstance(each, str) else list(each)
        if not isinstance(each, str) and ids[: len(opening)] == opening:
            ids = ids[len(opening) :]  # the engine puts it there
        field = param if len(inputs) == 1 else f"{param}.{number}"
        if not ids:
            raise ApiError("invalid", f"{field} is empty; give a text, or leave it out", param=param)
        if not 0 <= min(ids) <= max(ids) < size:
            raise ApiError("invalid", f"{field} has ids outside 0 to {size - 1}; encode it anew", param=param)
        ids = ids[:longest]
        if len(ids) > room:
            raise ApiError(
                "too_long",
                f"{field} has {len(ids)} tokens and this model reads {room}; cut it into pieces",
                param=param,
                code="context_length_exceeded",
            )
        sequences.append(ids)
    return sequences


def _batches(sequences: Sequence[list[int]]) -> list[list[list[int]]]:
    batches: list[list[list[int]]] = []
    room = 0
    for ids in sequences:
        if not batches or len(ids) > room:
            batches.append([])
            room = BATCH
        batches[-1].append(ids)
        room -= len(ids)
    return batches
