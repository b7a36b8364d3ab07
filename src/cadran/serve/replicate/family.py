"""The Replicate family: its routes and its way to say no."""

import re

from fastapi import APIRouter

from cadran.serve.family import Family
from cadran.serve.openai.errors import refuse

router = APIRouter()

FAMILY = Family(
    "replicate",
    re.compile(
        r"/v1/(predictions|account|hardware|collections|deployments|files|trainings)|/v1/models/.+/(predictions|versions)"
    ),
    router,
    refuse,
)
