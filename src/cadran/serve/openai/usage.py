"""What a request took, as OpenAI tells it."""

from typing import Any

from cadran.serve.events import Reason, Used

FINISH: dict[Reason, str] = {
    "eos": "stop", "stop_string": "stop", "length": "length", "context": "length", "tools": "tool_calls",
    "cancelled": "stop",
}  # fmt: skip


def usage_body(used: Used) -> dict[str, Any]:
    """``usage``."""
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.generated_tokens,
        "total_tokens": used.prompt_tokens + used.generated_tokens,
        "prompt_tokens_details": {"cached_tokens": used.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": used.reasoning_tokens},
    }
