"""Talking to a server of Cadran, or to any other that speaks OpenAI's chat completions.

Public face: ``client.Client``, ``async_client.AsyncClient``.
"""
