"""SPO: candidates of the policy's rollouts, scored by a step-aware model, and the loss of their pairs."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from stages.finetune.batch import Batch
from stages.finetune.families.candidates import CandidateRollouts, Candidates
from stages.finetune.families.settings import CandidateSettings
from stages.finetune.families.step_preference import Branches, StepPairs
from stages.finetune.methods import spo
from stages.finetune.objective import Loss
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser
from stages.models.noise import GivenNoise
from stages.models.process import Gaussian
from stages.parity.checks import EXACT, Check
from stages.parity.stepwise.given import GRADIENT, IMAGE, MARGIN, SCORE, VALUE, Given, Item, guidance, objective, sides
from stages.rewards.open_clip import OpenClip

CROP = slice(28, 36)  # the rows and columns of images that the set holds


class StepScorer(OpenClip):
    """A CLIP whose image features move by t / 1000 of a vector; it resizes without antialias, then clamps."""

    vector: Tensor

    def pixels(self, images: Tensor) -> Tensor:
        """Images as the network takes them."""
        size = [self.preprocess.size] * 2
        resized = interpolate(images, size, mode="bicubic", align_corners=False, antialias=False).clamp(0, 1)
        return self.preprocess(resized)

    def score_at(self, images: Tensor, prompts: Sequence[str], t: float) -> Tensor:
        """Cosines [B] at timestep t."""
        return self.compare(self.embed(images) + t / 1000 * self.vector, prompts)

    @property
    def scale(self) -> float:
        """What multiplies cosines in logits."""
        return float(self.model.logit_scale.exp())


@dataclass(frozen=True)
class GivenCandidates(GivenNoise):
    """Given noise with that of every candidate of an image: `candidates` [T, K, B, ...]."""

    candidates: Tensor = field(default_factory=lambda: torch.empty(0))

    def rows(self, rows: Sequence[int], candidates: Sequence[int]) -> GivenNoise:
        """The chosen rows, all with the same number."""
        place = list(rows)
        return GivenNoise(self.start[place], self.candidates[:, candidates[0], place], {})


class Recorded(CandidateRollouts[spo.Settings]):
    """The product's objective, which keeps the candidates of every step."""

    kept: list[Candidates]

    def candidates(self, step: Gaussian, i: int, batch: Batch, text: Conditioning) -> Candidates:
        """As the product has them."""
        self.kept.append(super().candidates(step, i, batch, text))
        return self.kept[-1]


@dataclass
class Recording:
    """A step-aware reward, with the timesteps that it was asked for and the images that it saw."""

    scorer: StepScorer
    times: list[float]
    images: list[Tensor]
    name: str = "scorer"
    differentiable: bool = True

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Cosines [B] without a timestep."""
        return self.scorer(images, prompts)

    def score_at(self, images: Tensor, prompts: Sequence[str], t: float) -> Tensor:
        """Cosines [B] at timestep t."""
        self.times.append(t)
        self.images.append(images)
        return self.scorer.score_at(images, prompts, t)


def checks(given: Given) -> Iterator[Check]:
    """Every item of candidates, and the losses of its pairs, whose names go on from its own."""
    losses = given.items("spo")
    for item in given.items("spo", has="scores"):
        found = yield from _candidates(given, item)
        for of in losses:
            if of.name.startswith(f"{item.name}."):
                yield from loss_of_pairs(given, spo, item, of, found)


def recorded(given: Given, item: Item, policy: Denoiser, scorer: Recording) -> Recorded:
    """The product's objective with the settings of an item of candidates."""
    settings = spo.Settings.model_validate({
        "kind": "parity", "candidates": item.setting("K"), "start": item.setting("start"), "eta": item.setting("eta"),
        "threshold": item.setting("threshold"), "scale": scorer.scorer.scale,
    })  # fmt: skip
    run = given.run(policy, item.setting("steps"), guidance(item), scorer)
    vae = given.reference.vae
    reward = replace(run.reward, decode=lambda x0: vae.decode_raw(x0) / 2 + 0.5)  # the scorer clamps them
    made = Recorded(settings, replace(run, reward=reward), spo.loss)
    made.kept = []
    return made


