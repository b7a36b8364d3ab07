"""What ``system_fingerprint`` says: the same weights, computed in the same way by the same version of Cadran."""

import hashlib

from cadran import __version__
from cadran.errors import UserError
from cadran.serve.served_model import ServedModel
from cadran.serve.settings import ServeSettings


def fingerprint(served: ServedModel, settings: ServeSettings) -> str:
    """Short and cheap: of the version, the files' place and time, and how they are computed; no weight is read."""
    known = served.known
    try:
        written = known.created
    except (UserError, OSError, ValueError):  # the files were moved away while the model is open
        written = 0.0
    told = (
        __version__, str(known.path), str(known.adapter), written, served.engine.context,
        type(served.engine.runner).__name__, settings.kv, settings.activations,
    )  # fmt: skip
    return f"fp_{hashlib.sha256(repr(told).encode()).hexdigest()[:10]}"
