"""A reward of noisy latents (LRM), trained here on pairs: `prepare.train.latent`. It also judges images.

An image is encoded by the base's autoencoder, and the mean of its posterior is scored at the least timestep. Latents of
sampling are scored as they are (`score_latents`), which is what `lpo` learns from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from safetensors.torch import load_file
from torch import Tensor

from stages.errors import InputError
from stages.gives import Gives
from stages.models.conditioning import Conditioning
from stages.models.diffusion import DiffusionModel, load_diffusion
from stages.models.latent_scorer import CONFIG, WEIGHTS, Form, LatentScorer, whole_texts
from stages.models.record import ModelRecord
from stages.rewards.networks.options import NoOptions, options

GIVES = Gives(files="needed", of="base", latents=True)
OPTIONS = NoOptions
BASE = "base"
LEAST = 1.0
"""The timestep at which images are scored."""


class NoiseAwareReward:
    """The scorer beside the autoencoder and the text encoder of its base; texts are encoded once."""

    differentiable = True

    def __init__(self, name: str, scorer: LatentScorer, model: DiffusionModel) -> None:
        self.name, self.scorer, self.model = name, scorer, model
        self.base = model.record.digest
        self._texts: dict[str, tuple[Conditioning, Tensor]] = {}
        with torch.no_grad():
            self._empty = model.text.empty()

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Reward [B] of images [B, 3, H, W] in [0, 1], each with its own prompt."""
        mean, _ = self.model.vae.posterior(images)
        return self.score_latents(self.model.vae.scale * mean, prompts, LEAST)

    def score_latents(self, x: Tensor, prompts: Sequence[str], t: float) -> Tensor:
        """Reward [B] of scaled latents x [B, C, h, w], as noisy as at timestep t."""
        times = torch.full((len(x),), t, device=x.device)
        given, texts = self._of(prompts)
        return self.scorer.scores(self.scorer.image_features(x, times, given, self._empty), texts)

    @torch.no_grad()
    def _of(self, prompts: Sequence[str]) -> tuple[Conditioning, Tensor]:
        """Conditioning and text features of prompts, each prompt by itself, so that it does not depend on the batch."""
        for prompt in prompts:
            if prompt not in self._texts:
                whole = whole_texts(self.model.text, [prompt])
                self._texts[prompt] = self.model.text.encode([prompt])[0], self.scorer.text_features(whole)
        given, texts = zip(*(self._texts[prompt] for prompt in prompts), strict=True)
        return Conditioning.cat(given), torch.cat(texts)


def load(record: ModelRecord, device: torch.device | str = "cpu") -> NoiseAwareReward:
    """The trained scorer on its base; raises InputError where the record names no base, or its weights do not fit."""
    options(record, NoOptions)
    base = record.parts.get(BASE)
    if base is None:
        raise InputError(f"model {record.name!r}: kind latent is made of a base, expected one that prepare trained")
    model = load_diffusion(base, torch.device(device), parts=("unet", "vae", "text_encoder"))
    content = json.loads(record.file(CONFIG).read_text(encoding="utf-8"))
    width, dimensions = content.pop("width"), content.pop("dimensions")
    scorer = LatentScorer(model.unet, Form(**content), width, dimensions)
    weights = load_file(record.file(WEIGHTS))
    wanted = {name: value.shape for name, value in scorer.trained().items()}
    if wanted != {name: value.shape for name, value in weights.items()}:
        raise InputError(f"model {record.name!r}: {WEIGHTS} does not fit the base of its record; run prepare again")
    scorer.load_state_dict(weights, strict=False)
    return NoiseAwareReward(record.name, scorer.to(device).eval().requires_grad_(False), model)
