"""``GET /metrics``."""

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from cadran.serve.operations.metrics import Metrics

router = APIRouter(tags=["Operations"])


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """The figures of the server, as Prometheus reads them."""
    figures = request.app.state.metrics
    assert isinstance(figures, Metrics)
    return Response(figures.text(), headers={"content-type": CONTENT_TYPE_LATEST})
