"""The Ollama family: its routes and its way to say no."""

import re

from fastapi import APIRouter

from cadran.serve.family import Family
from cadran.serve.openai.errors import refuse

router = APIRouter()

FAMILY = Family("ollama", re.compile(r"/api/"), router, refuse)
