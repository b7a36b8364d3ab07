"""A model that is open: its engine and what the APIs want to know of it."""

from dataclasses import dataclass, field
from functools import cached_property
from time import monotonic

from cadran.engine.engine import Engine
from cadran.serve.ide.fim_prompt import FimTokens, find_fim
from cadran.serve.known_model import KnownModel
from cadran.serve.tools.output_format import OutputFormat


@dataclass
class ServedModel:
    """Held by the shelf; in use while ``users`` is above 0.

    Attributes:
        known: which model it is.
        engine: open.
        loading_seconds: what opening it took.
        users: requests under way.
        last_used: when the last one ended, by ``time.monotonic``.
        keep_alive: seconds that it stays open without requests; None for ever.
        base: the open model whose weights it shares, in use for as long; None where it has its own.
    """

    known: KnownModel
    engine: Engine
    loading_seconds: float = 0.0
    users: int = 0
    last_used: float = field(default_factory=monotonic)
    keep_alive: float | None = None
    base: "ServedModel | None" = None

    @cached_property
    def output(self) -> OutputFormat:
        """How it writes reasoning and calls."""
        return OutputFormat(self.engine)

    @cached_property
    def fim(self) -> FimTokens | None:
        """How it is asked to fill in the middle; None when it was not taught to."""
        return find_fim(self.engine, self.known.path)

    @property
    def expires(self) -> float | None:
        """When it will be closed, by ``time.monotonic``, if nobody asks; None for never or while it is in use."""
        return None if self.keep_alive is None or self.users else self.last_used + self.keep_alive
