"""The likeness of judged and real images in ImageReFL: values by NumPy, gradients by differences."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.errors import InputError
from stages.finetune.batch import Batch
from stages.finetune.families.reward_gradient import Step
from stages.finetune.methods import imagerefl
from stages.finetune.networks import Networks
from stages.finetune.reward import Similarity
from stages.finetune.settings import FinetuneSettings
from stages.finetune.training import Trainer
from stages.models.policy import make_policy
from tests import tiny

STEPS, WEIGHT = 6, 0.7


class Eyes:
    """The made-up reward, with features of images: five fixed directions."""

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return tiny.reward(images, prompts)

    def embed(self, images: Tensor) -> Tensor:
        directions = torch.randn(768, 5, generator=torch.Generator().manual_seed(3)).to(images)
        return torch.sin(images.flatten(1) @ directions)


def smooth(latents: Tensor) -> Tensor:
    """A decoder to images of 16x16 without a clamp, over which differences would stumble."""
    return torch.sigmoid(latents[:, :3] + 0.3 * latents[:, 3:]).repeat_interleave(2, 2).repeat_interleave(2, 3)


def trainer(step=None, judge=None, dtype: torch.dtype = torch.float64, **values: object) -> Trainer:
    settings = imagerefl.Settings(
        kind="imagerefl", start=1, middle=(1, 4), likeness_weight=WEIGHT, diffusion_weight=0.5
    )
    step = step or partial(imagerefl.step, settings=settings)
    policy = make_policy(tiny.unet().to(dtype), "norm_affine")  # type: ignore[call-arg]
    shared = FinetuneSettings.model_validate(values)
    return tiny.trainer(policy.network, step, shared, STEPS, dtype, decode=smooth, judge=judge or Eyes())


def batch(count: int = 3, micro: int = 0, dtype: torch.dtype = torch.float64) -> Batch:
    return tiny.batch(count=count, steps=STEPS, micro=micro, dtype=dtype)


def gradient(made: Trainer) -> Tensor:
    return torch.cat([p.grad.flatten() for p in made.parameters.values() if p.grad is not None])


def test_the_term_is_one_minus_the_mean_cosine() -> None:
    given, found = batch(), []

    def step(networks: Networks, batch: Batch) -> Step:
        settings = imagerefl.Settings(kind="imagerefl", start=1, middle=(3, 4), likeness_weight=WEIGHT)
        found.append((yield from imagerefl.step(networks, batch, settings)))
        return found[-1]

    [terms] = trainer(step).backward([given])
    assert given.clean is not None
    a, b = (Eyes().embed(smooth(x.detach())).numpy() for x in (found[0].x0, given.clean))
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert float(terms["loss_likeness"]) == pytest.approx(float((1 - cosines).mean()), rel=1e-12)
    expected = -float(terms["reward"]) + 0.1 * float(terms["loss_diffusion"]) + WEIGHT * float(terms["loss_likeness"])
    assert float(terms["loss"]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("size", [1, 2, 16])
def test_the_gradient_is_that_of_reward_and_term(size: int) -> None:
    """By differences along a random direction of the latents, in whatever slices."""
    made, draw = trainer(judge_batch=size, reward_scale=2.0), torch.Generator().manual_seed(1)
    x, real, along = (torch.randn(3, *tiny.LATENT, generator=draw, dtype=torch.float64) for _ in range(3))
    prompts = ["a", "b", "c"]

    def loss(at: Tensor) -> float:
        a, b = Eyes().embed(smooth(at)).numpy(), Eyes().embed(smooth(real)).numpy()
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        return float(-2.0 * tiny.reward(smooth(at), prompts).mean()) + WEIGHT * float((1 - cosines).mean())

    found = made.run.reward.gradient(x, prompts, 0.5, similarity=Similarity(WEIGHT, real)).gradient
    expected = 0.5 * (loss(x + 1e-5 * along) - loss(x - 1e-5 * along)) / 2e-5
    assert abs(expected) > 1e-6
    assert float((found * along).sum()) == pytest.approx(expected, rel=1e-6)


def test_an_image_that_is_the_real_one_has_no_gradient_of_the_term() -> None:
    made, given = trainer(), batch()
    assert given.clean is not None
    with_term = made.run.reward.gradient(given.clean, given.prompts, similarity=Similarity(100.0, given.clean))
    without = made.run.reward.gradient(given.clean, given.prompts)
    assert with_term.distances is not None and without.distances is None
    torch.testing.assert_close(with_term.distances, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(with_term.gradient, without.gradient, rtol=1e-9, atol=1e-12)


def test_it_reaches_the_policy_in_both_kinds_of_steps_and_is_off_by_default() -> None:
    values = {"kind": "imagerefl", "start": 1, "middle": (1, 4), "refl_every": 2}
    for micro in (0, 1):
        found = []
        for weight in (0.0, WEIGHT):
            settings = imagerefl.Settings.model_validate(values | {"likeness_weight": weight})
            made = trainer(partial(imagerefl.step, settings=settings))
            [terms] = made.backward([batch(micro=micro)])
            assert ("loss_likeness" in terms) == (weight > 0)
            found.append(gradient(made))
        assert float((found[0] - found[1]).abs().max()) > 1e-6
    off = imagerefl.Settings.model_validate(values)
    networks = trainer().run.networks
    assert tiny.judged(networks, batch(), imagerefl.step(networks, batch(), off)).similarity is None


def test_a_reward_without_features_is_refused() -> None:
    made = trainer(judge=tiny.reward)
    with pytest.raises(InputError, match="has no features of images"):
        made.backward([batch()])
