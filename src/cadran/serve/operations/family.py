"""The Operations family: its routes and its way to say no."""

import re

from fastapi import APIRouter

from cadran.serve.family import Family
from cadran.serve.openai.errors import refuse

router = APIRouter()

FAMILY = Family(
    "operations",
    re.compile(r"/(health|healthz|live|ready|ping|metrics|openapi.json|slots)$|/v1/(health|load)$"),
    router,
    refuse,
)
