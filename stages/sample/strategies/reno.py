"""ReNO (Eyring et al. 2024, arXiv 2406.04312): the noise x_T of each image, optimised by gradients of rewards.

Read in the released code (ExplainableML/ReNO) too, whose values are the defaults. There a batch would share one norm of
the noise, so it makes one image per run; here every image has its own.
"""

from __future__ import annotations

from stages.about import End, StrategyAbout
from stages.sample.noise_search import NoiseSearch

ABOUT = StrategyAbout(
    "ReNO",
    "Eyring et al. 2024, arXiv 2406.04312",
    letter="n",
    plain=End(1, "N = 1"),
    lines=((0, (4, 1, 2, 1)),),
    markers=("p",),
    caption="ReNO moves the first noise of an image along the gradient of rewards and keeps the best of N iterations.",
)


class Settings(NoiseSearch):
    """The loss is the sum of weight (1 - reward); no keys of its own."""
