"""Settings of every test: two threads in all, the same examples each time, no deadline on a shared machine."""

import os

import torch
from hypothesis import settings

torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)
settings.register_profile("cadran", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("cadran")
