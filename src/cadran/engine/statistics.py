"""An engine's figures at a glance, for metrics."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Statistics:
    """Read while the engine works, so the figures may be a step apart from each other.

    Attributes:
        blocks: of keys and values there are.
        blocks_used: that answers have; those that only remember prefixes do not count.
        preempted: how often an answer lost its blocks to an older one.
        drafted: tokens that were guessed.
        accepted: of them, right.
    """

    blocks: int
    blocks_used: int = 0
    preempted: int = 0
    drafted: int = 0
    accepted: int = 0
