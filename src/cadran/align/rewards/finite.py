"""The one question asked of whatever a reward function returns: is it a finite number?"""

import math
from typing import Any

_LARGEST = 3e38  # totals are float32


def number_of(value: Any) -> float | None:
    """A finite number as float (True is 1, NumPy's and one-element tensors count); None for anything else."""
    if isinstance(value, str | bytes | bytearray) or not hasattr(value, "__float__"):
        return None
    try:
        number = float(value)
    except Exception:
        return None
    return number if math.isfinite(number) and abs(number) < _LARGEST else None
