"""Errors of pairs in the feature space of a frozen UNet (NCP-DPO): states that follow from the predictions are compared
by the features that the first half of the network gives, and not the predictions themselves.

    e(x) = mean (f(x'(policy), t') - f(x'(true noise), t'))^2,   r(x) the same of the reference

x' is the state at t' that a prediction leads to: one step of the noise schedule down, from t to t - 1, whose noise all
predictions share, or the predicted clean latents with their predicted noise at another timestep.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from stages.errors import InputError
from stages.finetune.batch import Batch, LatentPairs
from stages.finetune.families.pair_errors import Errors, Noisy, Outputs, PairErrors
from stages.finetune.families.pair_variants import FeatureSpace, PerceptualSettings
from stages.finetune.families.preference import PairedPreference
from stages.models.diffusion import Denoiser
from stages.models.features import Features, require_features
from stages.models.process import at
from stages.models.process_noise import NoiseSchedule

N = TypeVar("N", bound=PerceptualSettings)


class PerceptualPreference(PairedPreference[N]):
    """The objective on errors in feature space. Raises InputError for a base that is no UNet with a noise schedule."""

    def outputs(self, noisy: Noisy) -> Outputs:
        """The networks' predictions for noisy latents, unweighted."""
        return super().outputs(replace(noisy, weight=None))

    def of_pairs(self, batch: Batch, pairs: LatentPairs, noisy: Noisy, outputs: Outputs) -> PairErrors:
        """Errors of the pairs of a micro-batch in feature space, weighted by timestep where the settings say so."""
        step_noise = batch.noise.extra("step")
        noise, to = torch.cat([step_noise, step_noise]), self.other_timesteps(batch)
        networks, space = self.run.networks, self.settings.space
        view = networks.base if space.network == "base" else networks.policy
        found = seen(view, space, outputs, noisy, noise, None if to is None else torch.cat([to, to]))
        made = perceptual_errors(found, outputs, noisy, self.settings.plain_weight, pairs.label, pairs.weight)
        return replace(made, processes=self.run.processes)

    def other_timesteps(self, batch: Batch) -> Tensor | None:
        """For `state: uniform`, the second timestep [N] of every pair, drawn alike in all processes."""
        if self.settings.space.state == "previous":
            return None
        count = len(batch.prompts) * self.run.processes.count
        drawn = self.run.networks.policy.process.random_timesteps(batch.rng, count)
        return drawn[self.run.processes.part(count)]


def seen(
    view: Denoiser, space: FeatureSpace, outputs: Outputs, noisy: Noisy, noise: Tensor, to: Tensor | None
) -> Outputs:
    """Features under the network of `view` in place of the predictions: of the policy with gradient, of the reference
    and of the truth without. The network itself is a fixed measure, the policy's too.
    """
    process = view.process
    if not isinstance(process, NoiseSchedule):
        raise InputError("space: states are those of a noise schedule, but the base is a flow-matching model")
    require_features(view.network)

    def of(prediction: Tensor) -> Tensor:
        state, t = moved(process, noisy, prediction, noise, to)
        return chosen(view.features(state, t, noisy.text), space)

    with torch.no_grad():
        true = of(outputs.target)
        reference = None if outputs.reference is None else of(outputs.reference)
    with fixed(view.network):
        return Outputs(of(outputs.prediction), reference, true)


@contextmanager
def fixed(network: nn.Module) -> Iterator[None]:
    """A region in which a network's weights require no gradient."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def moved(
    process: NoiseSchedule, noisy: Noisy, prediction: Tensor, noise: Tensor, to: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The state [B, C, h, w] that a prediction leads to, and its timestep [B]: one step of the whole schedule down with
    this `noise` (Ho et al. 2020, equation 7; at t = 0 the state stays), or the predicted clean latents and noise at
    timestep `to` [B].
    """
    clean = process.x0(noisy.x, prediction, noisy.t)
    if to is not None:
        return process.noised(clean, prediction, to), to
    after = (noisy.t - 1).clamp(min=0)
    alpha, prev = (at(process.alphas_cumprod, t, noisy.x) for t in (noisy.t, after))
    beta = 1 - alpha / prev
    mean = prev.sqrt() * beta / (1 - alpha) * clean + (1 - beta).sqrt() * (1 - prev) / (1 - alpha) * noisy.x
    return mean + ((1 - prev) / (1 - alpha) * beta).sqrt() * noise, after


def chosen(found: Features, space: FeatureSpace) -> Tensor:
    """The features [B, F, h, w] that the settings name.

    `all` are those of the first convolution, of every block and of the middle one, each laid out with the height and
    width of the last and scaled by the last's number of channels over its own number in that layout, as released.
    """
    if space.features == "all":
        size = found.middle.shape[2:]
        places = sorted({0, *found.ends})
        every = [x.reshape(len(x), -1, *size) for x in (*(found.down[i] for i in places), found.middle)]
        made = torch.cat([every[-1].shape[1] / x.shape[1] * x for x in every], 1)
    else:
        made = found.middle if space.features == "middle" else found.down[-1]
    return made.mean((2, 3), keepdim=True) if space.pooled else made


def perceptual_errors(
    seen: Outputs, plain: Outputs, noisy: Noisy, plain_weight: float, label: Tensor, weight: Tensor
) -> PairErrors:
    """Errors of N pairs, winners first, from features and, times `plain_weight`, from predictions."""
    sides = []
    for features, predictions, law in zip(seen.halves(), plain.halves(), _halves(noisy.weight), strict=True):
        found = features.weighted(law)
        errors = Errors.of(found)
        if plain_weight:
            more = Errors.of(predictions.weighted(law))
            errors = Errors(errors.policy + plain_weight * more.policy, errors.base + plain_weight * more.base)
        sides.append(errors)
    return PairErrors(sides[0], sides[1], label, weight)


def _halves(law: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    if law is None:
        return None, None
    first, second = law.chunk(2)
    return first, second
