"""Exchange winner and loser: what a negative network learns from (Diffusion-NPO, Wang et al. 2025, arXiv 2505.11245).

The method `diffusion_npo` exchanges them itself; this step makes a negative network by any other method.
"""

from __future__ import annotations

from stages.select.pairs import Pairs
from stages.select.step import Change, StepSettings


class Settings(StepSettings):
    """Nothing to set."""


def apply(pairs: Pairs, settings: Settings) -> Change:
    """The pairs with p exchanged for 1 - p."""
    return Change(preference=1 - pairs.preference)
