"""The Replicate family: its routes and its way to say no."""

import re

from cadran.serve.family import Family
from cadran.serve.replicate.problem import refuse
from cadran.serve.replicate.routes import router

FAMILY = Family(
    "replicate",
    re.compile(
        r"/v1/(predictions|account|hardware|collections|deployments|files|trainings)(/|$)"
        r"|/v1/models/.+/(predictions|versions)(/|$)"
    ),
    router,
    refuse,
)
