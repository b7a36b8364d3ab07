"""How the OpenAI family says no. Source: api-contracts 1.4."""

import math

from cadran.serve.answering import JSON
from cadran.serve.api_error import ApiError, Kind

_STATUS: dict[Kind, tuple[int, str, str | None]] = {
    "invalid": (400, "invalid_request_error", None),
    "too_long": (400, "invalid_request_error", "context_length_exceeded"),
    "authentication": (401, "authentication_error", "invalid_api_key"),
    "permission": (403, "permission_error", None),
    "not_found": (404, "not_found_error", None),
    "conflict": (409, "invalid_request_error", None),
    "too_large": (413, "invalid_request_error", None),
    "limited": (429, "rate_limit_error", "rate_limit_exceeded"),
    "overloaded": (429, "rate_limit_error", "overloaded"),
    "draining": (503, "server_error", "draining"),
    "timeout": (504, "server_error", "timeout"),
    "unsupported": (400, "invalid_request_error", None),
    "internal": (500, "server_error", None),
}


def error_body(error: ApiError) -> dict[str, object]:
    """The body, also of an error in a stream."""
    _, type, code = _STATUS[error.kind]
    return {"error": {"message": error.message, "type": type, "param": error.param, "code": error.code or code}}


def refuse(error: ApiError, request_id: str) -> JSON:
    """The answer; a failure that would only repeat itself is marked so that clients do not try again."""
    status, _, _ = _STATUS[error.kind]
    headers = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    if error.kind in ("internal", "unsupported"):
        headers["x-should-retry"] = "false"
    return JSON(error_body(error), status_code=status, headers=headers)
