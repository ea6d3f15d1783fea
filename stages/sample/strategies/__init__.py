"""Sampling strategies, one module each: `Settings`, and `predict`, the noise prediction they compose of base and
tuned.
"""
