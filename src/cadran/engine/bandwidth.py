"""How fast this machine reads memory: the bound of decoding, which reads every weight for each token."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

BYTES = 512 << 20
"""Read at a time: many times the last cache of desktop machines."""
REPEATS = 5


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Measured.

    Attributes:
        bytes_per_second: the best of some readings.
        by: ``native``, or ``numpy`` where the native core is not there; the latter may fall short of what is possible.
    """

    bytes_per_second: float
    by: Literal["native", "numpy"]


def read_bandwidth(threads: int, size: int | None = None, repeats: int = REPEATS) -> Bandwidth:
    """Measure it now.

    Args:
        threads: that read at the same time.
        size: bytes read by them together; None takes ``BYTES``, or an eighth of the free memory if that is less.
        repeats: readings, of which the best counts: others can only take bandwidth away.
    """
    import psutil

    if size is None:
        size = max(1 << 20, min(BYTES, int(psutil.virtual_memory().available) // 8))
    native = _native_reader()
    if native is not None:
        return Bandwidth(native(threads, size, repeats), "native")
    return Bandwidth(_by_numpy(threads, size, repeats), "numpy")


def _native_reader() -> Callable[[int, int, int], float] | None:
    import ctypes

    try:
        from cadran.engine.native.library import available, library

        if not available():
            return None
        function = library().cadran_read_bandwidth
    except (ImportError, AttributeError):
        return None
    function.restype, function.argtypes = ctypes.c_double, [ctypes.c_int, ctypes.c_size_t, ctypes.c_int]
    return lambda threads, size, repeats: float(function(threads, size, repeats))


def _by_numpy(threads: int, size: int, repeats: int) -> float:
    import numpy as np

    # Sums of integers run at the speed of memory and let other threads work meanwhile.
    stripes = [np.ones(max(1, size // 8 // threads), np.int64) for _ in range(threads)]
    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(repeats + 1):  # the first one starts the threads
            start = time.perf_counter()
            list(pool.map(np.add.reduce, stripes))
            best = min(best, time.perf_counter() - start)
    return sum(stripe.nbytes for stripe in stripes) / best
