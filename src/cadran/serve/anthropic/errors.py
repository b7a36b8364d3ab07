"""How the Anthropic family says no. Source: api-contracts 5.4."""

from typing import Any

from cadran.serve.answering import JSON
from cadran.serve.api_error import ApiError, Kind

NO_THREADS = "thread_unsupported_request"
"""The code at which clients that keep a conversation on the server send all of it instead."""

_STATUS: dict[Kind, tuple[int, str]] = {
    "invalid": (400, "invalid_request_error"),
    "too_long": (400, "invalid_request_error"),
    "authentication": (401, "authentication_error"),
    "permission": (403, "permission_error"),
    "not_found": (404, "not_found_error"),
    "conflict": (409, "invalid_request_error"),
    "too_large": (413, "request_too_large"),
    "limited": (429, "rate_limit_error"),
    "overloaded": (529, "overloaded_error"),
    "draining": (529, "overloaded_error"),
    "timeout": (504, "timeout_error"),
    "unsupported": (400, "invalid_request_error"),
    "internal": (500, "api_error"),
}


def error_body(error: ApiError, request_id: str) -> dict[str, Any]:
    """The body, also of an error in a stream. There is no place for the field at fault but the message."""
    message = error.message
    if error.kind == "too_long":
        message = f"prompt is too long: {message}"  # clients that can shorten their conversation look for these words
    elif error.param and error.param not in message:
        message = f"{error.param}: {message}"
    _, type = _STATUS[error.kind]
    told: dict[str, Any] = {"type": type, "message": message}
    if error.code == NO_THREADS:
        told["details"] = {"error_code": error.code, "unsupported": []}
    return {"type": "error", "error": told, "request_id": request_id}


def refuse(error: ApiError, request_id: str) -> JSON:
    """The answer; a failure that would only repeat itself is marked so that clients do not try again."""
    status, _ = _STATUS[error.kind]
    headers = {"request-id": request_id}
    if error.retry_after is not None:
        headers["retry-after"] = f"{error.retry_after:.0f}"
    if error.kind in ("conflict", "internal"):
        headers["x-should-retry"] = "false"
    return JSON(error_body(error, request_id), status_code=status, headers=headers)
