"""A shelf whose engines are stand-ins that write down when they are opened and closed."""

from typing import Any

from cadran.engine.engine import Engine
from cadran.serve.known_model import KnownModel
from cadran.serve.shelf import Shelf


class Opened:
    """Stands for an engine; counts what is open."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name
        log.append(f"open {name}")

    def close(self) -> None:
        self.log.append(f"close {self.name}")


def shelf_of(models: list[KnownModel], log: list[str], **options: Any) -> Shelf:
    def open(known: KnownModel) -> Engine:
        return Opened(log, known.name)  # type: ignore[return-value]

    return Shelf(lambda: [KnownModel(model.name, model.path, model.aliases) for model in models], open, **options)
