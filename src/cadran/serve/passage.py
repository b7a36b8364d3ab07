"""One request on its way through the server: who asks, where it went, what was computed for it.

The gate makes it; whatever is computed on behalf of the request, also in tasks that outlive it, finds it as
``current_passage``, because tasks inherit their context.
"""

from collections.abc import Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from cadran.serve.computed import Computed
from cadran.serve.state.api_key import KnownKey

_current: ContextVar["Passage | None"] = ContextVar("cadran_passage", default=None)


@dataclass(slots=True)
class Passage:
    """A request.

    Attributes:
        id: of it.
        method: GET, POST, ...; "other" for what HTTP does not know.
        scope: of ASGI.
        begun: when it came, by ``time.perf_counter``.
        key: whose it is; None where no key is needed.
        status: of the answer; 0 before, 499 when the client left.
        computed: what was computed for it so far.
        prompts: what was asked, when the log wants it.
        over: whether the answer was sent.
    """

    id: str
    method: str
    scope: Mapping[str, Any]
    begun: float = field(default_factory=perf_counter)
    key: KnownKey | None = None
    status: int = 0
    computed: list[Computed] = field(default_factory=list)
    prompts: list[Any] = field(default_factory=list)
    over: bool = False

    @property
    def route(self) -> str:
        """Template of the path; "" for one that is nobody's, or while it is not known yet."""
        return str(getattr(self.scope.get("route"), "path", ""))

    @property
    def seconds(self) -> float:
        """Since it came."""
        return perf_counter() - self.begun


def current_passage() -> Passage | None:
    """The request that is being worked for; None outside of one."""
    return _current.get()


def enter(passage: Passage) -> Token[Passage | None]:
    """Work for a request from now on, in this context, until ``leave``."""
    return _current.set(passage)


def leave(token: Token[Passage | None]) -> None:
    """Work for it no more."""
    _current.reset(token)
