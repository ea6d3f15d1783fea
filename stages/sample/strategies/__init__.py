"""Sampling strategies, one module each: `ABOUT` for the report, and `Settings`, whose `points` and `sample` (or
`predict`, for strategies that mix predictions) are the strategy.
"""
