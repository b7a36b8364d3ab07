"""How the Replicate family says no: problem details. Source: RFC 7807; api-contracts 6.4 and 6.5."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cadran.serve.answering import JSON
from cadran.serve.api_error import ApiError, Kind

_STATUS: dict[Kind, tuple[int, str]] = {
    "invalid": (400, "Bad request"),
    "too_long": (400, "Input too long"),
    "authentication": (401, "Unauthenticated"),
    "permission": (403, "Forbidden"),
    "not_found": (404, "Not found"),
    "conflict": (409, "Conflict"),
    "too_large": (413, "Request too large"),
    "limited": (429, "Too many requests"),
    "overloaded": (429, "Too many requests"),
    "draining": (503, "Service unavailable"),
    "timeout": (504, "Timed out"),
    "unsupported": (422, "Not supported"),
    "internal": (500, "Internal server error"),
}


@dataclass(frozen=True, slots=True)
class InvalidField:
    """What is wrong with one field of an input.

    Attributes:
        type: of the mistake, such as ``required``, ``invalid_type`` or ``number_lte``.
        field: its place, such as ``input.temperature``.
        description: what it must be.
    """

    type: str
    field: str
    description: str

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {"type": self.type, "field": self.field, "description": self.description}


class InvalidInput(ApiError):
    """An input with fields that are wrong.

    Args:
        fields: those, one at least.
    """

    def __init__(self, fields: Sequence[InvalidField]) -> None:
        said = "; ".join(f"{field.field}: {field.description}" for field in fields)
        super().__init__("invalid", said, param=fields[0].field)
        self.fields = tuple(fields)


def refuse(error: ApiError, request_id: str) -> JSON:
    """The answer. A request with a field that is wrong is 422 and names it; what cannot be read at all is 400."""
    status, title = _STATUS[error.kind]
    body: dict[str, Any] = {"title": title, "detail": error.message, "status": status}
    fields: Sequence[InvalidField] = ()
    if isinstance(error, InvalidInput):
        fields = error.fields
    elif error.kind == "invalid" and error.param is not None:
        fields = [InvalidField("invalid", error.param, error.message)]
    if fields:
        status = 422
        detail = "".join(f"- {field.field}: {field.description}\n" for field in fields)
        body = {"title": "Input validation failed", "detail": detail, "status": status}
        body["invalid_fields"] = [field.to_json() for field in fields]
    headers = {} if error.retry_after is None else {"retry-after": f"{error.retry_after:.0f}"}
    return JSON(body, status_code=status, headers=headers, media_type="application/problem+json")