def _candidates(given: Given, item: Item) -> Generator[Check, None, Branches]:
    reference, judge = given.reference, given.reference.reward
    scorer = StepScorer("scorer", judge.model, judge.preprocess, judge._tokenize)
    scorer.vector = reference.inputs["spo.time_vector"]
    seen, first = Recording(scorer, [], []), item.setting("start")
    made = recorded(given, item, given.tuned, seen)
    noise, follow, count = item.input("noise"), item.input("follow"), item.setting("K")
    # a number of the set enters the step of its place
    numbers = {f"follow {i}": (follow[min(i + 1, len(follow) - 1)][:, None].double() + 0.5) / count
               for i in range(first, len(noise))}  # fmt: skip
    given_noise = GivenCandidates(reference.inputs["x_T"], noise[:, 0], {}, numbers, noise)
    branches, _ = made.branch(given.batch(range(len(reference.prompts)), given_noise))

    grid = made.run.networks.grid.timesteps
    yield item.states("timesteps", grid.tolist())
    each = made.settings.candidates
    yield item.check("score_timesteps", torch.tensor(seen.times[::each]), EXACT)
    yield item.check("scores", torch.stack([kept.scores for kept in made.kept]), SCORE)
    yield item.check("best_worst", torch.stack([torch.stack([k.best, k.worst]) for k in made.kept]), EXACT)
    yield item.check("margin", torch.stack([kept.margin for kept in made.kept]), MARGIN)
    crops = torch.stack([images[0, :, CROP, CROP] for images in seen.images])
    yield item.check("image_raw_crop", 2 * crops.unflatten(0, (-1, each)) - 1, IMAGE)  # as the decoder has them
    valid = branches.sign > 0
    yield item.check("valid", valid.reshape(len(made.kept), -1), EXACT)
    yield item.check("valid_share", valid.double().mean(), VALUE)
    pairs = branches.at(valid.nonzero()[:, 0])
    yield item.states("pairs", len(pairs.x))
    yield item.check("pair_timesteps", grid[pairs.i], EXACT)
    yield item.check("pair_x", pairs.x, VALUE)
    yield item.check("pair_next", torch.stack([pairs.first, pairs.second], 1), VALUE)
    prompts = torch.arange(len(reference.prompts)).repeat(len(made.kept))[valid]
    yield item.states("prompt_of_row", prompts[item.setting("rows")].tolist())
    return pairs


def loss_of_pairs(
    given: Given, module: ModuleType, settings: Item, item: Item, pairs: Branches, value: float = VALUE,
    gradient: float = GRADIENT,
) -> Iterator[Check]:  # fmt: skip
    """The loss by the method in `module` of some of the pairs, which all count once, with these tolerances."""
    trained, kept = given.trained(), []
    scale = settings.setting("guidance") if item.setting("cfg") else 1.0
    run = given.run(trained.denoiser, settings.setting("steps"), scale)
    made = objective(module, run, beta=item.setting("beta"), clip=item.setting("eps"), eta=settings.setting("eta"))
    assert isinstance(made, CandidateRollouts)
    some = pairs.at(torch.tensor(item.setting("rows")))
    some = replace(some, sign=torch.ones_like(some.sign))
    own = made.pair_loss

    def loss(found: StepPairs, of: CandidateSettings) -> Loss:
        kept.append(found)
        return own(found, of)

    made.pair_loss = loss
    found = made.part(some).root
    found.backward()
    with torch.no_grad():
        steps = made.chain.transition(trained.denoiser, some.x, some.i, some.text)
    yield from sides(item, "w", steps.log_prob(some.first), kept[0].first)
    yield from sides(item, "l", steps.log_prob(some.second), kept[0].second)
    yield item.check("loss", found, value)
    yield from given.gradients(item, trained, gradient)
