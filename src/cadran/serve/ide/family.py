"""The IDE family: its routes and its way to say no."""

import re

from fastapi import APIRouter

from cadran.serve.family import Family
from cadran.serve.ide import fim, native
from cadran.serve.openai.errors import refuse

router = APIRouter()
router.include_router(native.router)
router.include_router(fim.router)

FAMILY = Family("ide", re.compile(r"/infill|/completion$|(/v1)?/fim/"), router, refuse)
