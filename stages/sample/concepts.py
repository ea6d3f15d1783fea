"""Concept guidance (SGT): the prediction is steered towards those concepts of a prompt that it neglects.

Kang et al. 2023, arXiv 2312.15964; read in the released code (korguy/Concept-Diffusion, `pipelines/our_pipeline.py`),
whose sums these are. A score is a prediction with a text less that with the empty prompt, [C, h, w] of one image; the
*rest* is what a prompt's score has beside those of its concepts, and counts as a concept too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Rule:
    """How concepts are watched: the share `quantile` of the smallest numbers of a channel of their scores that is set
    to 0; the cosine `threshold` below which guidance turns to a concept; `momentum` times the running mean of what it
    was steered by, of which a step keeps `decay`.
    """

    quantile: float
    threshold: float
    momentum: float
    decay: float


@dataclass(frozen=True)
class Watched:
    """What is remembered of the concepts of one image, K of them with the rest: `means` [K, C, h, w] of what each
    steers by, and `cosines` [K] in [0, 1], those of the step before.
    """

    means: Tensor
    cosines: Tensor


def steered(
    prompt: Tensor, concepts: Tensor, before: Watched | None, rule: Rule, acting: bool
) -> tuple[Tensor, Watched]:
    """What is added to a prediction [C, h, w], before its weight, and what is remembered of the step.

    `prompt` [C, h, w] is the score of the prompt, `concepts` [K - 1, C, h, w] are those of its concepts. In every step
    it is less (prompt - rest) / K; where `acting`, each concept is added whose cosine was below the threshold at the
    step before, by its part perpendicular to the prompt and its momentum.
    """
    every = with_rest(prompt, strongest(concepts, rule.quantile))
    cosines = functional.cosine_similarity(prompt.flatten()[None], every.flatten(1)).abs()
    found = (every[-1] - prompt) / len(every)
    means = torch.zeros_like(every) if before is None else before.means
    turns = torch.stack([perpendicular(score, prompt) for score in every]) + rule.momentum * means
    if acting and before is not None:
        found = found + turns[before.cosines < rule.threshold].sum(0)
    return found, Watched(rule.decay * means + (1 - rule.decay) * turns, cosines)


def with_rest(prompt: Tensor, concepts: Tensor) -> Tensor:
    """Scores [K, C, h, w] of the concepts and, last, of the rest: the prompt's without its component along each concept
    in turn.
    """
    rest = prompt
    for score in concepts:
        rest = perpendicular(rest, score)
    return torch.cat([concepts, rest[None]])


def strongest(scores: Tensor, quantile: float) -> Tensor:
    """Scores [N, C, h, w] with 0 for the numbers of each channel whose size is below its quantile."""
    if len(scores) == 0:
        return scores
    sizes = scores.abs()
    least = torch.quantile(sizes.flatten(2), quantile, dim=2)[..., None, None]
    return torch.where(sizes >= least, scores, 0.0)


def perpendicular(score: Tensor, to: Tensor) -> Tensor:
    """`score` without its component along `to`; as it is where `to` is 0. The scalar product is over all numbers."""
    square = to.square().sum()
    return score - torch.where(square > 0, (score * to).sum() / square.clamp(min=torch.finfo(to.dtype).tiny), 0.0) * to
