"""What the items of a set share: its networks as they are trained, objectives of the product on them, its gradients."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from stages.finetune.batch import Batch
from stages.finetune.method import Method
from stages.finetune.networks import Networks
from stages.finetune.objective import Objective, Run
from stages.finetune.reward import CountedReward, LatentReward, RewardFunction
from stages.finetune.settings import FinetuneSettings
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser
from stages.models.noise import GivenNoise
from stages.models.policy import make_policy
from stages.models.process import DiffusionProcess
from stages.parity.checks import EXACT, Check, compare, same
from stages.parity.preference.given import Trained
from stages.parity.reference import Expected, ParitySet
from stages.parity.training import gradient_checks

# Relative to the largest expected magnitude of an array, as the public set's README recommends.
VALUE = 3e-5  # latents, features, log densities, ratios, rewards, losses, norms of whole gradients
SCORE = 5e-5  # scores of candidates
MARGIN = 2e-4  # differences of probabilities
IMAGE = 1e-4  # images
GRADIENT = 2e-4  # gradients, and norms by parameter


@dataclass(frozen=True)
class Item:
    """One item of the set: its settings in expected.json, and the arrays whose names start with its own."""

    name: str
    reference: ParitySet

    @property
    def expected(self) -> Expected:
        """All that is expected."""
        return self.reference.expected

    @property
    def method(self) -> str:
        """The first part of its name."""
        return self.name.split(".")[0]

    def setting(self, key: str) -> Any:
        """An entry of its settings; raises InputError where it has none of that name."""
        return self.expected.value(self.name, key)

    def has(self, key: str) -> bool:
        """Whether it has such an entry or such an array."""
        return key in self.expected.scalars.get(self.name, {}) or f"{self.name}.{key}" in self.expected.arrays

    def input(self, key: str) -> Tensor:
        """The array that only it computes from."""
        return self.reference.inputs[f"{self.name}.{key}"]

    def check(self, key: str, found: Any, tolerance: float, scale: float | None = None) -> Check:
        """The comparison with its array or its number `key`."""
        name = f"{self.name}.{key}"
        wanted = self.expected.array(name) if name in self.expected.arrays else self.setting(key)
        return compare(name, found, wanted, tolerance, scale)

    def states(self, key: str, found: object) -> Check:
        """The comparison with an entry that has no distance."""
        return same(f"{self.name}.{key}", found, self.setting(key))

    def leave(self, why: str, *keys: str) -> None:
        """Entries that are known and not compared."""
        self.expected.left.update({f"{self.name}.{key}": why for key in keys})


@dataclass(frozen=True)
class Given:
    """The set, with what its items compute from."""

    reference: ParitySet

    def items(self, method: str, has: str = "loss") -> list[Item]:
        """The items of a method that have an entry `has`, in the order of the set."""
        names = [name for name in self.reference.expected.scalars if name.startswith(f"{method}.")]
        return [item for item in (Item(name, self.reference) for name in names) if item.has(has)]

    @cached_property
    def texts(self) -> tuple[Conditioning, Conditioning]:
        """Conditioning on the prompts, and on the empty one."""
        return self.reference.embeddings()

    @cached_property
    def clean(self) -> Tensor:
        """Scaled latents [B, C, h, w] of the real images."""
        return self.reference.of_networks("vae.latents_scaled")

    def trained(self) -> Trained:
        """The policy as it is trained: the whole tuned network, with gradients of its own."""
        policy = make_policy(copy.deepcopy(self.reference.tuned), "full")
        return Trained(Denoiser(policy.network, self.reference.schedule), dict(policy.parameters()))

    @cached_property
    def base(self) -> Denoiser:
        """The frozen base."""
        return Denoiser(self.reference.base, self.reference.schedule)

    @cached_property
    def tuned(self) -> Denoiser:
        """The policy, frozen."""
        return Denoiser(self.reference.tuned, self.reference.schedule)

    def between(self, share: float) -> nn.Module:
        """The network with the weights base + share (tuned - base)."""
        tuned, made = dict(self.reference.tuned.named_parameters()), copy.deepcopy(self.reference.base)
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                parameter.lerp_(tuned[name], share)
        return made

    def batch(self, rows: Sequence[int], noise: GivenNoise | None = None) -> Batch:
        """A micro-batch of the prompts with these numbers."""
        start = self.reference.inputs["x_T"]
        given = GivenNoise(start, start[None], {}) if noise is None else noise
        names = [self.reference.prompts[row] for row in rows]
        return Batch(names, self.texts[0][list(rows)], given, random.Random(0), 0)

    def run(
        self, policy: Denoiser, steps: int, guidance: float, reward: RewardFunction | None = None,
        process: DiffusionProcess | None = None, reference: Denoiser | None = None, **train: object,
    ) -> Run:  # fmt: skip
        """What an objective works with: the policy on a grid of `steps` steps beside the base, and a reward."""
        settings = FinetuneSettings.model_validate({"sampling_steps": steps, "guidance": guidance} | train)
        grid = (process or self.reference.schedule).grid(steps)
        networks = Networks(
            policy, grid, self.texts[1], guidance, settings.sampler, reference=reference or self.base
        )  # fmt: skip
        judge = CountedReward(self.reference.reward if reward is None else reward)
        return Run(networks, LatentReward(self.reference.vae.decode, judge, settings), settings)

    def gradients(self, item: Item, trained: Trained, tolerance: float = GRADIENT) -> Iterator[Check]:
        """Norms of the gradients that stand in the parameters, and the ones that the set holds whole."""
        yield from gradient_checks(
            self.reference, item.name, (item.name,), trained.parameters, tolerance, whole=tolerance
        )  # fmt: skip


def objective(module: ModuleType, run: Run, **keys: object) -> Objective:
    """The objective of a method with these settings."""
    method: Method[Any] = module.METHOD
    return method.objective(method.settings.model_validate({"kind": "parity"} | keys), run)


def guidance(item: Item) -> float:
    """The guidance of an item: 1 where it has none."""
    scale = float(item.setting("guidance"))
    return 1.0 if item.has("cfg") and not item.setting("cfg") else scale


def of_terms(terms: Sequence[Tensor] | Tensor) -> float:
    """The unit of the error of a mean of terms of both signs: their mean magnitude."""
    values = torch.as_tensor(terms) if isinstance(terms, Tensor) else torch.stack(list(terms))
    return float(values.detach().abs().mean()) or 1.0


def interleaved(members: Tensor | Sequence[Tensor], dim: int = 0) -> Tensor:
    """The members' rows [B, ...] side by side along `dim`: rows 2n and 2n + 1 are those of members 0 and 1."""
    first, second = members[0], members[1]
    return torch.stack([first, second], dim + 1).flatten(dim, dim + 1)


def sides(item: Item, side: str, log_prob: Tensor, log_ratio: Tensor) -> Iterator[Check]:
    """The comparison of log densities, and of ratios to the base before and after they were clipped to the item's
    `eps`, of one member of each pair; both of the shape of the set's arrays.
    """
    clip, own, ratio = item.setting("eps"), log_prob.detach(), log_ratio.detach()
    raw = ratio.exp()
    kept = raw.clamp(1 - clip, 1 + clip)
    yield item.check(f"logp_{side}", own, VALUE)
    yield item.check(f"logp_ref_{side}", own - ratio, VALUE)
    yield item.check(f"ratio_raw_{side}", raw, VALUE)
    yield item.check(f"ratio_{side}", kept, VALUE)
    yield item.check(f"clipped_{side}", raw != kept, EXACT)
