"""LPO: candidates of the policy's rollouts, scored as noisy latents, and the loss of their pairs."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stages.finetune.batch import Batch
from stages.finetune.families.candidates import Candidates
from stages.finetune.families.latent_candidates import LatentCandidates, thresholds
from stages.finetune.families.step_preference import Branches
from stages.finetune.methods import lpo
from stages.models.conditioning import Conditioning
from stages.models.latent_scorer import Form, LatentScorer
from stages.models.process import Gaussian
from stages.parity.checks import EXACT, Check, compare
from stages.parity.stepwise import lrm
from stages.parity.stepwise.given import MARGIN, SCORE, VALUE, Given, Item, guidance
from stages.parity.stepwise.spo import GivenCandidates, loss_of_pairs

STEEP, STRONG = 5e-4, 500.0  # tolerance of gradients, and the strength from which on it is that of the README
LAWS = {"sigma": "deviation", "variance": "variance", "linear": "timestep"}
TABLE = 20  # sampling steps of the released tables


class Recorded(LatentCandidates[lpo.Settings]):
    """The product's objective, which keeps the candidates of every step."""

    kept: list[Candidates]

    def candidates(self, step: Gaussian, i: int, batch: Batch, text: Conditioning) -> Candidates:
        """As the product has them."""
        self.kept.append(super().candidates(step, i, batch, text))
        return self.kept[-1]


@dataclass
class Judge:
    """The set's scorer as a reward of the prompts of the batch, with the timesteps that it was asked for."""

    scorer: LatentScorer
    given: Given
    times: list[float] = field(default_factory=list)
    name: str = "scorer"
    base: str = ""
    differentiable: bool = True

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Nothing of images, which are rewarded at the end of rollouts alone."""
        return images.new_zeros(len(images))

    def score_latents(self, x: Tensor, prompts: Sequence[str], t: float) -> Tensor:
        """Scores [B] of latents of all prompts in order."""
        self.times.append(t)
        text, empty = self.given.texts
        texts = self.scorer.text_features(lrm.pooled_texts(self.given))
        return self.scorer.scores(self.scorer.image_features(x, torch.full((len(x),), t), text, empty), texts)


def checks(given: Given) -> Iterator[Check]:
    """The tables of thresholds, every item of candidates, and the losses of its pairs."""
    yield from _thresholds(given)
    losses = given.items("lpo")
    for item in given.items("lpo", has="scores"):
        found = yield from _candidates(given, item)
        for of in losses:
            if of.name.startswith(f"{item.name}."):
                steep = STEEP if of.setting("beta") >= STRONG else STEEP / 2.5
                yield from loss_of_pairs(given, lpo, item, of, found, value=SCORE, gradient=steep)


def _thresholds(given: Given) -> Iterator[Check]:
    """The released tables, from the cleanest of 20 steps to the noisiest."""
    run = given.run(given.tuned, TABLE, 1.0)
    for name, table in given.reference.expected.under("lpo.threshold."):
        law, low, high = name.split("_")
        settings = lpo.Settings.model_validate({"kind": "parity", "threshold_law": LAWS[law]})
        found = thresholds(LatentCandidates(settings, run, lpo.loss).measure(), float(low), float(high))
        yield compare(f"lpo.threshold.{name}", found[::-1], table, VALUE)


def _candidates(given: Given, item: Item) -> Generator[Check, None, Branches]:
    reference, first, count = given.reference, item.setting("start"), item.setting("K")
    form = Form("all", "middle", float(item.setting("lrm_guidance")))
    judge = Judge(lrm.scorer(given, form, float(item.setting("logit_scale"))), given)
    end = item.setting("end") or None
    settings = lpo.Settings.model_validate({
        "kind": "parity", "candidates": count, "start": first, "end": end, "eta": item.setting("eta"),
        "threshold": item.setting("threshold_min"), "threshold_high": item.setting("threshold_max"),
        "threshold_law": LAWS[item.setting("dynamic_threshold")],
    })  # fmt: skip
    run = given.run(given.tuned, item.setting("steps"), guidance(item), judge)
    made = Recorded(settings, run, lpo.loss)
    made.kept = []
    noise, follow = item.input("noise"), item.input("follow")
    rest = noise.new_zeros(item.setting("steps") - len(noise), *noise.shape[1:])  # after the last step with candidates
    noise = torch.cat([noise, rest])
    numbers = {f"follow {i}": (row[:, None].double() + 0.5) / count for i, row in enumerate(follow)}
    given_noise = GivenCandidates(reference.inputs["x_T"], noise[:, 0], {}, numbers, noise)
    branches, _ = made.branch(given.batch(range(len(reference.prompts)), given_noise))

    grid = run.networks.grid.timesteps
    yield item.states("timesteps", grid.tolist())
    yield item.check("score_timesteps", torch.tensor(judge.times[::count]), EXACT)
    yield item.check("scores", torch.stack([kept.scores for kept in made.kept]), SCORE)
    yield item.check("best_worst", torch.stack([torch.stack([k.best, k.worst]) for k in made.kept]), EXACT)
    yield item.check("margin", torch.stack([kept.margin for kept in made.kept]), MARGIN)
    steps = settings.among(len(grid))
    bounds = torch.tensor([made.threshold(i) for i in steps])
    yield item.check("threshold", bounds[:, None].expand(-1, len(reference.prompts)), VALUE)
    valid = branches.sign > 0
    yield item.check("valid", valid.reshape(len(made.kept), -1), EXACT)
    pairs = branches.at(valid.nonzero()[:, 0])
    yield item.states("pairs", len(pairs.x))
    yield item.check("pair_timesteps", grid[pairs.i], EXACT)
    yield item.check("pair_x", pairs.x, VALUE)
    yield item.check("pair_next", torch.stack([pairs.first, pairs.second], 1), VALUE)
    prompts = torch.arange(len(reference.prompts)).repeat(len(made.kept))[valid]
    yield item.states("prompt_of_row", prompts[item.setting("rows")].tolist())
    return pairs
