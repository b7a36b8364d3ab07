"""Generating text: the engine, its sampler and its runner.

Public face: ``engine.Engine``, ``sampler.SamplingParams``.
"""
