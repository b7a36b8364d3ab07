"""One model as three SDKs want to read it: those of OpenAI, Anthropic and Replicate. Source: api-contracts 11."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from cadran.errors import UserError
from cadran.library.header import ModelHeader
from cadran.serve.known_model import KnownModel


@dataclass(frozen=True, slots=True)
class Facts:
    """What is told of a model, read without opening it.

    Attributes:
        header: what its files say; None when they are damaged.
        created: seconds since 1970, 0 when its files are gone.
        digest: SHA-256 of its weights; None while it is not known yet.
    """

    header: ModelHeader | None = None
    created: float = 0.0
    digest: str | None = None


def read_facts(known: KnownModel) -> Facts:
    """All but the digest. Reads files: call it in a thread."""
    try:
        created = known.created
    except (UserError, OSError, ValueError):
        created = 0.0
    try:
        return Facts(known.header, created)
    except (UserError, OSError):
        return Facts(None, created)


def model_body(
    id: str, facts: Facts, base: str, version: dict[str, Any] | None = None, context: int | None = None
) -> dict[str, Any]:
    """The object.

    Args:
        id: what clients write: the model's name or an alias.
        facts: of the model.
        base: URL of the server, without a slash at the end.
        version: as the Replicate API tells it; None while the digest is not known yet.
        context: most tokens, when the server's settings say so.
    """
    owner, slash, name = id.rpartition("/")
    owner = owner if slash else "cadran"
    header = facts.header
    stated = None if header is None else header.context
    context = min(filter(None, (context, stated)), default=None)
    written = datetime.fromtimestamp(int(facts.created), UTC).isoformat().replace("+00:00", "Z")
    return {
        "id": id,
        "object": "model",
        "created": int(facts.created),
        "owned_by": owner,
        "type": "model",
        "display_name": id,
        "created_at": written,
        "lifecycle": "active",
        "max_input_tokens": context,
        "max_tokens": context,
        "url": f"{base}/v1/models/{quote(id, safe='/:')}",
        "owner": owner,
        "name": name,
        "description": _description(header),
        "visibility": "public",
        "run_count": 0,
        "github_url": None,
        "paper_url": None,
        "license_url": None,
        "cover_image_url": None,
        "default_example": None,
        "latest_version": version,
        "max_model_len": context,
        "meta": _meta(header),
        "capabilities": _capabilities(header),
    }


def model_list(bodies: list[dict[str, Any]]) -> dict[str, Any]:
    """All of them, on one page."""
    return {
        "object": "list",
        "data": bodies,
        "has_more": False,
        "first_id": bodies[0]["id"] if bodies else None,
        "last_id": bodies[-1]["id"] if bodies else None,
        "results": bodies,
        "next": None,
        "previous": None,
    }


def _description(header: ModelHeader | None) -> str:
    if header is None:
        return "its files cannot be read; fetch or make it again"
    return f"{header.architecture}, {header.parameters / 1e6:.1f} million parameters, {header.kind}"


def _meta(header: ModelHeader | None) -> dict[str, Any]:
    if header is None:
        return {}
    return {
        "n_params": header.parameters,
        "size": header.bytes,
        "n_vocab": None if header.sizes is None else header.sizes.vocabulary,
        "n_ctx_train": header.context,
        "quantization": header.kind,
        "architecture": header.architecture,
        "format": header.format,
        "license": header.licence,
    }


def _capabilities(header: ModelHeader | None) -> dict[str, dict[str, bool]]:
    """In the form of Anthropic's: each with ``supported``."""
    there = header is not None
    facts = None if header is None else header.tokenizer
    told = {
        "completion": there,
        "embeddings": there,
        "structured_outputs": there,
        "chat": facts is not None and facts.chat,
        "tools": facts is not None and facts.tools,
        "fill_in_the_middle": facts is not None and facts.fill_in_the_middle,
        "batch": False,
        "citations": False,
        "code_execution": False,
        "image_input": False,
        "pdf_input": False,
    }
    return {name: {"supported": supported} for name, supported in told.items()}
