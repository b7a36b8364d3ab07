"""A body that takes more than it knows: unknown fields are passed over, and null is the same as absent."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class OpenBody(BaseModel):
    """What the requests of editors and of Ollama's clients are made of."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, content: Any) -> Any:
        """Clients write null for what was not set."""
        if isinstance(content, dict):
            return {name: value for name, value in content.items() if value is not None}
        return content
