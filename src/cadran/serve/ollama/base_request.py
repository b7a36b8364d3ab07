"""What the requests of chat and generate have in common. Source: api-contracts 7."""

from typing import Any

from pydantic import Field

from cadran.serve.api_error import ApiError
from cadran.serve.ide.open_body import OpenBody
from cadran.serve.ollama.keep_alive import KeepAlive
from cadran.serve.ollama.options import Options


class OllamaRequest(OpenBody):
    """Unknown fields are passed over."""

    model: str = ""
    options: Options = Field(default_factory=Options)
    stream: bool = True
    format: str | dict[str, Any] = ""
    think: bool | str | None = None
    keep_alive: KeepAlive | None = None
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=20)
    truncate: bool = False
    shift: bool | None = None

    @property
    def top(self) -> int:
        """How many of the likeliest tokens are wanted with each."""
        return self.top_logprobs if self.logprobs else 0

    def grammar(self) -> dict[str, Any] | None:
        """What the answer must match.

        Raises:
            ApiError: the format is unknown.
        """
        if isinstance(self.format, dict):
            return {"json_schema": self.format}
        if self.format == "json":
            return {"json_object": True}
        if self.format:
            shown = self.format[:40]
            raise ApiError("invalid", f"format is {shown!r}; give json or a JSON schema", param="format")
        return None

    def thinking(self) -> tuple[bool | None, dict[str, Any]]:
        """Whether to think, and what to tell the template of it.

        Raises:
            ApiError: it is no effort.
        """
        if isinstance(self.think, str):
            if self.think not in ("low", "medium", "high", "max"):
                raise ApiError(
                    "invalid", "think is true, false, or one of low, medium, high and max; mend it", param="think"
                )
            return True, {"reasoning_effort": self.think}
        return self.think, {}
