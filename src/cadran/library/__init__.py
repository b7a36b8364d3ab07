"""Models that lie on this machine: fetched, listed, looked into, and written for others.

Public face: ``find.find_pulled`` and ``find.models_folder``, ``origin.parse_origin`` and ``pull.pull``,
``catalogue.catalogue``, ``inspection.inspect_model``, ``export.export``. Nothing here loads torch but ``export``.
"""
