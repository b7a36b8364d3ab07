"""How a token is chosen, defined in numpy: parameters, adjustments of the logits, truncation, the draw.

Public face: ``cadran.engine.sampler``.
"""
