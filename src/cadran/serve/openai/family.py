"""The OpenAI family: its routes and its way to say no."""

import re

from fastapi import APIRouter

from cadran.serve.family import Family
from cadran.serve.openai import chat
from cadran.serve.openai.errors import refuse

router = APIRouter()
router.include_router(chat.router)

FAMILY = Family("openai", re.compile("/"), router, refuse)
