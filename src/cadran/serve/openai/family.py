"""The OpenAI family: its routes and its way to say no."""

import re

from fastapi import APIRouter

from cadran.serve.family import Family
from cadran.serve.openai import chat, completions, decisions, embeddings, models, rerank, responses, tokenization
from cadran.serve.openai.errors import refuse

router = APIRouter()
router.include_router(chat.router)
router.include_router(completions.router)
router.include_router(embeddings.router)
router.include_router(rerank.router)
router.include_router(tokenization.router)
router.include_router(models.router)
router.include_router(responses.router)
router.include_router(decisions.router)

FAMILY = Family("openai", re.compile("/"), router, refuse)
