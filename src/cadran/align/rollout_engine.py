"""Where rollouts come from: the policy in place, run by PyTorch, or its weights repacked for the compiled core.

Each draw gets a runner of its own. Keys and values of the weights before an update are never seen by the weights after
it, because the blocks that hold them, and the tree that remembers them, end with the draw.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

from cadran.engine.forwarding_runner import ForwardingRunner
from cadran.engine.native.adapter import pack_active
from cadran.engine.native.layout import Kind
from cadran.engine.native.library import Unavailable
from cadran.engine.native.repack import Repacked
from cadran.engine.runner import Batch, Ints, Runner
from cadran.engine.sampler import Sampler
from cadran.engine.threads import usable_threads
from cadran.engine.torch_runner import TorchRunner
from cadran.errors import UserError
from cadran.model.lora import active_adapter
from cadran.model.lora_linear import Adapted
from cadran.model.transformer import Transformer

if TYPE_CHECKING:
    from cadran.engine.native.packed_file import Packed
    from cadran.engine.native.runner import NativeRunner

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
    """A copy of the policy in the compiled core, matrices in float32 or rounded to INT8 blocks.

    Where an adapter is all that is trained, the base is laid out once and stays open, and each draw brings the factors
    of the adapter as they are then, in float32. Else adapters are merged, and what has changed is laid out anew.

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
        self._model, self._context = model, model.config.context
        self._kind = Kind.F32 if self._exact else Kind.I8
        self._copy = Repacked(model, self._kind)
        self._base: _OpenBase | None = None

    @contextmanager
    def runner(self, sequences: int, positions: int) -> Iterator[Runner]:
        """See ``RolloutSource.runner``; what has changed since the last time is packed first."""
        blocks = _blocks(sequences, positions, self._context)
        if (factors := self._factors()) is not None:
            base = self._opened(blocks)
            number = base.add_adapter(*factors)
            try:
                yield Adapting(base, number)
            finally:
                base.drop_adapter(number)
            return
        runner = self._run(self._copy, blocks)
        try:
            yield runner
        finally:
            runner.close()

    def _factors(self) -> "tuple[Packed, bytes] | None":
        """The adapter, when it is all that is trained and the core applies such ones."""
        name = active_adapter(self._model)
        of_adapters = {id(p) for m in self._model.modules() if isinstance(m, Adapted) for p in m.adapters.parameters()}
        if name is None or any(p.requires_grad and id(p) not in of_adapters for p in self._model.parameters()):
            return None
        try:
            return pack_active(self._model, name)
        except Unavailable:
            return None

    def _opened(self, blocks: int) -> "NativeRunner":
        """The base in the core; opened anew when it has changed, or needs more blocks."""
        base = self._base
        if base is None or base.copy.state != base.state or base.runner.blocks < blocks:
            if base is not None:
                base.runner.close()
            copy = Repacked(self._model, self._kind, merged=False)
            base = self._base = _OpenBase(copy, self._run(copy, blocks), copy.state)
            copy.close()  # what runs it has read it
        return base.runner

    def _run(self, copy: Repacked, blocks: int) -> "NativeRunner":
        from cadran.engine.native.runner import NativeRunner

        packed, path = copy.refresh()
        kv = "f32" if self._exact else "f16"
        return NativeRunner(packed, path, self.threads, None, kv, blocks, self.activations)

    def close(self) -> None:
        """Give the copies' memory back."""
        self._copy.close()
        if self._base is not None:
            self._base.runner.close()
            self._base = None


@dataclass(slots=True)
class _OpenBase:
    """A base without its adapter: what it was copied by, what runs it, and of which state of the model it is."""

    copy: Repacked
    runner: "NativeRunner"
    state: list[tuple[int, ...] | None]


class Adapting(ForwardingRunner):
    """A runner that reads every sequence with one adapter; the rest is another's.

    Args:
        runner: that knows the adapter.
        number: of the adapter.
    """

    def __init__(self, runner: Runner, number: int) -> None:
        super().__init__(runner)
        self._number = number

    def step(self, batch: Batch) -> npt.NDArray[np.float32]:
        """See ``Runner.step``."""
        return self._runner.step(self._adapted(batch))

    def hidden(self, batch: Batch) -> npt.NDArray[np.float32]:
        """See ``Runner.hidden``."""
        return self._runner.hidden(self._adapted(batch))

    def burst(self, batch: Batch, samplers: list[Sampler], stops: list[tuple[int, ...]], steps: int) -> Ints:
        """See ``Runner.burst``."""
        return self._runner.burst(self._adapted(batch), samplers, stops, steps)

    def _adapted(self, batch: Batch) -> Batch:
        return replace(batch, adapters=np.full(len(batch.starts) - 1, self._number, np.int32))


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
