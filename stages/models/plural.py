"""Rewards of several tastes on frozen features (PAL, Chen et al. 2024, arXiv 2406.08469).

    reward of annotator u = scale <f(image), sum over k of w_uk g_k(prompt)>,  w_u = softmax of u's logits

f and the K prototypes g_k map features of a frozen model; an annotator is nothing but a mixture of prototypes, so few
pairs of each are enough. This is the paper's form with angles, in which prototypes depend on the prompt. The maps add a
perceptron to the features themselves (ours), so that they begin near the frozen model's own comparison.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

CONFIG, WEIGHTS = "pal.json", "pal.safetensors"
"""Files of a trained model: its form, and what was trained."""
SCALE = 2.6592
"""Log of the factor of cosines at the start, as CLIP's."""
START = 0.1
"""Standard deviation of the last layers and of the mixtures' logits at the start: prototypes that were equal would stay
so.
"""


@dataclass(frozen=True)
class Form:
    """`width` of the features, of the `hidden` layers, number of `prototypes`, and the `annotators` that have a mixture
    of their own.
    """

    width: int
    hidden: int
    prototypes: int
    annotators: tuple[str, ...]


class PluralScorer(nn.Module):
    """The maps and the mixtures; row 0 of the mixtures is that of pairs of nobody in `annotators`."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form
        self.maps = nn.ModuleDict({"images": _perceptron(form, 1), "prompts": _perceptron(form, form.prototypes)})
        self.logit_scale = nn.Parameter(torch.tensor(SCALE))
        self.mixtures = Mixtures(1 + len(form.annotators), form.prototypes)

    def row(self, annotator: str) -> int:
        """The row of an annotator, 0 where they have none of their own."""
        return 1 + self.form.annotators.index(annotator) if annotator in self.form.annotators else 0

    def images(self, features: Tensor) -> Tensor:
        """f [B, D] of unit length of image features [B, D]."""
        features = normalize(features, dim=-1)
        return normalize(features + self.maps["images"](features), dim=-1)

    def prototypes(self, texts: Tensor) -> Tensor:
        """g [B, K, D] of unit length of text features [B, D]."""
        texts = normalize(texts, dim=-1)
        moved = self.maps["prompts"](texts).reshape(len(texts), self.form.prototypes, -1)
        return normalize(texts[:, None] + moved, dim=-1)

    def shares(self, rows: Tensor | None = None) -> Tensor:
        """Mixtures [B, K], each summing to 1, of rows [B]; without rows that of all annotators' mean, [1, K]."""
        every = self.mixtures.logits.softmax(-1)
        if rows is not None:
            return every[rows]
        own = every[1:] if len(every) > 1 else every
        return own.mean(0, keepdim=True)

    def scores(self, images: Tensor, texts: Tensor, shares: Tensor) -> Tensor:
        """Rewards [B] of image features [B, D] with text features [B, D], for mixtures [B, K] or [1, K]."""
        wanted = (shares[:, :, None] * self.prototypes(texts)).sum(1)
        return self.logit_scale.exp() * (self.images(images) * wanted).sum(-1)


class Mixtures(nn.Module):
    """Logits of the mixtures [annotators, K], a module of its own since they learn at a rate of their own."""

    def __init__(self, annotators: int, prototypes: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(START * torch.randn(annotators, prototypes))


class Taught(nn.Module):
    """What of a scorer learns at the rate of the maps."""

    def __init__(self, scorer: PluralScorer) -> None:
        super().__init__()
        self.maps, self.logit_scale = scorer.maps, scorer.logit_scale


def rows_of(scorer: PluralScorer, annotators: Sequence[str]) -> Tensor:
    """Rows [B] of annotators."""
    known = {name: number for number, name in enumerate(scorer.form.annotators, 1)}
    return torch.tensor([known.get(name, 0) for name in annotators])


def _perceptron(form: Form, copies: int) -> nn.Module:
    last = nn.Linear(form.hidden, copies * form.width)
    nn.init.normal_(last.weight, std=START / form.hidden**0.5)
    nn.init.normal_(last.bias, std=START / form.width**0.5)
    return nn.Sequential(nn.Linear(form.width, form.hidden), nn.GELU(), last)
