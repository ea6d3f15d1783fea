"""Measurements of the pipeline itself; `python -m benchmarks` prints them."""
