"""A family of APIs: which paths are its own, and how it says that something went wrong."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import APIRouter, Request

from cadran.serve.answering import JSON
from cadran.serve.api_error import ApiError
from cadran.serve.service import Service

Refuse = Callable[[ApiError, str], JSON]
"""From an error and the request's id to the family's status, headers and body."""


@dataclass(frozen=True, slots=True)
class Family:
    """One family.

    Attributes:
        name: of it.
        paths: matches the paths that are its own.
        router: its routes.
        refuse: its way to say no.
    """

    name: str
    paths: re.Pattern[str]
    router: APIRouter
    refuse: Refuse


def service_of(request: Request) -> Service:
    """The service behind a request."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service
