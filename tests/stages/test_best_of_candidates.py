"""The best of neighbouring candidates: which row it is, by which prompt it is judged, and what stays of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser
from stages.sample.context import Context
from stages.sample.networks import Networks, Rows
from stages.sample.texts import Texts
from tests import tiny

WANTED = {"bright": 1.0, "dark": -1.0}


class Brightness:
    """Mean of an image, or less the mean, as its prompt says."""

    name, differentiable = "brightness", True

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images.mean((1, 2, 3)) * torch.tensor([WANTED[prompt] for prompt in prompts])


@pytest.mark.parametrize("limit", [1, 2, 4, 6])
def test_the_first_of_the_best_candidates_of_each_image(limit: int):
    """Scores are those of what the reward is shown, images those that were decoded; equal ones in calls of their own,
    or in one.
    """
    on = tiny.schedule()
    networks = Networks(
        on.grid(3), Texts.of(Conditioning(tiny.text(6))), Conditioning(tiny.text(1)), Denoiser(tiny.unet(0), on), None,
        Rows.of(6, limit),
    )  # fmt: skip
    prompts = ["bright"] * 3 + ["dark"] * 3
    ctx = Context(networks, tiny.noise(6, 3), prompts, [0] * 6, "ddpm", lambda x: 10 * x, {"r": Brightness()})
    x0 = torch.tensor([1.0, 3.0, 3.0, -2.0, -1.0, -5.0]).view(6, 1, 1, 1).expand(6, *tiny.LATENT).clone()
    x0[2, :, 0, 0], x0[2, :, 0, 1] = 2, 4  # another image of the same mean
    scores, images = ctx.best_of_latents(x0, 3, "r", lambda images: images / 2)
    torch.testing.assert_close(scores, torch.tensor([[5.0, 15.0, 15.0], [10.0, 5.0, 25.0]]))
    torch.testing.assert_close(images, 10 * x0[[1, 5]])
