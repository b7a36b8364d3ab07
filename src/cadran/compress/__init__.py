"""Smaller weights: INT8 and INT4, chosen with or without a text, and how much is lost by it.

Public face: ``quantize.quantize`` (a model on disk to a GGUF file), ``layers.quantise_layers`` (a model in memory) and
``fidelity.compare``. Import them from their files.
"""
