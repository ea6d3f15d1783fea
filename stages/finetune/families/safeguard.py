"""Diffusion-SDPO (arXiv 2511.03317): the gradient of the loser's error is scaled so that the winner's error does not
rise to first order.

With g = the gradient of an error by the network's predictions, a step along -g_w + lambda g_l changes the winner's
error by -|g_w|^2 + lambda <g_l, g_w>, which is at most -mu |g_w|^2 for

    lambda = clip((1 - mu) |g_w|^2 / <g_l, g_w>, 0, 1)   where the product is positive, else 1.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from stages.finetune import stop
from stages.finetune.families.pair_errors import Outputs, PairErrors
from stages.finetune.families.pair_settings import SafeguardSettings

TINY = 1e-9
"""Added to the product that is divided by, as in the released code."""


def safeguarded(pairs: PairErrors, settings: SafeguardSettings) -> PairErrors:
    """The pairs with the same errors, of which the losers' have lambda times their gradient."""
    scale, loser = loser_scale(pairs, settings), pairs.loser
    policy = scale * loser.policy + (1 - scale) * stop.gradient(loser.policy)
    return replace(pairs, loser=replace(loser, policy=policy))


def loser_scale(pairs: PairErrors, settings: SafeguardSettings) -> Tensor:
    """lambda in [0, 1]: [] for the pairs of a micro-batch together, of all processes, or [N], one for each pair.

    The gradients are those of the mean error over the pairs that share a lambda.
    """
    winner, loser = (_difference(side.made_of()) for side in (pairs.winner, pairs.loser))
    squares, products = winner.square().sum(1), (loser * winner).sum(1)
    elements = winner.shape[1]
    if settings.per == "micro_batch":
        squares, products = pairs.of_all(squares), pairs.of_all(products)
        elements *= len(squares)
        squares, products = squares.sum(), products.sum()
    factor = (2 / elements) ** 2
    squares, products = factor * squares, factor * products
    scale = ((1 - settings.mu) * squares / (products + TINY)).clamp(0, 1)
    return stop.gradient(torch.where(products > 0, scale, torch.ones_like(scale)))


def _difference(outputs: Outputs) -> Tensor:
    return (outputs.prediction - outputs.target).detach().flatten(1)
