"""Content blocks of a request as plain text. Source: api-contracts 5.1.

What a model of text cannot read is refused and never passed over: the answer would be about something else.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from cadran.serve.api_error import ApiError

PARAGRAPH = "\n\n"
"""Between blocks: each is a text of its own, and where one ends is for the model to see."""

Block = Mapping[str, Any]


def text_of(content: object, field: str) -> str:
    """The text of a content: of a string, of nothing, or of blocks.

    Args:
        content: as it came.
        field: where, for complaints.

    Raises:
        ApiError: it is something else, or a block is no text.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return checked(content, field)
    if not isinstance(content, list):
        raise ApiError("invalid", f"{field}: give a string or a list of blocks", param=field)
    return PARAGRAPH.join(block_text(block, f"{field}.{number}") for number, block in enumerate(content))


def block_text(block: Any, field: str) -> str:
    """The text of one block; a document and a search result begin with what they are called.

    Raises:
        ApiError: it has none.
    """
    match block:
        case {"type": "text", "text": str(text)}:
            return checked(text, field)
        case {"type": "document", "source": {} as source}:
            return _paragraphs(field, block.get("title"), block.get("context"), _source_text(source, f"{field}.source"))
        case {"type": "search_result", "content": [*content]}:
            return _paragraphs(field, block.get("title"), block.get("source"), *_texts(content, f"{field}.content"))
        case {"type": "tool_reference", "tool_name": str(name)}:
            return checked(name, field)
        case {"type": "text" | "document" | "search_result" | "tool_reference" as type}:
            raise ApiError("invalid", f"{field}: this block of the type {type} is incomplete", param=field)
        case {"type": str(type)}:
            raise ApiError(
                "invalid", f"{field}: {type[:100]} cannot be read by a model of text; send text", param=field
            )
    raise ApiError("invalid", f"{field}: a block is an object with a type", param=field)


def _paragraphs(field: str, *parts: object) -> str:
    return PARAGRAPH.join(checked(part, field) for part in parts if isinstance(part, str) and part)


def _texts(blocks: list[Any], field: str) -> list[str]:
    """Texts only, so that blocks within blocks end somewhere."""
    found = []
    for number, block in enumerate(blocks):
        match block:
            case {"type": "text", "text": str(text)}:
                found.append(checked(text, f"{field}.{number}"))
            case _:
                place = f"{field}.{number}"
                raise ApiError("invalid", f"{place}: only blocks of the type text are read here", param=place)
    return found


def _source_text(source: Block, field: str) -> str:
    match source:
        case {"type": "text", "data": str(data)}:
            return data
        case {"type": "content", "content": str(text)}:
            return text
        case {"type": "content", "content": [*blocks]}:
            return PARAGRAPH.join(_texts(blocks, f"{field}.content"))
        case {"type": "base64", "media_type": str(kind), "data": str(data)} if kind.startswith("text/"):
            try:
                return base64.b64decode(data, validate=True).decode()
            except (binascii.Error, ValueError) as error:
                raise ApiError("invalid", f"{field}: the data is no text in base64; repair it", param=field) from error
    raise ApiError("invalid", f"{field}: only documents of plain text can be read; send the text", param=field)


def checked(text: str, field: str) -> str:
    """A text that can be written as UTF-8.

    Raises:
        ApiError: it has half of a surrogate pair, which JSON can say and no text has.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ApiError("invalid", f"{field}: this is no valid Unicode; send whole characters", param=field) from error
    return text


def checked_data(data: Mapping[str, Any], field: str) -> dict[str, Any]:
    """The same for an object of JSON, such as a schema.

    Raises:
        ApiError: a text in it is no text, or it is nested without end.
    """
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise ApiError("invalid", f"{field}: this cannot be written as JSON; repair it", param=field) from error
    return dict(data)
