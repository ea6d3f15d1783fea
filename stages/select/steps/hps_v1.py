"""Best and worst images of a prompt by a reward: the selection of HPS v1 (Wu et al. 2023, arXiv 2303.14420).

Of each prompt with at least four images, the best one is selected where its share in the softmax of the scores exceeds
2 / n, the worst one where its share in the softmax of the negated scores does. The release scores with 100 times the
cosine. It drops blurry images beforehand, which is left to curation's `min_quality` here.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from stages.select.pairs import Pairs
from stages.select.step import Change, StepSettings


class Settings(StepSettings):
    """The reward, and which pairs come of the selected images."""

    LABELS: ClassVar[bool] = True

    reward: str = Field(description="the reward, of score.rewards")
    scale: float = Field(default=100.0, gt=0, description="of the scores in the softmax; 100 for cosines")
    fewest: int = Field(default=4, ge=2, description="prompts with fewer images are left out")
    times: float = Field(default=2.0, gt=0, description="a selected image has more than so many times the share 1 / n")
    side: Literal["best", "worst", "both"] = Field(
        default="best",
        description="one pair per prompt: of its best image as the winner, of its worst as the loser, or of both",
    )

    def rewards(self) -> tuple[str, ...]:
        """The reward."""
        return (self.reward,)


def apply(pairs: Pairs, settings: Settings) -> Change:
    """Of every prompt the pair with the largest margin that has the selected images, labelled by the selection."""
    scores = pairs.scores[settings.reward].ravel()
    group, image = np.repeat(pairs.text, 2), pairs.image.ravel()
    _, first, shown = np.unique(
        group * len(pairs.pictures.ids) + image, return_index=True, return_inverse=True
    )  # fmt: skip
    best, worst = selected(settings.scale * scores[first], group[first], settings.fewest, settings.times)
    best, worst = (mask[shown.reshape(-1)].reshape(-1, 2) for mask in (best, worst))
    wins = {"best": best, "worst": worst[:, ::-1], "both": best & worst[:, ::-1]}[settings.side]
    keep = _one_a_prompt(pairs, wins.any(1), np.abs(pairs.gap(settings.reward)))
    return Change(keep=keep, preference=np.where(keep, wins[:, 0].astype(float), pairs.preference))


def selected(scores: np.ndarray, group: np.ndarray, fewest: int, times: float) -> tuple[np.ndarray, np.ndarray]:
    """Which images, with `scores` [n] and prompts `group` [n], are the selected best and worst ones: two bool [n].

    Of equal scores the first counts.
    """
    best, worst = np.zeros((2, len(scores)), bool)
    order = np.argsort(group, kind="stable")
    edges = np.flatnonzero(np.diff(group[order])) + 1
    for rows in np.split(order, edges):
        if len(rows) < fewest:
            continue
        for mask, signed in ((best, scores[rows]), (worst, -scores[rows])):
            shares = np.exp(signed - signed.max())
            place = int(shares.argmax())
            mask[rows[place]] = shares[place] / shares.sum() > times / len(rows)
    return best, worst


def _one_a_prompt(pairs: Pairs, fit: np.ndarray, margin: np.ndarray) -> np.ndarray:
    """Of the pairs that `fit`, per prompt the one with the largest margin, of equal ones the first id; bool [n]."""
    order = np.lexsort((pairs.rank, -margin, pairs.text))
    order = order[fit[order]]
    _, first = np.unique(pairs.text[order], return_index=True)
    keep = np.zeros(len(pairs), bool)
    keep[order[first]] = True
    return keep
