"""What one rendering of a chat template may use: steps, memory and processor time.

A template comes with a checkpoint, so it may be hostile, and Jinja alone ends no loop. Every operation of the sandbox
pays here before it works: a step for itself, its bytes for what it makes. The prices are counted, not measured, so the
same template meets the same limit on every machine; the processor time of the thread is only the last fence. Nothing
is ever paid back: the sum of all that was made bounds what can be alive at once.
"""

import time
from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from itertools import chain
from typing import Any

STEPS = 1_000_000  # a template of today takes some fifty for each message
SECONDS = 1.5  # of this thread's processor time
LARGEST = 1 << 20  # bytes of one value, beside 24 times what the template was given
TOTAL = 64 << 20  # bytes made in all, beside 128 times what the template was given
DEEPEST = 100  # values inside values; the C code behind hash() has no limit of its own
LONGEST_NUMBER = 4096  # bits
LAZIEST = 50  # generators reading generators

_LOOK = 32  # steps between two looks at the clock
_CONTAINERS = (list, tuple, dict, set, frozenset, KeysView, ValuesView, ItemsView)


class OverBudget(Exception):
    """A template used more than it may; the message says what."""


class Meter:
    """The budget of one rendering.

    Args:
        given: what the template is given to read; long conversations buy a larger budget.
    """

    def __init__(self, given: Any = None) -> None:
        self._weights: dict[int, tuple[Any, int, int]] = {}  # the value is kept, so that its id stays its own
        self._steps = self._look = STEPS
        self._until = time.thread_time() + SECONDS
        bytes_given = self._weigh(given, 0)[0]
        self.largest = LARGEST + 24 * bytes_given
        self._bytes = TOTAL + 128 * bytes_given
        self._steps = STEPS + bytes_given // 16
        self._look = self._steps - _LOOK

    def step(self, count: int = 1) -> None:
        """Pay for work: about a microsecond a step.

        Raises:
            OverBudget: no step is left, or no time.
        """
        self._steps -= count
        if self._steps < self._look:
            if self._steps < 0:
                raise OverBudget("it works without end")
            if time.thread_time() > self._until:
                raise OverBudget(f"it works for more than {SECONDS} seconds")
            self._look = self._steps - _LOOK

    def fits(self, size: int) -> None:
        """Refuse a value of ``size`` bytes before it is made.

        Raises:
            OverBudget: it is larger than one value may be.
        """
        if size > self.largest:
            raise OverBudget(f"it makes a value of {size:,} bytes" if size < 1 << 60 else "it makes an endless value")

    def keep(self, size: int) -> None:
        """Pay for a value of ``size`` bytes.

        Raises:
            OverBudget: it is too large, or what was made so far is.
        """
        self.fits(size)
        self._bytes -= size
        if self._bytes < 0:
            raise OverBudget("it takes too much memory")

    def weigh(self, value: Any) -> int:
        """Bytes of a value with all that is in it, each part as often as it can be reached.

        Printing, comparing and hashing walk a value that way, so a list that holds the same list twice, and so on
        fifty times, weighs what its printed form would.

        Raises:
            OverBudget: it is too large to be worked on, or nested too deep.
        """
        size = self._weigh(value, 0)[0]
        self.fits(size)
        return size

    def _weigh(self, value: Any, level: int) -> tuple[int, int]:
        """Bytes and depth; the values of a sandbox never change, so each container is walked once."""
        if isinstance(value, str):
            return text_size(value), 0
        if isinstance(value, int):
            if value.bit_length() > LONGEST_NUMBER:
                raise OverBudget("it makes a number of thousands of digits")
            return 32, 0
        if not isinstance(value, _CONTAINERS):
            return 64, 0
        known = self._weights.get(id(value))
        if known is None:
            if level >= DEEPEST:
                raise OverBudget(f"it nests values more than {DEEPEST} deep")
            self.step(len(value) // 8)
            size, depth = 64, 0
            parts = chain.from_iterable(value.items()) if isinstance(value, dict) else value
            for part in parts:
                part_size, part_depth = self._weigh(part, level + 1)
                size += 16 + part_size
                depth = max(depth, part_depth + 1)
            if depth > DEEPEST:
                raise OverBudget(f"it nests values more than {DEEPEST} deep")
            known = self._weights[id(value)] = (value, size, depth)
        return known[1], known[2]


class Lazy:
    """A generator that pays for each value it gives; true and without a length, as generators are.

    Args:
        source: what to read.
        meter: who pays.
        depth: how many generators stand one behind the other, this one included.

    Raises:
        OverBudget: too many do: freeing such a chain would exhaust the stack.
    """

    __slots__ = ("_meter", "_source", "depth")

    def __init__(self, source: Iterator[Any], meter: Meter, depth: int) -> None:
        if depth > LAZIEST:
            raise OverBudget(f"it chains more than {LAZIEST} generators")
        self._source, self._meter, self.depth = source, meter, depth

    def __iter__(self) -> "Lazy":
        return self

    def __next__(self) -> Any:
        self._meter.step()
        value = next(self._source)
        self._meter.weigh(value)
        return value

    def __repr__(self) -> str:
        return "<generator>"


def text_size(text: str) -> int:
    """Bytes of a string in memory, from above."""
    return 49 + characters_size(text)


def characters_size(text: str) -> int:
    """Bytes of a string's characters, from above: four for each unless all are ASCII."""
    return len(text) if text.isascii() else 4 * len(text)
