"""``POST /tokenize``, ``/detokenize`` and ``/apply-template``, in the words of llama.cpp and of vLLM at once."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response

from cadran.errors import UserError
from cadran.serve.answering import JSON, until_gone
from cadran.serve.api_error import ApiError
from cadran.serve.asked import GenerateRequest
from cadran.serve.family import service_of
from cadran.serve.generation import render
from cadran.serve.large_body import BodyRoute, aside, piecewise
from cadran.serve.openai.chat_request import ChatMessage, ChatRequest, ToolSpec
from cadran.serve.openai.logprobs import token_text
from cadran.serve.openai.sampling_fields import Ids
from cadran.serve.served_model import ServedModel
from cadran.serve.service import Service
from cadran.tokenizer.tokenizer import Tokenizer

router = APIRouter(tags=["OpenAI"], route_class=BodyRoute)


class TokenizeRequest(BaseModel):
    """The body: ``content`` for llama.cpp, ``prompt`` or ``messages`` for vLLM."""

    model_config = ConfigDict(extra="allow")

    model: str = ""
    content: str | None = None
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(fail_fast=True), piecewise(ChatMessage)] | None = None
    tools: list[ToolSpec] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    add_special: bool = False
    add_special_tokens: bool = True
    parse_special: bool = True
    with_pieces: bool = False
    return_token_strs: bool | None = None

    def conversation(self) -> GenerateRequest | None:
        """The messages as a request; None when there are none.

        Raises:
            ApiError: as ``ChatRequest.asked``.
        """
        if self.messages is None:
            return None
        fields = ("model", "messages", "tools", "chat_template_kwargs", "continue_final_message")
        try:
            return ChatRequest.model_validate({name: getattr(self, name) for name in fields}).asked()
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise ApiError("invalid", f"{field}: {first['msg'].lower()}", param=field or None) from None

    def text(self) -> str:
        """The text.

        Raises:
            ApiError: there is none.
        """
        text = self.content if self.content is not None else self.prompt
        if text is None:
            raise ApiError("invalid", "there is nothing to tokenize; give content, prompt or messages", param="content")
        return text

    @property
    def opens(self) -> bool:
        """Whether what the model was taught that a text begins with is put before it."""
        return self.add_special if self.content is not None else self.add_special_tokens


class DetokenizeRequest(BaseModel):
    """The body."""

    model_config = ConfigDict(extra="allow")

    model: str = ""
    tokens: Ids


@router.post("/v1/tokenize", include_in_schema=False)
@router.post("/tokenize")
async def tokenize(request: Request, body: TokenizeRequest) -> Response:
    """The tokens of a text or of a conversation."""
    conversation = await aside(request, body.conversation)
    return await until_gone(request, _tokenized(service_of(request), body, conversation))


async def _tokenized(service: Service, body: TokenizeRequest, conversation: GenerateRequest | None) -> Response:
    text = body.text() if conversation is None else ""
    async with service.shelf.lend(service.shelf.resolve(body.model)) as served:
        if conversation is not None:
            ids = list((await render(conversation, served)).ids)
        else:
            ids = await _in_thread(_ids, served, text, body)
        tokenizer = served.engine.tokenizer
        answer: dict[str, Any] = {"count": len(ids), "max_model_len": served.engine.context, "tokens": ids}
        if body.with_pieces:
            answer["tokens"] = [{"id": id, "piece": _piece(tokenizer, id)} for id in ids]
        if body.return_token_strs:
            answer["token_strs"] = [token_text(tokenizer, id) for id in ids]
        return await asyncio.to_thread(JSON, answer)


def _ids(served: ServedModel, text: str, body: TokenizeRequest) -> list[int]:
    ids = served.engine.tokenizer.encode(text, special=body.parse_special)
    opening = served.engine.opening_ids
    # As in a request: a beginning that the client wrote is not put there twice.
    return [*opening, *ids] if body.opens and ids[: len(opening)] != opening else ids


def _piece(tokenizer: Tokenizer, id: int) -> str | list[int]:
    """A text, or bytes where it is no whole character."""
    raw = tokenizer.token_bytes(id)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return list(raw)


@router.post("/v1/detokenize", include_in_schema=False)
@router.post("/detokenize")
async def detokenize(request: Request, body: DetokenizeRequest) -> Response:
    """The text of tokens."""
    service = service_of(request)

    async def text() -> str:
        async with service.shelf.lend(service.shelf.resolve(body.model)) as served:
            return str(await _in_thread(served.engine.tokenizer.decode, body.tokens))

    found = await until_gone(request, text())
    return JSON({"content": found, "prompt": found})


@router.post("/v1/apply-template", include_in_schema=False)
@router.post("/apply-template")
async def apply_template(request: Request, body: ChatRequest) -> Response:
    """A conversation as the model reads it."""
    service, asked = service_of(request), await aside(request, body.asked)

    async def prompt() -> str:
        async with service.shelf.lend(service.shelf.resolve(asked.model, asked.adapter)) as served:
            ids = (await render(asked, served)).ids
            return str(await _in_thread(served.engine.tokenizer.decode, ids))

    return JSON({"prompt": await until_gone(request, prompt())})


async def _in_thread(work: Any, *arguments: Any) -> Any:
    try:
        return await asyncio.to_thread(work, *arguments)
    except UserError as error:
        raise ApiError("invalid", str(error)) from error
