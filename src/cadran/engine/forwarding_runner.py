"""A runner that is another's, for those that change one thing about it."""

import numpy as np
import numpy.typing as npt

from cadran.engine.runner import Batch, Ints, Runner
from cadran.engine.sampler import Sampler


class ForwardingRunner:
    """Passes everything on; see ``cadran.engine.runner.Runner``.

    Args:
        runner: that computes. Whoever opened it closes it.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.name, self.context, self.vocabulary = runner.name, runner.context, runner.vocabulary
        self.width, self.block_size, self.blocks = runner.width, runner.block_size, runner.blocks

    def step(self, batch: Batch) -> npt.NDArray[np.float32]:
        """See ``Runner.step``."""
        return self._runner.step(batch)

    def hidden(self, batch: Batch) -> npt.NDArray[np.float32]:
        """See ``Runner.hidden``."""
        return self._runner.hidden(batch)

    def burst(self, batch: Batch, samplers: list[Sampler], stops: list[tuple[int, ...]], steps: int) -> Ints:
        """See ``Runner.burst``."""
        return self._runner.burst(batch, samplers, stops, steps)

    def copy(self, source: int, target: int, positions: int) -> None:
        """See ``Runner.copy``."""
        self._runner.copy(source, target, positions)

    def read_block(self, block: int) -> bytes:
        """See ``Runner.read_block``."""
        return self._runner.read_block(block)

    def write_block(self, block: int, data: bytes) -> None:
        """See ``Runner.write_block``."""
        self._runner.write_block(block, data)

    def close(self) -> None:
        """Nothing: the runner stays open."""
