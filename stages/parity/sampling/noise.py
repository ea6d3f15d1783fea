"""ReNO and CARINOX: every iteration of the noise, and which of them is the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stages.parity.checks import Check, same
from stages.parity.sampling.world import SHIFTED, SamplingSet, Stored, settings
from stages.rewards.open_clip import OpenClip
from stages.sample.ascent import Best, ScoredNoise, clipped, optimised, score_noise
from stages.sample.context import Context
from stages.sample.noise_search import NoiseSearch

GRADIENTS, LOSSES = 5e-4, 5e-5
TOLERANCES = {"gradient": GRADIENTS, "gradient_norm": GRADIENTS, "z": SHIFTED, "image_best": SHIFTED} | dict.fromkeys(
    ("loss_each", "loss_total", "regulariser", "z_norm", "reward_R"), LOSSES
)
SHIFT, LEAST = 5, 0.2  # of the weights of features in the further rewards


@torch.no_grad()
def checks(reference: SamplingSet) -> Iterator[Check]:
    """Every item of both methods."""
    for method in ("reno", "carinox"):
        for tag in reference.tags(method):
            yield from _item(reference, method, tag)


def _item(reference: SamplingSet, method: str, tag: str) -> Iterator[Check]:
    given, name = reference.params(method, tag), f"{method}.{tag}"
    names = [f"reward {n}" for n in range(len(given["weights"]))]
    search = settings(
        method, given["steps"], n=[given["iterations"]], weights=dict(zip(names, given["weights"], strict=True)),
        rate=given["lr"], optimiser=given["optimiser"], regularise=given["regularisation"], clip=given["grad_clip"],
        guidance=given["guidance"], **({} if given["momentum"] is None else {"momentum": given["momentum"]}),
    )  # fmt: skip
    assert isinstance(search, NoiseSearch)
    start = reference.inputs["seed_x_T"][given["seeds"]].flatten(0, 1)
    ctx = reference.context(
        given["network"], [given["prompt"]], Stored(start, start[None][:0]), reference.grid(given["steps"])
    )
    rewards = {each: _Feature(reference.base.reward, n) for n, each in enumerate(names)}
    ctx = replace(ctx, sampler="ddim", rewards=rewards)
    seeds: list[list[ScoredNoise]] = [[] for _ in given["seeds"]]
    ends = [
        optimised(ctx.candidate(number), search, given["iterations"], told.append) for number, told in enumerate(seeds)
    ]
    yield from _costs(reference, method, tag, ctx)
    gradients = [_gradients(told, search) for told in seeds]
    if search.clip_each:  # the release takes those of the rewards in the last iteration too
        for number, told in enumerate(seeds):
            gradients[number] += list(score_noise(ctx.candidate(number), search, told[-1].z).gradients)
    yield from reference.compared(name, _found(search, seeds, ends) | _moved(seeds, gradients), TOLERANCES)


def _costs(reference: SamplingSet, method: str, tag: str, ctx: Context) -> Iterator[Check]:
    """What the release pays; it evaluates the last iteration with gradient too, which no step follows."""
    given = reference.items[method][tag]
    counts = ("network_evaluations", "reward_images")
    yield from reference.costs(method, tag, ctx, *counts, by={given["network"]: ctx.networks.base_network})
    expected, iterations = reference.expected.value("items", method, tag, "with_gradient"), given["iterations"]
    spent = int(ctx.rows.meter.counts["nfe_backward"].sum())
    name = f"items.{method}.{tag}.with_gradient (but the last)"
    yield same(name, spent * iterations, expected * (iterations - 1))


def _found(search: NoiseSearch, seeds: Sequence[Sequence[ScoredNoise]], ends: Sequence[Best]) -> dict[str, Tensor]:
    """Losses of all iterations of every seed, and which is the best."""
    losses = _each(seeds, lambda scored: scored.losses)
    return {
        "loss_each": losses,
        "loss_total": _each(seeds, lambda scored: scored.total),
        "regulariser": _each(seeds, lambda scored: scored.regulariser),
        "reward_R": (search.top - losses[..., 0]) / search.slope,
        "best_iteration": torch.cat([end.iteration for end in ends]),
        "best_seed": torch.cat([end.loss for end in ends]).argmin(),
        "image_best": torch.cat([end.images for end in ends]),
    }


def _moved(seeds: Sequence[Sequence[ScoredNoise]], gradients: Sequence[Sequence[Tensor]]) -> dict[str, Tensor]:
    """The noise of all iterations of every seed, and its gradients."""
    along = torch.stack([torch.cat(list(each)) for each in gradients])
    return {
        "z": _each(seeds, lambda scored: scored.z),
        "z_norm": _each(seeds, lambda scored: scored.z.flatten(1).norm(dim=1)),
        "gradient": along,
        "gradient_norm": along.flatten(2).norm(dim=2),
    }


def _each(seeds: Sequence[Sequence[ScoredNoise]], what: Callable[[ScoredNoise], Tensor]) -> Tensor:
    """[seeds, iterations, ...] of the one image."""
    return torch.stack([torch.cat([what(scored) for scored in told]) for told in seeds])


def _gradients(told: Sequence[ScoredNoise], search: NoiseSearch) -> list[Tensor]:
    """Gradients of one image in the order of the set: those of each reward, then the sum of the clipped ones where
    they are clipped apart.
    """
    found: list[Tensor] = []
    for each in told[:-1]:
        found += list(each.gradients)
        if search.clip_each:
            found.append(clipped(each.gradients, search.clip).sum(0))
    return found


@dataclass
class _Feature:
    """R of the set where `number` is 0, else the product of unit features with weights that differ by number."""

    judge: OpenClip
    number: int
    name: str = "reward"
    differentiable: bool = True

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        if self.number == 0:
            return self.judge(images, prompts)
        features = normalize(self.judge.embed(images), dim=-1)
        weights = torch.linspace(1, LEAST, features.shape[-1]).roll(SHIFT * self.number)
        return (weights.square() * features * self.judge.encode_text(prompts)).sum(-1)
