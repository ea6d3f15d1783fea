"""Sampling strategies, one module each: `Settings`, and `predict`, the noise prediction they compose of base and tuned;
`renoise` where one also changes the latents that enter a step.
"""
