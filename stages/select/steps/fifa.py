"""Keep the pairs that teach most: FiFA (Yang et al. 2024, arXiv 2410.10166).

A pair's score is margin + alpha quality + gamma log distance: the margin of a proxy reward between its two images, the
quality of its prompt, and how far the prompt is from its k-th nearest neighbour, which is its term in an estimate of
the entropy of prompts. The pairs with the largest scores are kept. With alpha = gamma = 0 they are those with the
largest margins.

The paper scores prompts by a language model and measures distances of text embeddings; here `quality` takes a table of
such scores, and without one both are rules on words (`stages/select/texts.py`). How the terms are brought to one scale,
alpha, gamma and k could not be verified: each term is scaled to mean 0 and standard deviation 1 over the pairs, and
the numbers are ours.
"""

from __future__ import annotations

from math import ceil, fsum, sqrt

import numpy as np
from pydantic import Field, model_validator

from stages.curate.sources.records import open_records
from stages.params import Settings as Section
from stages.select.pairs import Pairs
from stages.select.step import Change, StepSettings
from stages.select.texts import log_distances, qualities


class QualitySettings(Section):
    """A table with a score of every prompt, higher for better ones."""

    path: str = Field(description="csv, tsv, json, jsonl, Parquet or Arrow")
    prompt: str = Field(default="prompt", description="column of the text, as it stands in the pairs")
    score: str = Field(default="score", description="column of the number")


class Settings(StepSettings):
    """The proxy reward, how many pairs are kept, and what counts how much."""

    reward: str = Field(description="the proxy reward, of score.rewards")
    top: int | None = Field(default=None, ge=1, description="pairs that are kept; either this or share")
    share: float | None = Field(
        default=None, gt=0, le=1, description="share of the pairs that is kept; the paper's is about 0.005"
    )
    alpha: float = Field(default=0.5, ge=0, description="of the quality of the prompt (our number)")
    gamma: float = Field(default=0.5, ge=0, description="of the distance of the prompt to others (our number)")
    neighbour: int = Field(default=5, ge=1, description="the distance is that to this nearest prompt (our number)")
    references: int = Field(
        default=4096, ge=2, description="distances are to at most so many of the prompts (our number)"
    )
    quality: QualitySettings | None = Field(
        default=None, description="scores of prompts, for example by a language model; null: a rule on their words"
    )

    @model_validator(mode="after")
    def _one_size(self) -> Settings:
        if (self.top is None) == (self.share is None):
            raise ValueError("top and share: expected one of them")
        return self

    def rewards(self) -> tuple[str, ...]:
        """The proxy reward."""
        return (self.reward,)

    def paths(self) -> tuple[str, ...]:
        """The table of scores of prompts."""
        return () if self.quality is None else (self.quality.path,)

    def at_least(self) -> int:
        """As many as are kept."""
        return self.top or 1


def apply(pairs: Pairs, settings: Settings) -> Change:
    """The pairs with the largest scores. Raises ValueError where there are fewer than `top`."""
    count = ceil(settings.share * len(pairs)) if settings.share is not None else settings.at_least()
    if count > len(pairs):
        raise ValueError(f"top: is {count}, but {len(pairs)} training pairs are left, expected at most as many")
    used, text = np.unique(pairs.text, return_inverse=True)
    texts = [pairs.texts[place] for place in used.tolist()]
    score = scaled(np.abs(pairs.gap(settings.reward)))
    if settings.alpha:
        found = qualities(texts) if settings.quality is None else _read(settings.quality, texts)
        score = score + settings.alpha * scaled(found[text])
    if settings.gamma:
        far = log_distances(texts, settings.neighbour, settings.references)
        score = score + settings.gamma * scaled(far[text])
    return Change(keep=pairs.first(score, count))


def scaled(values: np.ndarray) -> np.ndarray:
    """Values [n] with mean 0 and standard deviation 1, or all 0 where they are alike; exact sums, so that no order
    matters.
    """
    centred = values - fsum(values) / len(values)
    std = sqrt(fsum(centred**2) / len(values))
    return centred / std if std > 1e-12 * np.abs(values).max() else np.zeros(len(values))


def _read(quality: QualitySettings, texts: list[str]) -> np.ndarray:
    """The scores of the texts. Raises InputError for a cell that is no number, and ValueError for a text that the table
    lacks.
    """
    records = open_records(quality.path, (quality.prompt, quality.score)).rows
    known = {record.text(quality.prompt).strip(): record.number(quality.score) for record in records}
    found = [known.get(text) for text in texts]
    if None in found:
        raise ValueError(f"quality: {quality.path} has no score of the prompt {texts[found.index(None)]!r}")
    values = np.array(found, np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"quality: {quality.path} has a score that is no finite number")
    return values
