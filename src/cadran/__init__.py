"""Cadran: from a folder of text to a language-model assistant on the machine you have."""

__version__ = "0.1.0"
