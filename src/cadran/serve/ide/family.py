"""The Ide family: its routes and its way to say no."""

import re

from fastapi import APIRouter

from cadran.serve.family import Family
from cadran.serve.openai.errors import refuse

router = APIRouter()

FAMILY = Family("ide", re.compile(r"/infill|/completion$|(/v1)?/fim/"), router, refuse)
