"""The base's own trajectories, and the rest of each drawn again from its states with other noise.

Image n of a prompt has the noise of candidate 0; whatever is drawn again has that of candidate 1
(`stages/models/noise.py`), so it is independent of the first image given their common state. Steps are ancestral also
where the study samples deterministically: there the first noise alone would settle everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stages.decided.settings import DecidedSettings
from stages.encode.store import Encodings, Item
from stages.errors import InputError
from stages.models.diffusion import Denoiser, DiffusionModel
from stages.models.noise import KeyedNoise
from stages.models.sampler import OnStep
from stages.pictures import levels
from stages.sample.context import Context
from stages.sample.networks import Networks, Rows
from stages.sample.texts import Texts


@dataclass(frozen=True)
class Drawn:
    """Images uint8 [B, H, W, 3] at one index, and their network evaluations; the first ones have index None."""

    index: int | None
    pixels: np.ndarray
    evaluations: int


@dataclass(frozen=True)
class Drawing:
    """The base on a grid of `steps`, and what to draw."""

    model: DiffusionModel
    encodings: Encodings
    settings: DecidedSettings
    steps: int
    seed: int

    def groups(self) -> list[list[Item]]:
        """The training prompts in groups of whole prompts, of at most `batch_size` images where a prompt has fewer."""
        items = self.encodings.prompts("train")
        count = min(self.settings.prompts, len(items))
        chosen = [items[place * len(items) // count] for place in range(count)]
        size = max(1, self.settings.batch_size // self.settings.samples)
        return [chosen[first : first + size] for first in range(0, count, size)]

    def timesteps(self) -> Mapping[int, float]:
        """The training timestep of every index of the grid."""
        return {i: float(t) for i, t in enumerate(self.model.process.grid(self.steps).timesteps)}

    @torch.no_grad()
    def draw(self, prompts: Sequence[Item]) -> Iterator[Drawn]:
        """The images of some prompts, `samples` of each side by side, then those drawn again from every index."""
        indices = self.settings.grid(self.steps)
        kept: dict[int, Tensor] = {}

        def keep(i: int, x: Tensor) -> None:
            if i in indices:
                kept[i] = x

        ctx = self._context(prompts, keep)
        images = ctx.decode(ctx.finish(ctx.networks.base(self.settings.guidance)))
        yield Drawn(None, _pixels(images, prompts), _evaluations(ctx))
        for index in indices:
            again = self._context(prompts).candidate(1)
            clean = again.finish(again.networks.base(self.settings.guidance), begin=(index, kept[index]))
            yield Drawn(index, _pixels(again.decode(clean), prompts), _evaluations(again))

    def _context(self, prompts: Sequence[Item], on_step: OnStep | None = None) -> Context:
        items = [item for item in prompts for _ in range(self.settings.samples)]
        keys = [("decided", item.item_id, n) for item in prompts for n in range(self.settings.samples)]
        grid, device = self.model.process.grid(self.steps), self.model.device
        networks = Networks(
            grid, Texts.of(self.encodings.text(items)), self.encodings.empty(),
            Denoiser(self.model.unet, self.model.process), None, Rows.of(len(items), self.settings.batch_size),
        )  # fmt: skip
        noise = KeyedNoise(self.seed, keys, self.encodings.latent_shape(), device)
        texts = [item.text for item in items]
        return Context(networks, noise, texts, [0] * len(items), "ddpm", self.model.vae.decode, on_step=on_step)


def _pixels(images: Tensor, prompts: Sequence[Item]) -> np.ndarray:
    """Images in [0, 1] as levels; raises InputError where one is not finite."""
    if not bool(torch.isfinite(images).all()):
        texts = ", ".join(repr(item.text[:60]) for item in prompts[:3])
        raise InputError(f"decided: an image of the prompts {texts} is not finite; broken weights or encodings?")
    return levels(images)


def _evaluations(ctx: Context) -> int:
    return sum(cost.nfe for cost in ctx.rows.meter.costs())
