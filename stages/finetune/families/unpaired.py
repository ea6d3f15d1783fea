"""Images that are liked or disliked, each by itself: denoising errors against those of a reference, without pairs.

Each image of a micro-batch has a timestep and noise of its own. The images are those of curated pairs: of every pair
one is taken, the preferred image as a liked one or the other as a disliked one, or always the preferred one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from stages.finetune import stop
from stages.finetune.batch import Batch, optimizer_step
from stages.finetune.families.pair_errors import Errors, Noisy, Outputs
from stages.finetune.families.pair_settings import PreferenceDataSettings, UnpairedSettings
from stages.finetune.families.reference import Reference
from stages.finetune.families.timesteps import Timesteps
from stages.finetune.objective import Loss, Objective, Run
from stages.finetune.together import groups, joined
from stages.models.conditioning import Conditioning
from stages.processes import ALONE, Processes

D = TypeVar("D", bound=PreferenceDataSettings)
U = TypeVar("U", bound=UnpairedSettings)


@dataclass(frozen=True)
class LabelledImages:
    """Scaled latents `clean` [N, C, h, w] with their text [N]; `liked` bool [N], and the `weight` [N] in the loss."""

    clean: Tensor
    text: Conditioning
    liked: Tensor
    weight: Tensor


@dataclass(frozen=True)
class ImageErrors:
    """N images: their `errors`, whether each is `liked` (bool [N]), and the `weight` [N] of each in the loss.

    `mismatched` are errors of the same noisy latents given the prompt of another image of the micro-batch, without
    gradient; None where the method does not ask for them. The images are those of one of `processes`.
    """

    errors: Errors
    liked: Tensor
    weight: Tensor
    mismatched: Errors | None = None
    processes: Processes = ALONE

    def mean(self, values: Tensor) -> Tensor:
        """Mean [] of values [N], each times the weight of its image."""
        return (self.weight * values).mean()

    def of_all(self, values: Tensor) -> Tensor:
        """Values [N] of these images as those of the images of all processes, without gradient."""
        return stop.gradient(self.processes.whole([values])[0])

    def mean_where(self, values: Tensor, liked: bool) -> Tensor:
        """Mean [] of values [N] over the liked or the disliked images of all processes, without gradient; 0 where
        there are none.
        """
        chosen = self.of_all((self.liked == liked).to(values))
        return (chosen * self.of_all(values)).sum() / chosen.sum().clamp(min=1)


class LikedImages(Objective, Generic[D]):
    """The objective on the preferred image of every pair; `loss` is the mean loss of some images. With `mismatched` the
    errors with other prompts are evaluated too.
    """

    def __init__(self, settings: D, run: Run, loss: Callable[[ImageErrors, D], Loss], mismatched: bool = False) -> None:
        self.settings, self.run, self.loss, self.mismatched = settings, run, loss, mismatched
        self.reference = Reference(settings.reference, run.networks)
        self.timesteps = Timesteps(settings.timesteps, run.networks.policy.process)

    def collect(self, batches: Sequence[Batch]) -> dict[str, float]:
        """The reference as it is in this step."""
        self.reference.advance(optimizer_step(batches))
        return {}

    def losses(self, batches: Sequence[Batch]) -> Iterator[Loss]:
        """The mean loss of the images of each micro-batch."""
        for places in groups(len(batches), len(batches[0].prompts), self.run.settings.gradient_batch):
            found = self.errors([batches[place] for place in places])
            parts = [self.logged(self.loss(own, self.settings), own) for own in found]
            yield from joined([part.share(1.0, place) for place, part in zip(places, parts, strict=True)])

    def images(self, batch: Batch) -> LabelledImages:
        """The preferred image of every pair, with the weight of the pair."""
        pairs = batch.preferences()
        liked = torch.ones_like(pairs.weight, dtype=torch.bool)
        return LabelledImages(pairs.winner, Conditioning.of(batch.text), liked, pairs.weight)

    def errors(self, batches: Sequence[Batch]) -> list[ImageErrors]:
        """Errors of the images of each micro-batch, all from one evaluation of each network."""
        images = [self.images(batch) for batch in batches]
        noisy = [self.noisy(batch, own) for batch, own in zip(batches, images, strict=True)]
        every = Outputs.of(self.run.networks.policy.prediction, self.reference.prediction, Noisy.cat(noisy))
        outputs = every.split([len(own.x) for own in noisy])
        return [self.of_images(*own) for own in zip(images, noisy, outputs, strict=True)]

    def of_images(self, images: LabelledImages, noisy: Noisy, outputs: Outputs) -> ImageErrors:
        """Errors of the images of a micro-batch, from the networks' predictions for their noisy latents."""
        other = self.with_other_prompts(noisy) if self.mismatched else None
        return ImageErrors(Errors.of(outputs), images.liked, images.weight, other, self.run.processes)

    def noisy(self, batch: Batch, images: LabelledImages) -> Noisy:
        """The images noised; all processes draw the timesteps alike."""
        process, processes = self.run.networks.policy.process, self.run.processes
        count = len(images.clean) * processes.count
        t = self.timesteps.draw(batch.rng, count)[processes.part(count)]
        noise = batch.noise.extra("forward")
        x, target = process.noised(images.clean, noise, t), process.target(images.clean, noise)
        return Noisy(x, t, images.text, target, self.timesteps.weight(t))

    @torch.no_grad()
    def with_other_prompts(self, noisy: Noisy) -> Errors:
        """Errors of the same noisy latents, image i given the prompt of image i - 1 of all processes' images."""
        rolled = self.run.processes.whole(list(noisy.text.tensors().values()))
        part = self.run.processes.part(len(rolled[0]))
        names = noisy.text.tensors()
        text = Conditioning(**{name: value.roll(1, 0)[part] for name, value in zip(names, rolled, strict=True)})
        other = Noisy(noisy.x, noisy.t, text, noisy.target, noisy.weight)
        return Errors.of(Outputs.of(self.run.networks.policy.prediction, self.reference.prediction, other))

    def logged(self, loss: Loss, images: ImageErrors) -> Loss:
        """The loss with the family's terms: how much larger the errors of liked and of disliked images are than the
        reference's (`liked_drift`, `disliked_drift`; without a reference the errors themselves, `liked_error`,
        `disliked_error`), and the share of images that are liked.
        """
        what, ratio = "drift" if self.reference.there else "error", images.errors.log_ratio.detach()
        terms = {
            f"liked_{what}": -images.mean_where(ratio, True),
            f"disliked_{what}": -images.mean_where(ratio, False),
            "liked": images.liked.to(ratio).mean(),
        }
        return Loss(loss.root, {**terms, **loss.terms})

    def state_dict(self) -> dict[str, Any]:
        """The reference's weights, where they change."""
        return self.reference.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what was saved."""
        self.reference.load_state_dict(state)


class UnpairedPreference(LikedImages[U]):
    """The same on one image of every pair, liked or disliked."""

    def images(self, batch: Batch) -> LabelledImages:
        """One image of every pair, the preferred one with probability `likes`; its weight is that of the pair."""
        pairs = batch.preferences()
        liked = (batch.noise.uniform("liked", 1)[:, 0] < self.settings.likes).to(pairs.winner.device)
        clean = torch.where(liked[:, None, None, None], pairs.winner, pairs.loser)
        return LabelledImages(clean, Conditioning.of(batch.text), liked, pairs.weight)


class RewardWeighted(UnpairedPreference[U]):
    """The same with the weight exp(reward / temperature) of each image, scaled to a mean of 1 over the micro-batch of
    all processes (reward-weighted regression, Peters and Schaal 2007).
    """

    def __init__(self, settings: U, run: Run, loss: Callable[[ImageErrors, U], Loss], temperature: float) -> None:
        super().__init__(settings, run, loss)
        self.temperature = temperature

    def images(self, batch: Batch) -> LabelledImages:
        """One image of every pair with its weight by the reward, times that of the pair."""
        images, processes = super().images(batch), self.run.processes
        rewards = self.run.reward.of_all(images.clean, batch.prompts, processes)
        weights = len(rewards) * (rewards / self.temperature).softmax(0)
        return replace(images, weight=images.weight * weights[processes.part(len(rewards))].to(images.weight))
