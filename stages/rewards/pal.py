"""A reward of several tastes, trained here on pairs with annotators: `prepare.train.pal`.

It judges for one annotator, or for the mean of all annotators' mixtures, by features of the frozen model that it was
trained on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor

from stages.errors import InputError
from stages.gives import Gives
from stages.models.plural import CONFIG, WEIGHTS, Form, PluralScorer
from stages.models.record import ModelRecord
from stages.rewards.base import Reward, TextImage, about, load_one, require_text
from stages.rewards.networks.options import KindOptions, options

GIVES = Gives(
    files="needed", of="one", inner="text", holds=("pal.json", "pal.safetensors"), embedding=True
)  # fmt: skip


class PalOptions(KindOptions):
    """Options of kind `pal`."""

    annotator: str | None = Field(
        None, min_length=1, description="for whom it judges; null: as it was trained to, by default for all on average"
    )


OPTIONS = PalOptions


class PluralReward:
    """The trained scorer on the frozen features, for one mixture [1, K]."""

    differentiable = True

    def __init__(self, name: str, scorer: PluralScorer, judge: Reward, shares: Tensor) -> None:
        self.name, self.scorer, self.judge, self.shares = name, scorer, judge, shares
        self.model: TextImage = require_text(judge)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Reward [B] of images [B, 3, H, W] in [0, 1], each with its own prompt."""
        return self.scorer.scores(self.model.embed(images), self.model.encode_text(prompts), self.shares)

    def embed(self, images: Tensor) -> Tensor:
        """Image features [B, D] of the frozen model, not normalised."""
        return self.model.embed(images)

    def describe(self) -> dict[str, object]:
        """What identifies the computation beside the weights."""
        return {"shares": [round(value, 6) for value in self.shares[0].tolist()]} | about(self.judge)


def load(record: ModelRecord, device: torch.device | str = "cpu") -> PluralReward:
    """The trained model on its frozen one; raises InputError where its weights do not fit, and for an annotator that
    has no mixture.
    """
    chosen = options(record, PalOptions).annotator
    judge = load_one(record, device)
    content = json.loads(record.file(CONFIG).read_text(encoding="utf-8"))
    annotator = chosen or content.pop("annotator", None)
    content.pop("annotator", None)
    scorer = PluralScorer(Form(**content | {"annotators": tuple(content["annotators"])}))
    weights = load_file(record.file(WEIGHTS))
    if {name: value.shape for name, value in weights.items()} != {
        name: value.shape for name, value in scorer.state_dict().items()
    }:
        raise InputError(f"model {record.name!r}: {WEIGHTS} does not fit {CONFIG}; run prepare again")
    scorer.load_state_dict(weights)
    if annotator is not None and annotator not in scorer.form.annotators:
        some = ", ".join(repr(name) for name in scorer.form.annotators[:3])
        raise InputError(f"model {record.name!r}: no annotator {annotator!r}; expected one such as {some}")
    scorer = scorer.to(device).eval().requires_grad_(False)
    rows = None if annotator is None else torch.tensor([scorer.row(annotator)], device=device)
    return PluralReward(record.name, scorer, judge, scorer.shares(rows))
