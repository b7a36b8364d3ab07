"""Prompts to answer, a pure function of (their fingerprint, seed, iteration): a resume needs to know the step only."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cadran.align.rows import Message
from cadran.engine.loading import Renderer
from cadran.errors import UserError


@dataclass(frozen=True, slots=True)
class RolloutPrompt:
    """A conversation that waits for an answer.

    Attributes:
        ids: as the model reads it, the answer opened.
        messages: the same as ``role`` and ``content``.
        reference: whatever a reward may want to know, such as the right answer; JSON.
        source: names the row in an error.
    """

    ids: tuple[int, ...]
    messages: list[Message]
    reference: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


def rendered_prompt(
    messages: list[Message], reference: Mapping[str, Any], renderer: Renderer, longest: int, source: str
) -> RolloutPrompt:
    """A conversation rendered as the engine renders it, the answer opened.

    Args:
        messages: the last one is the user's (or a tool's).
        reference: what the rewards need.
        renderer: of the model.
        longest: most tokens, so that an answer still fits.
        source: names the row in an error.

    Raises:
        UserError: the conversation waits for no answer, or is too long.
    """
    if not messages or messages[-1]["role"] == "assistant":
        raise UserError(f"{source} waits for no answer; end its messages with a question of the user")
    ids = renderer.render(messages, add_generation_prompt=True).ids
    if len(ids) > longest:
        raise UserError(f"{source} has {len(ids)} tokens and an answer leaves room for {longest}; shorten or drop it")
    return RolloutPrompt(tuple(ids), messages, reference, source)


class PromptLoader:
    """Deals prompts out in seeded order, each once an epoch.

    Args:
        prompts: at least one.
        count: of one iteration; may exceed the number of prompts, which then come several times.
        seed: of the order.

    Raises:
        UserError: there is no prompt, one of them has no token, or the count is not positive.

    Attributes:
        fingerprint: hexadecimal digest of the prompts and their references; another set is ordered otherwise.
    """

    def __init__(self, prompts: Sequence[RolloutPrompt], count: int, seed: int) -> None:
        if not prompts:
            raise UserError("there is no prompt to answer; give at least one row")
        if count < 1:
            raise UserError(f"{count} prompts an iteration are not possible; set prompts=8")
        for number, prompt in enumerate(prompts):
            if not prompt.ids:
                raise UserError(f"the prompt of {prompt.source or f'row {number}'} is empty; give it a question")
        self.prompts, self.count = list(prompts), count
        seen = hashlib.sha256()
        for prompt in prompts:
            about = [list(map(int, prompt.ids)), prompt.messages, dict(prompt.reference)]
            seen.update(json.dumps(about, sort_keys=True, ensure_ascii=False, default=repr).encode() + b"\n")
        self.fingerprint = seen.hexdigest()
        self._seed = [seed % 2**63, int(self.fingerprint[:12], 16)]
        self._epoch: tuple[int, list[int]] = (-1, [])

    def batch(self, iteration: int) -> list[RolloutPrompt]:
        """The prompts of iteration 0, 1, 2, ..., whatever was read before."""
        first = iteration * self.count
        return [self.prompts[self._index(place)] for place in range(first, first + self.count)]

    def _index(self, place: int) -> int:
        epoch, row = divmod(place, len(self.prompts))
        if self._epoch[0] != epoch:
            generator = np.random.Generator(np.random.PCG64([*self._seed, epoch]))
            self._epoch = epoch, generator.permutation(len(self.prompts)).tolist()
        return self._epoch[1][row]
