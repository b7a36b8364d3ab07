"""``truncation: auto``: the oldest turns of a conversation are left out until it fits. Source: api-contracts 3.1."""

from dataclasses import replace

from cadran.serve.asked import GenerateRequest
from cadran.serve.generation import render
from cadran.serve.service import Service


async def fitted(service: Service, request: GenerateRequest) -> GenerateRequest:
    """The request with as many of its last turns as leave room for an answer; at least half of the context at most.

    Args:
        service: of its model.
        request: with messages. A leading system message stays, and so does what follows the last user message.

    Raises:
        ApiError: as ``Service.prompt_ids``.
    """
    messages = request.messages or ()
    first = 1 if messages and messages[0]["role"] == "system" else 0
    starts = [number for number, message in enumerate(messages) if number >= first and message["role"] == "user"]
    if not starts:
        return request
    if starts[0] != first:
        starts.insert(0, first)
    async with service.shelf.lend(service.shelf.resolve(request.model, request.adapter)) as served:
        context = min(served.engine.context, request.context or served.engine.context)
        room = min(request.max_tokens or context, context // 2)

        def shortened(start: int) -> GenerateRequest:
            return replace(request, messages=(*messages[:first], *messages[start:]))

        low, high = 0, len(starts) - 1  # fewer turns are fewer tokens, so the longest that fits is found by halving
        while low < high:
            middle = (low + high) // 2
            length = len((await render(shortened(starts[middle]), served)).ids)
            low, high = (low, middle) if length + room <= context else (middle + 1, high)
    return shortened(starts[low])
