"""How fast this machine reads memory: the bound of decoding, which reads every weight for each token."""

import statistics
import time
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
        bytes_per_second: the median of some readings.
        by: ``native``, or ``numpy`` where the native core is not there; the latter may fall short of what is possible.
    """

    bytes_per_second: float
    by: Literal["native", "numpy"]


def read_bandwidth(threads: int, size: int | None = None, repeats: int = REPEATS) -> Bandwidth:
    """Measure it now.

    Args:
        threads: that read at the same time.
        size: bytes read by them together; None takes ``BYTES``, or an eighth of the free memory if that is less.
        repeats: readings, of which the median counts, as it does of what is compared with it.
    """
    import psutil

    if size is None:
        size = max(1 << 20, min(BYTES, int(psutil.virtual_memory().available) // 8))
    from cadran.engine.native.library import available, library

    if available():
        return Bandwidth(float(library().cadran_read_bandwidth(threads, size, repeats)), "native")
    return Bandwidth(_by_numpy(threads, size, repeats), "numpy")


def _by_numpy(threads: int, size: int, repeats: int) -> float:
    import numpy as np

    # Sums of integers run at the speed of memory and let other threads work meanwhile.
    stripes = [np.ones(max(1, size // 8 // threads), np.int64) for _ in range(threads)]
    seconds: list[float] = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(repeats + 1):  # the first one starts the threads
            start = time.perf_counter()
            list(pool.map(np.add.reduce, stripes))
            seconds.append(time.perf_counter() - start)
    return sum(stripe.nbytes for stripe in stripes) / statistics.median(seconds[1:])
