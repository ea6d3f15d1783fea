"""Any fine-tuning method on a network of 52 parameters, in double precision, with a made-up reward."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from stages.finetune import method
from stages.finetune.batch import Batch, LatentPairs
from stages.finetune.method import Method
from stages.finetune.objective import Run
from stages.finetune.resolve import TrainingPlan
from stages.finetune.reward import CountedReward, LatentReward
from stages.finetune.settings import FinetuneSettings, MethodSettings, StudySettings
from stages.finetune.training import Trainer
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser
from stages.models.noise import KeyedNoise
from stages.processes import ALONE, Processes
from tests import tiny

DOUBLE = torch.float64


class Small(nn.Module):
    """A denoiser with the call of a UNet: a small network per pixel, with time and text."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)

        def weights(*shape: int) -> nn.Parameter:
            return nn.Parameter(0.5 * torch.randn(*shape, generator=draw))

        self.first, self.time, self.words, self.second = weights(4, 4), weights(4), weights(4, 4), weights(4, 4)

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        text = encoder_hidden_states[..., :4].mean(1) @ self.words.T
        time = (t / 1000).to(x.dtype).reshape(-1, 1) * self.time
        hidden = torch.einsum("oc,bchw->bohw", self.first, x) + (text + time)[:, :, None, None]
        return (torch.einsum("oc,bchw->bohw", self.second, torch.tanh(hidden)),)

    def features(self, x: Tensor, t: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        return x, self(x, t, text)[0]


def smooth(latents: Tensor) -> Tensor:
    """A decoder to images of 16x16 without a clamp, over which differences would stumble."""
    images = torch.sigmoid(latents[:, :3] + 0.3 * latents[:, 3:])
    return images.repeat_interleave(2, 2).repeat_interleave(2, 3)


class Judge:
    """The made-up reward, with features of images and texts."""

    name, differentiable, base = "judge", True, "tiny"

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return tiny.reward(images, prompts)

    def score_latents(self, x: Tensor, prompts: Sequence[str], t: float) -> Tensor:
        return tiny.reward(smooth(x), prompts) * (1 + t / 1000)

    def embed(self, images: Tensor) -> Tensor:
        directions = torch.randn(768, 5, generator=torch.Generator().manual_seed(3)).to(images)
        return torch.sin(images.flatten(1) @ directions)

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        return normalize(torch.cat([tiny.text(1, len(prompt)).flatten(1)[:, :5] for prompt in prompts]), dim=-1)


def definition(kind: str) -> Method[Any]:
    """The method of a kind."""
    return method.load(kind, kind)[0]


def settings(kind: str, values: dict[str, Any]) -> MethodSettings:
    """The settings of a kind, its defaults where nothing is said."""
    return definition(kind).settings.model_validate({"kind": kind, **values})


def plan(kind: str, values: dict[str, Any], train: FinetuneSettings) -> TrainingPlan:
    """The plan of a run of the method."""
    made, module = method.load(kind, kind)
    return TrainingPlan(
        "x-s0", "x", 0, made, module, settings(kind, values), train, StudySettings(reward="r", heldout="h")
    )


def trainer(kind: str, values: dict[str, Any], train: FinetuneSettings, processes: Processes = ALONE) -> Trainer:
    """A trainer of the method, with the networks that it declares and no others."""
    own = settings(kind, values)
    own.check(train)
    policy, needs = Small().double(), own.needs
    networks = tiny.networks(policy, train.sampling_steps, train.guidance, DOUBLE)
    networks = replace(networks, sampler=train.sampler)
    frozen = Denoiser(Small().double().requires_grad_(False), networks.policy.process)
    networks = replace(
        networks, reference=frozen if needs.reference else None,
        student=Denoiser(frozen.network, frozen.process) if needs.student is not None else None,
        companion=Denoiser(Small().double(), networks.policy.process) if needs.companion else None,
    )  # fmt: skip
    run = Run(networks, LatentReward(smooth, CountedReward(Judge()), train), train, processes)
    return Trainer.start(run, definition(kind).objective(own, run), dict(policy.named_parameters()))


def batch(own: MethodSettings, micro: int, count: int, processes: Processes = ALONE) -> Batch:
    """A process's rows of micro-batch `micro`, of `count` images in all; images where the method declares them."""
    groups = own.needs.group
    prompts = [f"prompt {'abc'[(row // groups + micro) % 3]}" for row in range(count)]
    part = processes.part(count)
    draw = torch.Generator().manual_seed(micro)
    clean, loser = torch.randn(2, count, *tiny.LATENT, generator=draw, dtype=DOUBLE)[:, part]
    said = None
    if own.needs.captions:
        texts = [Conditioning(tiny.text(count, 50 + 2 * micro + side).double()[part]) for side in (0, 1)]
        said = texts[0], texts[1]
    judges = [("ann", "bob", "")[(row + micro) % 3] for row in range(count)]
    label, weight = 0.5 + torch.rand(2, count, generator=draw, dtype=DOUBLE)[:, part] / 2
    return Batch(
        prompts=prompts[part],
        text=Conditioning(tiny.text(count, micro).double()[part]),
        noise=DoubleNoise(3, [("contract", micro, row) for row in range(count)][part], tiny.LATENT, tiny.CPU),
        rng=random.Random(micro),
        micro=micro,
        clean=clean if own.needs.data == "images" else None,
        further=lambda first, more: batch(own, 1000 * (micro + 1) + first, more),
        pairs=LatentPairs(clean, loser, label, weight, captions=said, annotators=judges[part])
        if own.needs.data == "pairs"
        else None,
    )


class DoubleNoise(KeyedNoise):
    """The same draws in double precision."""

    def initial(self) -> Tensor:
        return super().initial().double()

    def step(self, i: int) -> Tensor:
        return super().step(i).double()

    def extra(self, name: str) -> Tensor:
        return super().extra(name).double()


def batches(own: MethodSettings, step: int, train: FinetuneSettings, processes: Processes = ALONE) -> list[Batch]:
    """The micro-batches of an optimizer step."""
    each = train.batch_size // train.accumulate
    return [batch(own, step * train.accumulate + micro, each, processes) for micro in range(train.accumulate)]
