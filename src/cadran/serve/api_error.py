"""What may go wrong with a request, in the words of no API in particular; each family has its own status and body."""

from typing import Literal

from cadran.engine.compute_thread import EngineClosedError
from cadran.errors import UserError

Kind = Literal[
    "invalid",  # the request is wrong
    "too_long",  # it does not fit into the model's context
    "authentication",  # no key, or a wrong one
    "permission",  # not allowed, whatever the key
    "not_found",  # no such model, answer or prediction
    "conflict",
    "too_large",  # the body
    "limited",  # this key asks too much
    "overloaded",  # everybody together does
    "draining",  # the server is about to stop
    "timeout",
    "unsupported",  # understood, and not to be had here
    "internal",
]


class ApiError(Exception):
    """A request that is refused, or an answer that failed.

    Args:
        kind: of failure.
        message: one sentence: what is wrong and what to do.
        param: the field of the request that is at fault, as the family names it.
        code: a code that clients look for, such as ``model_not_found``.
        retry_after: seconds after which another attempt makes sense.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.kind, self.message, self.param, self.code, self.retry_after = kind, message, param, code, retry_after

    @classmethod
    def of(cls, error: Exception, param: str | None = None) -> "ApiError":
        """The refusal that an exception of the engine amounts to; its own mistakes are ``internal``.

        Args:
            error: what was raised.
            param: the field that is at fault where the request is.
        """
        if isinstance(error, cls):
            return error
        if isinstance(error, EngineClosedError):  # while somebody waits that happens only when the server stops
            return cls("draining", "the server is stopping; ask another, or try again later", retry_after=5)
        if isinstance(error, UserError):
            return cls("invalid", str(error), param=param)
        return cls("internal", "the server failed on this request; its log says why")
