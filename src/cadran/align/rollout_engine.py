"""Where rollouts come from: the policy in place, run by PyTorch, or its weights repacked for the compiled core.

Each draw gets a runner of its own. Keys and values of the weights before an update are never seen by the weights after
it, because the blocks that hold them, and the tree that remembers them, end with the draw.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal, Protocol

from cadran.engine.native.layout import Kind
from cadran.engine.native.library import Unavailable
from cadran.engine.native.repack import Repacked
from cadran.engine.runner import Runner
from cadran.engine.threads import usable_threads
from cadran.engine.torch_runner import TorchRunner
from cadran.errors import UserError
from cadran.model.transformer import Transformer

BLOCK_SIZE = 32
MOST_POSITIONS = 65_536
"""For which the cache has blocks at most; answers beyond that wait for others to end."""

Precision = Literal["int8", "f32"]


class RolloutSource(Protocol):
    """Gives a runner of the policy as it stands.

    Attributes:
        name: ``torch``, ``native int8`` or ``native f32``, for reports.
    """

    name: str

    def runner(self, sequences: int, positions: int) -> AbstractContextManager[Runner]:
        """A runner with the current weights and an empty cache, closed afterwards.

        Args:
            sequences: how many will be under way.
            positions: of the longest, prompt and answer.
        """
        ...


class TorchRollouts:
    """The policy itself, adapter and all, in evaluation mode while it draws.

    Args:
        model: the one that is trained.
    """

    name = "torch"

    def __init__(self, model: Transformer) -> None:
        self.model = model

    @contextmanager
    def runner(self, sequences: int, positions: int) -> Iterator[Runner]:
        """See ``RolloutSource.runner``."""
        training = self.model.training
        self.model.eval()
        blocks = _blocks(sequences, positions, self.model.config.context)
        runner = TorchRunner(self.model, blocks=blocks, block_size=BLOCK_SIZE)
        try:
            yield runner
        finally:
            runner.close()
            self.model.train(training)


class NativeRollouts:
    """A copy of the policy in the compiled core: adapters merged, matrices in float32 or rounded to INT8 blocks.

    Rounded weights are another policy than the one that is trained, by a little: the importance correction makes up
    for it, and the figure ``mismatch`` says how much it was.

    Args:
        model: the one that is trained; its weights are in floating point.
        precision: ``int8`` (Q8_0, half the time of a step or less) or ``f32``.
        activations: what the core multiplies integer weights by, ``int16`` or ``int8``.
        threads: None takes what the process may use.

    Raises:
        Unavailable: there is no core, or it does not run this architecture.
        UserError: there is no such precision.
    """

    def __init__(
        self,
        model: Transformer,
        precision: Precision = "int8",
        *,
        activations: Literal["int16", "int8"] = "int16",
        threads: int | None = None,
    ) -> None:
        from cadran.engine.native.library import library

        if precision not in ("int8", "f32"):
            raise UserError(f"rollouts cannot be drawn in {precision!r}; choose int8 or f32")
        library()
        self.name = f"native {precision}"
        self.activations, self.threads = activations, threads or usable_threads()
        self._exact = precision == "f32"
        self._copy = Repacked(model, Kind.F32 if self._exact else Kind.I8)
        self._context = model.config.context

    @contextmanager
    def runner(self, sequences: int, positions: int) -> Iterator[Runner]:
        """See ``RolloutSource.runner``; the weights that changed since the last time are packed first."""
        from cadran.engine.native.runner import NativeRunner

        packed, path = self._copy.refresh()
        blocks = _blocks(sequences, positions, self._context)
        kv = "f32" if self._exact else "f16"
        runner = NativeRunner(packed, path, self.threads, None, kv, blocks, self.activations)
        try:
            yield runner
        finally:
            runner.close()

    def close(self) -> None:
        """Give the copy's memory back."""
        self._copy.close()


def open_rollouts(
    model: Transformer, choice: Literal["auto", "torch", "int8", "f32"] = "auto"
) -> tuple[RolloutSource, str]:
    """The source that was asked for, or PyTorch with the reason why not.

    Args:
        model: the one that is trained.
        choice: ``int8`` and ``f32`` are the compiled core's, ``auto`` is its ``int8``.

    Returns:
        The source, and why it is not the one asked for, else "".

    Raises:
        UserError: there is no such choice.
    """
    if choice not in ("auto", "torch", "int8", "f32"):
        raise UserError(f"rollouts={choice!r} is unknown; choose auto, torch, int8 or f32")
    if choice == "torch":
        return TorchRollouts(model), ""
    try:
        return NativeRollouts(model, "f32" if choice == "f32" else "int8"), ""
    except Unavailable as reason:
        return TorchRollouts(model), str(reason)


def _blocks(sequences: int, positions: int, context: int) -> int:
    """Blocks for a draw: a pure function of its size, not of the memory that happens to be free."""
    each = -(-min(positions, context) // BLOCK_SIZE) + 1
    return max(each + 1, min(sequences * each, MOST_POSITIONS // BLOCK_SIZE))
