"""Why entries of a set of step-level numbers are not compared."""

from __future__ import annotations

REASONS = {
    "_": "words, not numbers",
    "spm": "the time-conditioned scorer is not here: a step is scored by the training reward",
    "srpo": "not a method here",
    "long": "not a method here",
    "fair": "not a method here",
    "cad": "training on real images by their quality is not here",
    "largescale": "the share of four labels is not a reward here: `large_scale_rl` takes distances of features",
    "distar": "from memory of a paper, not from its code",
}
"""By the beginning of an entry's name."""


def reason(name: str) -> str:
    """The reason for the entry `name`, such as `lpo.a.loss`; empty where none is known."""
    return next((text for start, text in REASONS.items() if name.startswith(start)), "")
