"""LoRA adapters of the native core: repacked, given to a runner, and taken from it again."""

from collections.abc import Callable, Generator
from pathlib import Path

from cadran.engine.runner import Runner
from cadran.engine.scheduler import Scheduler
from cadran.errors import UserError

Work = Callable[[Scheduler], Generator[None, None, int]]
"""A job of ``ComputeThread``: nothing else happens to the runner meanwhile."""


class NoSharingError(UserError):
    """This adapter cannot act upon some requests of a model and not upon others."""


def add_adapter(runner: Runner, model: Path, folder: Path) -> int:
    """Give an adapter to a runner of the native core.

    Args:
        runner: ready, and of nobody else meanwhile.
        model: that the runner runs.
        folder: of the adapter, in PEFT's format.

    Returns:
        Its number, for ``Batch.adapters``.

    Raises:
        NoSharingError: it is not the native core's runner, or the core does not know such adapters.
        UserError: it is no adapter, or it is another model's.
    """
    path = _repacked(runner, model, folder)
    return _added(runner, path)


def attaching(runner: Runner, model: Path, folder: Path) -> Work:
    """As ``add_adapter`` while the runner works; repacks at once, in the calling thread."""
    path = _repacked(runner, model, folder)

    def work(scheduler: Scheduler) -> Generator[None, None, int]:
        yield from ()
        return _added(runner, path)

    return work


def detaching(runner: Runner, number: int) -> Work:
    """End what is answered with an adapter, and take it from the runner."""
    from cadran.engine.native.runner import NativeRunner

    def work(scheduler: Scheduler) -> Generator[None, None, int]:
        scheduler.forget(number)
        yield  # the answers are told of their end
        assert isinstance(runner, NativeRunner)
        runner.drop_adapter(number)
        return number

    return work


def _repacked(runner: Runner, model: Path, folder: Path) -> Path:
    if runner.name != "native":
        raise NoSharingError("only the native core applies several adapters to one model; open it with runner native")
    from cadran.engine.native.adapter import ensure_packed_adapter
    from cadran.engine.native.library import Unavailable

    try:
        return ensure_packed_adapter(model, folder)
    except Unavailable as reason:
        raise NoSharingError(f"{reason}; open the model anew with this adapter alone") from reason


def _added(runner: Runner, path: Path) -> int:
    from cadran.engine.native.packed_file import read_packed
    from cadran.engine.native.runner import NativeRunner

    assert isinstance(runner, NativeRunner)
    packed = read_packed(path)
    if packed is None:
        path.unlink(missing_ok=True)
        raise UserError(f"the repacked adapter at {path} was damaged and is removed; try again")
    return runner.add_adapter(packed, path.read_bytes())
