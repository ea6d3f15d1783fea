"""Keep pairs whose preferred image was never beaten: "absolute winners" (NCP-DPO, Gambashidze et al. 2024, arXiv
2406.17636).

The paper trains on the absolute winners of Pick-a-Pic and gives no formula. Ours: among the training pairs, the
preferred image won every comparison under this prompt, and tied in none.
"""

from __future__ import annotations

import numpy as np

from stages.select.pairs import Pairs
from stages.select.step import Change, StepSettings


class Settings(StepSettings):
    """Nothing to set."""


def apply(pairs: Pairs, settings: Settings) -> Change:
    """The pairs of absolute winners."""
    shown = pairs.text[:, None] * len(pairs.pictures.ids) + pairs.image  # an image under a prompt
    _, shown = np.unique(shown, return_inverse=True)
    shown = shown.reshape(-1, 2)
    beaten = np.zeros(shown.max() + 1, bool)
    beaten[shown[pairs.preference <= 0.5, 0]] = True
    beaten[shown[pairs.preference >= 0.5, 1]] = True
    won = np.where(pairs.preference > 0.5, shown[:, 0], shown[:, 1])
    return Change(keep=~beaten[won])
