"""A recipe says what to do, a run holds what came of it, stages lead from one to the other.

Public face: ``schema.load_recipe``, ``run.Run``, ``graph.run_stages``.
"""
