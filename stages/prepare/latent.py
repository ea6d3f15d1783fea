"""Trains a reward of noisy latents (LRM, Zhang et al. 2025, arXiv 2502.01051) on pairs, with a frozen base at hand.

Both images of a pair are noised to one timestep, each with noise of its own, and the one that was preferred should
score higher. The folder that comes out holds what was trained, `latent_reward.safetensors`, and its form; the rest is
the base's, a part of the record. The text encoder stays frozen here, while the release trains it.
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from stages.errors import InputError
from stages.models.conditioning import Conditioning
from stages.models.diffusion import DiffusionModel, posterior_sample
from stages.models.latent_scorer import (
    CONFIG,
    WEIGHTS,
    Form,
    Judged,
    LatentScorer,
    contrast,
    pair_loss,
    weighted,
    whole_texts,
)
from stages.prepare import quality
from stages.prepare.latent_settings import LatentSettings
from stages.prepare.loop import Log, Probe, Terms, Trainer, draw_rows, generator
from stages.prepare.pictures import Pictures
from stages.prepare.quality import Pairs
from stages.resume import State
from stages.runtime import seed_from, whole_file, whole_files

PROBED = (1, 0.5, 1.0)
"""Timesteps of the check on held-out pairs: the least, and shares of the largest."""
SLICE = 256
"""Images or pairs at a time outside training."""


class Lesson:
    """What the network learns from: posteriors of the images of pairs, and conditions on their prompts."""

    def __init__(self, settings: LatentSettings, model: DiffusionModel, pictures: Pictures, pairs: Pairs) -> None:
        self.settings, self.model, self.pairs = settings, model, pairs
        self.used, places = np.unique(np.concatenate([pairs.a, pairs.b]), return_inverse=True)
        self.first, self.second = (torch.from_numpy(side) for side in np.split(places, 2))
        self.mean, self.std = self._posteriors(pictures)
        prompts = list(dict.fromkeys(pairs.prompts))
        self.row = torch.tensor([prompts.index(text) for text in pairs.prompts])
        with torch.no_grad():
            parts = [prompts[n : n + SLICE] for n in range(0, len(prompts), SLICE)]
            self.given = Conditioning.cat([model.text.encode(part)[0] for part in parts])
            self.whole = torch.cat([whole_texts(model.text, part) for part in parts])
            self.empty = model.text.empty()
        counts = torch.bincount(self.row)
        self.judged = Judged(torch.from_numpy(pairs.preference), 1 / counts[self.row].float())

    @torch.no_grad()
    def _posteriors(self, pictures: Pictures) -> tuple[Tensor, Tensor]:
        found = []
        for n in range(0, len(self.used), SLICE):
            pixels = torch.from_numpy(pictures.images[self.used[n : n + SLICE]]).to(self.model.device)
            found.append(self.model.vae.posterior(pixels.permute(0, 3, 1, 2).float() / 255))
        mean, std = (torch.cat(parts) for parts in zip(*found, strict=True))
        return mean, std

    def noised(self, rows: Tensor, t: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents [2 B, C, h, w] of the first, then of the second images of pairs, noised to t [B], and t twice."""
        images, device = torch.cat([self.first[rows], self.second[rows]]), self.model.device
        drawn, noise = torch.randn((2, len(images), *self.mean.shape[1:]), generator=random).to(device)
        images = images.to(device)
        clean = posterior_sample(self.mean[images], self.std[images], drawn, self.model.vae.scale)
        times = torch.cat([t, t]).to(device)
        return self.model.process.noised(clean, noise, times), times

    def features(self, scorer: LatentScorer, rows: Tensor, t: Tensor, random: torch.Generator) -> tuple[Tensor, ...]:
        """Features [B, D] of the first and the second images of pairs, and of their texts."""
        x, times = self.noised(rows, t, random)
        place = self.row[rows].to(self.model.device)
        both = scorer.image_features(x, times, self.given[torch.cat([place, place])], self.empty)
        return *both.chunk(2), scorer.text_features(self.whole[place])

    def terms(self, scorer: LatentScorer, step: int) -> Terms:
        """The loss of one optimizer step."""
        settings, device = self.settings, self.model.device
        rows = draw_rows(settings.seed, "latent pairs", step, len(self.pairs), settings.batch)
        random = generator(settings.seed, "latent noise", step)
        t = torch.randint(1, settings.largest + 1, (len(rows),), generator=random)
        first, second, texts = self.features(scorer, rows, t, random)
        judged = Judged(self.judged.label[rows].to(device), self.judged.weight[rows].to(device))
        chosen = pair_loss(torch.stack([scorer.scores(side, texts) for side in (first, second)], 1), judged)
        alike = torch.zeros(len(rows), dtype=torch.bool, device=device)
        found = {"loss": chosen, "loss_preference": chosen}
        if settings.contrast:
            found["loss_contrastive"] = contrast((first, second), texts, scorer.logit_scale.exp(), judged)
            found["loss"] = chosen + settings.contrast * found["loss_contrastive"]
        return {name: weighted(value, judged, alike, 1.0) for name, value in found.items()}

    @torch.no_grad()
    def accuracy(self, scorer: LatentScorer, t: int) -> float:
        """Share of the pairs with a preference whose preferred image scores higher at timestep t; draws half."""
        right = total = 0.0
        for n in range(0, len(self.pairs), SLICE):
            rows = torch.arange(n, min(n + SLICE, len(self.pairs)))
            random = generator(self.settings.seed, f"latent check {t}", n)
            first, second, texts = self.features(scorer, rows, torch.full((len(rows),), t), random)
            gap = (scorer.scores(first, texts) - scorer.scores(second, texts)).cpu()
            wanted = (self.judged.label[rows] - 0.5).sign()
            right += float((((gap.sign() * wanted) + 1) / 2)[wanted != 0].sum())
            total += float((wanted != 0).sum())
        return right / total if total else 0.5


