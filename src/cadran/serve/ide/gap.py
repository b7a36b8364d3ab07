"""A gap to be filled by a model of the server, made into a prompt that leaves room for the answer."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from cadran.errors import UserError
from cadran.serve.api_error import ApiError
from cadran.serve.ide.fim_prompt import echo_of, fim_of
from cadran.serve.service import Service

ANSWER = 256
"""Tokens that are kept free for an answer of no stated length."""


@dataclass(frozen=True, slots=True)
class Gap:
    """What surrounds it.

    Attributes:
        prefix: text before it.
        suffix: text after it.
        extra: path and text of other files.
        repo: name of the repository.
    """

    prefix: str
    suffix: str
    extra: Sequence[tuple[str, str]] = ()
    repo: str | None = None


@dataclass(frozen=True, slots=True)
class FimPrompt:
    """A gap as the model reads it.

    Attributes:
        ids: of the prompt.
        stop: strings that end the middle.
        stop_ids: ids that end it.
        truncated: whether some of the surroundings did not fit.
    """

    ids: tuple[int, ...]
    stop: tuple[str, ...]
    stop_ids: tuple[int, ...]
    truncated: bool


async def fim_prompt(
    service: Service,
    model: str,
    gap: Gap,
    *,
    answer: int | None = None,
    context: int | None = None,
    adapter: str | None = None,
) -> FimPrompt:
    """Make the prompt; what does not fit is left out, first other files, then the ends of the text around the gap.

    Args:
        service: whose model it is.
        model: name, as the client wrote it.
        gap: to be filled.
        answer: most tokens of the answer; None leaves it open.
        context: most tokens of prompt and answer, where the client wants fewer than the model can.
        adapter: a LoRA adapter by name.

    Raises:
        ApiError: there is no such model, it was not taught to fill in, or a text cannot be encoded.
    """
    async with service.shelf.lend(service.shelf.resolve(model, adapter)) as served:
        fits = min(served.engine.context, context or served.engine.context)
        # An answer may be asked for that is longer than the context: half of it is then for the prompt.
        room = max(fits - min(answer or ANSWER, fits // 2), 1)

        def work() -> FimPrompt:
            fim = fim_of(served)
            if fim is None:
                raise ApiError(
                    "invalid",
                    f"the model {served.known.name} was not taught to fill in the middle; leave the suffix out or "
                    "choose a model of code",
                )
            ids, truncated = fim.fitted(gap.prefix, gap.suffix, extra=gap.extra, room=room, repo=gap.repo)
            return FimPrompt(ids, echo_of(gap.suffix), fim.stop_ids, truncated)

        try:
            return await asyncio.to_thread(work)
        except UserError as error:
            raise ApiError("invalid", str(error)) from error
