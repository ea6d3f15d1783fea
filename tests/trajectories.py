"""Every method that learns from trajectories, on a tiny network with a made-up reward."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from stages.finetune.batch import Batch
from stages.finetune.methods import (
    awm,
    d3po,
    ddpo,
    dense_reward,
    dpok,
    hrf,
    large_scale_rl,
    online,
    spo,
    sqdf,
    tailorpo,
)
from stages.finetune.objective import Run
from stages.finetune.reward import CountedReward, Decode, LatentReward, RewardFunction
from stages.finetune.settings import FinetuneSettings
from stages.finetune.training import Trainer
from stages.finetune.trajectories.chain import Chain
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Autoencoder, Denoiser
from stages.models.noise import KeyedNoise
from stages.models.policy import make_policy
from stages.processes import ALONE, Processes
from tests import tiny

STEPS = 5
EVERY = {
    "ddpo": (ddpo, {"advantage": "batch", "updates": 2, "epochs": 2, "clip": 0.1, "kl_weight": 0.1}),
    "dpok": (dpok, {"reward_weight": 1.0, "least_history": 1}),
    "hrf": (hrf, {"advantage": "batch", "window": 2, "move": 1, "hold": 1, "clip": 0.1}),
    "awm": (awm, {"advantage": "batch", "updates": 2, "epochs": 2, "kl_weight": 0.1}),
    "d3po": (d3po, {"updates": 2, "kl_weight": 0.1}),
    "tailorpo": (tailorpo, {"steps_per_trajectory": 2, "updates": 2, "kl_weight": 0.1}),
    "tailorpo guided": (tailorpo, {"updates": 2, "guidance": 0.5}),
    "spo": (spo, {"start": 2, "candidates": 3, "threshold": 0.1, "updates": 2, "kl_weight": 0.1}),
    "dense reward": (dense_reward, {"images_per_prompt": 2, "updates": 2, "epochs": 2, "kl_weight": 0.1}),
    "large scale": (large_scale_rl, {"images_per_prompt": 2, "updates": 2}),
    "sqdf": (sqdf, {"buffer": {"size": 8}, "replay": 2, "predictor": "ddim2"}),
    "sqdf by priority": (sqdf, {"buffer": {"size": 8, "draw": "prioritised"}, "replay": 2}),
    "sqdf without buffer": (sqdf, {"buffer": None}),
    "online": (online, {
        "round_steps": 2, "queries": [5, 3], "optimism": "bootstrap", "proxy": {"prompts": False, "heads": 3},
        "inner": {"kind": "gradient", "truncate": [2, 3]},
    }),
    "online sqdf": (online, {
        "round_steps": 2, "queries": [6], "proxy": {"prompts": False},
        "inner": {"kind": "sqdf", "buffer": {"size": 8}, "replay": 2},
    }),
}  # fmt: skip


class Made:
    """A made-up reward with features."""

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return tiny.reward(images, prompts)

    def embed(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def settings_of(module: Any, values: dict[str, Any]) -> Any:
    return module.Settings.model_validate({"kind": module.__name__.rsplit(".", 1)[-1], **values})


def batch(step: int = 0, count: int = 4, micro: int | None = None) -> Batch:
    place = step if micro is None else micro
    keys = [("test", place, n) for n in range(count)]
    return Batch(
        prompts=[f"prompt {n % 3}" for n in range(count)],
        text=Conditioning(tiny.text(count, place)),
        noise=KeyedNoise(3, keys, tiny.LATENT, tiny.CPU),
        rng=random.Random(place),
        micro=place,
        clean=torch.randn(count, *tiny.LATENT, generator=torch.Generator().manual_seed(place)),
        further=lambda first, more: batch(1000 * (place + 1) + first, more),
    )


def trainer(
    method: Any, values: dict[str, Any], base: nn.Module | None = None, kind: Any = "norm_affine",
    decode: Decode | None = None, judge: RewardFunction | None = None, processes: Processes = ALONE, **train: Any
) -> Trainer:  # fmt: skip
    """A trainer of the method of a module on a tiny network with a made-up reward."""
    network = base or tiny.unet()
    policy = make_policy(network, kind)
    shared = FinetuneSettings.model_validate({"sampling_steps": STEPS, "batch_size": 4, **train})
    settings = settings_of(method, values)
    settings.check(shared)
    networks = tiny.networks(policy.network, STEPS)
    if settings.needs.reference:
        networks = replace(networks, reference=Denoiser(network, networks.policy.process))
    reward = LatentReward(decode or Autoencoder(tiny.vae()).decode, CountedReward(judge or Made()), shared)
    run = Run(networks, reward, shared, processes)
    return Trainer.start(run, method.METHOD.objective(settings, run), dict(policy.parameters()))


def chain(made: Trainer) -> Chain:
    return Chain.of(made.run.networks)


def gradient(made: Trainer) -> Tensor:
    return torch.cat([p.grad.flatten() for p in made.parameters.values() if p.grad is not None])


def weights(made: Trainer) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in made.parameters.values()])
