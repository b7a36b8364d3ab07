"""Measuring a model: bits per byte, classification, chrF, and the baselines that stand beside them."""
