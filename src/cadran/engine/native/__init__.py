"""The compiled core of the engine, through its C interface; see native/cadran.h.

Public face: ``runner.NativeRunner``, ``library.available``.
"""
