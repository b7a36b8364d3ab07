"""Serving: every interface that programs already speak, over one internal request and one stream of events.

Public face: ``settings.ServeSettings``, ``service.Service``, ``server.Server``.
"""
