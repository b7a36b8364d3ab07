"""How the Ollama family says no. Source: api-contracts 7."""

from cadran.serve.answering import JSON
from cadran.serve.api_error import ApiError, Kind

_STATUS: dict[Kind, int] = {
    "invalid": 400, "too_long": 400, "authentication": 401, "permission": 403, "not_found": 404, "conflict": 409,
    "too_large": 413, "limited": 429, "overloaded": 503, "draining": 503, "timeout": 504, "unsupported": 400,
    "internal": 500,
}  # fmt: skip


def error_body(error: ApiError) -> dict[str, object]:
    """The body, also of an error in a stream."""
    return {"error": error.message}


def refuse(error: ApiError, request_id: str) -> JSON:
    """The answer."""
    headers = {} if error.retry_after is None else {"retry-after": f"{error.retry_after:.0f}"}
    return JSON(error_body(error), status_code=_STATUS[error.kind], headers=headers)
