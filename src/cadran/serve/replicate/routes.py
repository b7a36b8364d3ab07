"""The routes of the Replicate family. Source: api-contracts 6.

A prediction outlives the connection that made it, as it does at Replicate: a client that is cut off asks again by id.
"""

import asyncio
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from cadran.errors import UserError
from cadran.serve.answering import JSON, until_gone
from cadran.serve.api_error import ApiError
from cadran.serve.background import REFUSAL_SECONDS
from cadran.serve.family import service_of
from cadran.serve.known_model import KnownModel
from cadran.serve.replicate.base_address import base_address
from cadran.serve.replicate.input import echoed, read_input
from cadran.serve.replicate.prediction import Prediction
from cadran.serve.replicate.predictions import Predictions, predictions_of
from cadran.serve.replicate.preferences import hold_seconds, lifetime_seconds
from cadran.serve.replicate.problem import InvalidField, InvalidInput
from cadran.serve.replicate.stream import PredictionStream, position_after
from cadran.serve.replicate.version import find_model, find_version, version_body, version_of

router = APIRouter(tags=["Replicate"])


class CreatePrediction(BaseModel):
    """What is asked of a model."""

    model_config = ConfigDict(extra="allow")

    input: dict[str, Any]
    stream: bool | None = None
    webhook: Any = None
    webhook_completed: Any = None


class CreateVersionPrediction(CreatePrediction):
    """What is asked of a version of a model."""

    version: str


@router.post("/v1/models/{model:path}/predictions", status_code=201)
async def create_for_model(request: Request, model: str, body: CreatePrediction) -> Response:
    """Begin a prediction with a model."""
    known = find_model(service_of(request).shelf, model)
    return await _created(request, body, known, model if "/" in model else _full_name(known), "hidden")


@router.post("/v1/predictions", status_code=201)
async def create_for_version(request: Request, body: CreateVersionPrediction) -> Response:
    """Begin a prediction with a version of a model."""
    known, digest = await until_gone(request, find_version(service_of(request).shelf, body.version))
    return await _created(request, body, known, _full_name(known), digest)


async def _created(request: Request, body: CreatePrediction, known: KnownModel, model: str, version: str) -> Response:
    for name in ("webhook", "webhook_completed"):
        if getattr(body, name) is not None:
            description = "this server calls nobody; ask for the prediction at urls.get, or follow urls.stream"
            raise InvalidInput([InvalidField("invalid", name, description)])
    service, predictions = service_of(request), predictions_of(request)
    lifetime = lifetime_seconds(request.headers.get("cancel-after"))
    read = read_input(body.input)
    chats = service.settings.template is not None or await asyncio.to_thread(_chats, known)
    made = predictions.start(
        read.asked(known.name, chats), model=model, version=version, input=echoed(body.input, read),
        owner=_owner(request), lifetime=lifetime, logs_metrics=read.log_performance_metrics,
    )  # fmt: skip
    hold = 0.0 if body.stream else hold_seconds(request.headers.get("prefer"))
    await until_gone(request, _held(made, hold))
    if made.refused is not None:
        predictions.forget(made)
        raise _named(made.refused)
    fresh = not (hold and made.over)
    return JSON(made.body(base_address(request), fresh=fresh), status_code=201)


async def _held(prediction: Prediction, hold: float) -> None:
    """Wait for the end as long as was asked for; else until it is clear that the prediction is not refused."""
    with suppress(TimeoutError):
        async with asyncio.timeout(hold or REFUSAL_SECONDS):
            await (prediction.ended if hold else prediction.begun).wait()


@router.get("/v1/predictions")
async def list_predictions(request: Request, cursor: str | None = None) -> Response:
    """The predictions of the last hour."""
    page, older, newer = predictions_of(request).page(_owner(request), cursor)
    base = base_address(request)

    def address(cursor: str | None) -> str | None:
        return None if cursor is None else f"{base}/v1/predictions?cursor={quote(cursor)}"

    return JSON({
        "next": address(older), "previous": address(newer), "results": [prediction.body(base) for prediction in page]
    })  # fmt: skip


@router.get("/v1/predictions/{id}")
async def get_prediction(request: Request, id: str) -> Response:
    """A prediction, as far as it has come."""
    return JSON(_found(request, id)[1].body(base_address(request)))


@router.post("/v1/predictions/{id}/cancel")
async def cancel_prediction(request: Request, id: str) -> Response:
    """End a prediction."""
    predictions, prediction = _found(request, id)
    await predictions.cancel(prediction)
    return JSON(prediction.body(base_address(request)))


@router.get("/v1/predictions/{id}/stream")
async def stream_prediction(request: Request, id: str) -> Response:
    """A prediction as server-sent events."""
    _, prediction = _found(request, id)
    return PredictionStream(prediction, position_after(prediction, request.headers.get("last-event-id")))


@router.get("/v1/models/{model:path}/versions")
async def list_versions(request: Request, model: str) -> Response:
    """The versions of a model: the one that is here."""
    known = find_model(service_of(request).shelf, model)
    digest = await until_gone(request, version_of(known))
    return JSON({"next": None, "previous": None, "results": [version_body(known, digest)]})


@router.get("/v1/models/{model:path}/versions/{id}")
async def get_version(request: Request, model: str, id: str) -> Response:
    """A version of a model, with the schema of its input and output."""
    known = find_model(service_of(request).shelf, model)
    digest = await until_gone(request, version_of(known))
    if id != digest:
        raise ApiError("not_found", f"the model {model} has the version {digest} alone")
    return JSON(version_body(known, digest))


@router.get("/v1/account")
async def account(request: Request) -> Response:
    """Who asks."""
    owner = _owner(request)
    return JSON({"type": "user", "username": "cadran" if owner is None else str(owner), "name": "Cadran"})


@router.get("/v1/hardware")
async def hardware() -> Response:
    """What computes."""
    return JSON([{"name": "CPU", "sku": "cpu"}])


def _found(request: Request, id: str) -> tuple[Predictions, Prediction]:
    predictions = predictions_of(request)
    return predictions, predictions.get(id, _owner(request))


def _owner(request: Request) -> object:
    """Whose predictions a request may see: those of its key."""
    return request.scope.get("state", {}).get("key")


def _named(error: ApiError) -> ApiError:
    """What the model refuses is the input's fault, even where no field can be named."""
    if error.kind == "invalid" and error.param is None:
        return InvalidInput([InvalidField("invalid", "input", error.message)])
    return error


def _full_name(known: KnownModel) -> str:
    return f"{known.owner}/{known.short_name}"


def _chats(known: KnownModel) -> bool:
    try:
        return known.header.tokenizer.chat
    except UserError:  # opening it will tell why
        return True
