"""The Anthropic family: its routes and its way to say no."""

import re

from fastapi import APIRouter

from cadran.serve.anthropic import messages, probes
from cadran.serve.anthropic.errors import refuse
from cadran.serve.family import Family

router = APIRouter()
router.include_router(messages.router)
router.include_router(probes.router)

FAMILY = Family("anthropic", re.compile(r"/v1/messages(/|$)|/api/event_logging"), router, refuse)
