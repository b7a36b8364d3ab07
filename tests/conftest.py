"""Settings of every test: two threads in all, the same examples each time, and no clock that decides."""

import os

import torch
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
settings.register_profile(
    "cadran", deadline=None, derandomize=True, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("cadran")

# Hypothesis would also draw the constants of whatever modules are imported by then, which depends on the files that the
# same process ran before: one test would see other examples on another day.
if (none := getattr(providers, "_local_constants", None)) is not None:
    providers._get_local_constants = lambda: none