def build(settings: LatentSettings, model: DiffusionModel, width: int) -> LatentScorer:
    """The network before training: the base's own, with projections drawn from the seed."""
    torch.manual_seed(seed_from(settings.seed, "latent projections"))
    form = Form(settings.scales, settings.guided, settings.guidance)
    scorer = LatentScorer(copy.deepcopy(model.unet), form, width, settings.dimensions).to(model.device)
    trained = {id(value) for value in scorer.trained().values()}
    for value in scorer.parameters():
        value.requires_grad_(id(value) in trained)
    return scorer


def train(
    settings: LatentSettings, model: DiffusionModel, pictures: tuple[Pictures, Pictures], pairs: Path, out: Path,
    state: State | None = None,
) -> Log:  # fmt: skip
    """Train on the pairs of training images, check on those of validation images (`pictures` has both), and save the
    result at `out`; returns the training log. Raises InputError for a base that it cannot be made of.
    """
    if model.layout.sized:
        raise InputError("prepare.train.latent: the base is told sizes of images (SDXL); expected one that is not")
    schedule = getattr(model.process, "alphas_cumprod", None)
    if schedule is not None and settings.largest >= len(schedule):
        raise InputError(
            f"prepare.train.latent: largest {settings.largest}, but the noise schedule of the base has "
            f"{len(schedule)} timesteps"
        )
    lesson = Lesson(settings, model, pictures[0], quality.read_pairs(pairs, "train", settings.source, pictures[0]))
    held = Lesson(settings, model, pictures[1], quality.read_pairs(pairs, "val", settings.source, pictures[1]))
    scorer = build(settings, model, lesson.whole.shape[1])
    times = [PROBED[0], *(max(1, round(share * settings.largest)) for share in PROBED[1:])]
    probe = Probe(
        max(1, settings.steps // 4), lambda step: {f"probe_pairs_{t}": held.accuracy(scorer, int(t)) for t in times}
    )
    trainer = Trainer("latent", {"scorer": scorer}, settings, state)
    trainer.run(lambda step: lesson.terms(scorer, step), probe)
    log = trainer.finish()
    with whole_files(out) as folder:
        weights = {name: value.detach().cpu().contiguous() for name, value in scorer.trained().items()}
        with whole_file(folder / WEIGHTS) as partial:
            save_file(weights, partial)
        content = asdict(scorer.form) | {"width": lesson.whole.shape[1], "dimensions": settings.dimensions}
        (folder / CONFIG).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return log
