"""The sides of dpo.py and rollouts.py, and what all of them read."""
