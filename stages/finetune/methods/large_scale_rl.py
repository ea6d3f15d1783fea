"""Large-scale RL (Zhang et al. 2024, arXiv 2401.12244): DDPO with a reward of whole sets, and the pretraining loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.family import policy_gradient
from stages.finetune.methods import ddpo
from stages.finetune.needs import Needs
from stages.finetune.settings import FinetuneSettings

if TYPE_CHECKING:
    from torch import Tensor

    from stages.finetune.batch import Batch
    from stages.finetune.objective import Loss, Run

ABOUT = MethodAbout("Large-scale RL", "Zhang et al. 2024, arXiv 2401.12244", family="policy gradient")


class Settings(ddpo.Settings):
    """Own keys. A set is the images of one prompt in a batch, and its reward is their diversity."""

    images_per_prompt: int = Field(default=4, ge=2, description="images of one prompt in a batch: the set")
    advantage: Literal["batch", "prompt", "group"] = Field(
        default="batch",
        description="rewards are normalised over the batch, by the prompt's own history, or over its images here",
    )
    diversity_weight: float = Field(
        default=1.0, ge=0, description="weight of a set's diversity, 1 - mean cosine of the reward's own image features"
    )
    credit: Literal["set", "own"] = Field(
        default="set", description="every image gets the diversity of its set, or its own mean distance to the others"
    )
    pretraining_weight: float = Field(default=0.1, ge=0, description="weight of the diffusion loss on real images")

    @property
    def needs(self) -> Needs:
        """Real images for the pretraining loss, features for the diversity of sets."""
        data = "images" if self.pretraining_weight else "prompts"
        return replace(super().needs, data=data, features=self.diversity_weight > 0)

    def check(self, train: FinetuneSettings) -> None:
        """A reward that all of a group share is no advantage within it."""
        super().check(train)
        if self.advantage == "group" and self.credit == "set" and self.diversity_weight:
            raise ValueError("advantage group takes out what a set shares, expected advantage batch or credit own")


def bonus(run: Run, latents: Tensor, settings: Settings) -> tuple[Tensor, dict[str, float]]:
    """The weighted diversity [N] of the sets that latents [N, C, h, w] come in; its mean is logged."""
    if not settings.diversity_weight:
        return latents.new_zeros(len(latents)), {}
    found = diversity(run, latents, settings)
    return settings.diversity_weight * found, {"set_diversity": float(found.mean())}


def diversity(run: Run, latents: Tensor, settings: Settings) -> Tensor:
    """1 - mean cosine of each image [N] to the others of its set, or the mean of that over the set."""
    import torch
    from torch.nn.functional import normalize

    own = latents[run.processes.part(len(latents))].split(run.settings.judge_batch)
    with torch.no_grad():
        features = torch.cat([run.reward.reward.embed(run.reward.decode(part)) for part in own]).float()
    features, size = run.processes.whole([features])[0], settings.images_per_prompt
    units = normalize(features, dim=-1).reshape(-1, size, features.shape[-1])
    cosines = units @ units.transpose(1, 2)
    each = 1 - (cosines.sum(-1) - cosines.diagonal(dim1=1, dim2=2)) / (size - 1)
    return (each if settings.credit == "own" else each.mean(1, keepdim=True).expand_as(each)).flatten()


def pretraining(run: Run, batch: Batch, settings: Settings) -> Iterator[Loss]:
    """The weighted diffusion loss on real images, at a timestep of the training schedule per image."""
    from stages.finetune.objective import Loss

    if not settings.pretraining_weight:
        return
    process, noise, clean = run.networks.grid.process, batch.noise.extra("forward"), batch.real()
    count = len(batch.prompts) * run.processes.count
    t = process.random_timesteps(batch.rng, count)[run.processes.part(count)]
    prediction = run.networks.policy.prediction(process.noised(clean, noise, t), t, batch.text)
    error = (prediction - process.target(clean, noise)).square().mean()
    yield Loss.of(settings.pretraining_weight * error, loss_diffusion=error)


METHOD = policy_gradient(Settings, ddpo.loss, bonus=bonus, auxiliary=pretraining)
