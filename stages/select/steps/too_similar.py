"""Drop pairs whose two images look alike: a preference between near copies is noise.

After the finding for language models that pairs of similar answers lower the likelihood of both (Razin et al. 2024,
arXiv 2410.08847), who measure the likeness of embeddings. Here it is that of perceptual hashes, as of near duplicates
in curation; how many bits is ours.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from stages.select.pairs import Pairs
from stages.select.step import Change, StepSettings


class Settings(StepSettings):
    """How alike is too alike."""

    bits: int = Field(default=4, ge=0, le=64, description="perceptual hashes differ in so many of 64 bits, or fewer")


def apply(pairs: Pairs, settings: Settings) -> Change:
    """The pairs whose images differ in more bits."""
    hashes = pairs.pictures.hashes(np.unique(pairs.image))
    differ = np.bitwise_count(hashes[pairs.image[:, 0]] ^ hashes[pairs.image[:, 1]])
    return Change(keep=differ > settings.bits)
