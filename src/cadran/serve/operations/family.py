"""The Operations family: its routes and its way to say no."""

import re

from fastapi import APIRouter

from cadran.serve import votes
from cadran.serve.family import Family
from cadran.serve.openai.errors import refuse
from cadran.serve.operations import adapter_loading, exposition, health, lora_adapters, residency, slots

router = APIRouter()
router.include_router(health.router)
router.include_router(exposition.router)
router.include_router(slots.router)
router.include_router(lora_adapters.router)
router.include_router(adapter_loading.router)
router.include_router(residency.router)
router.include_router(votes.router)

FAMILY = Family(
    "operations",
    re.compile(
        r"/(health|healthz|live|load|ready|ping|metrics|openapi.json|slots|lora-adapters)$|/v1/(health|load)$|/api/votes"
        r"|(/v1)?/models/(un)?load$|/v1/(un)?load_lora_adapter$"
    ),
    router,
    refuse,
)
