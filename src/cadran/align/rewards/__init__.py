"""Rewards as Python functions: what an answer is worth, by rules that can be checked."""
