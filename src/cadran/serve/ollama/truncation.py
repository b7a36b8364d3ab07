"""Shortening a request that is longer than the context, for clients that ask for it: ``truncate`` is true.

Nothing is ever left out unasked.
"""

import asyncio
from dataclasses import replace

from cadran.serve.asked import GenerateRequest, Message
from cadran.serve.service import Service
from cadran.tokenizer.tokenizer import Tokenizer

ANSWER = 256
"""Tokens that are kept free for an answer of no stated length, where the context has twice as many."""


async def truncated(service: Service, asked: GenerateRequest) -> GenerateRequest:
    """The request with as much of its end as fits: whole turns from a user's turn on, and the leading system message.

    Of a single turn, or of a text, the beginning goes.

    Raises:
        ApiError: as ``Service.begin``.
    """
    async with service.shelf.lend(service.shelf.resolve(asked.model, asked.adapter)) as served:
        context = min(served.engine.context, asked.context or served.engine.context)
        tokenizer = served.engine.tokenizer
        room = max(context - min(asked.max_tokens or ANSWER, context // 2), 1)
        excess = len(await service.prompt_ids(asked)) - room
        if excess <= 0:
            return asked
        if asked.messages is None:
            ids = await service.prompt_ids(asked)
            opening = len(served.engine.opening_ids) if isinstance(asked.prompt, str) else 0
            return replace(asked, prompt=(*ids[:opening], *ids[opening + excess :]))
        messages = asked.messages
        first = 1 if messages[0]["role"] == "system" else 0
        starts = [n for n in range(first + 1, len(messages)) if messages[n]["role"] == "user"]

        def from_(start: int) -> GenerateRequest:
            return replace(asked, messages=(*messages[:first], *messages[start:]))

        fitting, low, high = None, 0, len(starts)
        while low < high:  # the fewest turns are left out
            middle = (low + high) // 2
            shorter = from_(starts[middle])
            if len(await service.prompt_ids(shorter)) <= room:
                fitting, high = shorter, middle
            else:
                low = middle + 1
        if fitting is not None:
            return fitting
        shorter = from_(starts[-1]) if starts else asked
        for _ in range(3):  # a text that was cut may be encoded into a few tokens more
            excess = len(await service.prompt_ids(shorter)) - room
            if excess <= 0:
                break
            assert shorter.messages is not None
            cut = await asyncio.to_thread(_cut, shorter.messages, tokenizer, excess)
            shorter = replace(shorter, messages=cut)
        return shorter


def _cut(messages: tuple[Message, ...], tokenizer: Tokenizer, excess: int) -> tuple[Message, ...]:
    """The messages with so many tokens less at the beginning of the longest."""
    longest = max(range(len(messages)), key=lambda n: len(str(messages[n]["content"])))
    ids = tokenizer.encode(str(messages[longest]["content"]))
    shorter = {**messages[longest], "content": tokenizer.decode(ids[excess:]).lstrip("\ufffd")}
    return (*messages[:longest], shorter, *messages[longest + 1 :])
