"""Columns of the samples table for made-up images."""

from __future__ import annotations

PLAIN: dict[str, object] = {"nfe_backward": 0, "queries": 0, "decodes": 1, "rewards": [], "reward_digests": []}
"""The cost of plain sampling besides network evaluations, and no reward."""
