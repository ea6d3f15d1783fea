"""What the items of a set share: networks derived from the two of the set, latents of its pairs, its gradients."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from stages.finetune.batch import LatentPairs
from stages.finetune.families.pair_errors import PairErrors, pair_errors
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser, posterior_sample
from stages.models.policy import make_policy
from stages.parity.checks import COUNT, Check, compare, norms
from stages.parity.reference import Expected, ParitySet

VALUE = 2e-5  # latents, predictions, errors per image, rollouts
LOSS = 1e-4  # losses, margins, weights
GRADIENT = 2e-4  # gradients, and norms by parameter against the largest


@dataclass(frozen=True)
class Trained:
    """A network of the set as it is trained: the whole of it."""

    denoiser: Denoiser
    parameters: Mapping[str, nn.Parameter]


@dataclass(frozen=True)
class Item:
    """One item of the set: its settings in expected.json, and the arrays whose names start with its own."""

    name: str
    expected: Expected

    def setting(self, key: str) -> Any:
        """An entry of its settings; raises InputError where it has none of that name."""
        return self.expected.value("items", self.name, key)

    def has(self, key: str) -> bool:
        """Whether it has such an entry or such an array."""
        return key in self.expected.scalars["items"].get(self.name, {}) or f"{self.name}.{key}" in self.expected.arrays

    def check(self, key: str, found: Any, tolerance: float) -> Check:
        """The comparison with its array `key`."""
        name = f"{self.name}.{key}"
        return compare(name, found, self.expected.array(name), tolerance)

    def check_loss(self, found: Tensor, tolerance: float = LOSS) -> Check:
        """The comparison with its loss."""
        return compare(f"{self.name}.loss", found, self.setting("loss"), tolerance)

    def check_share(self, key: str, found: Tensor) -> Check:
        """The comparison of a share of rows, of booleans [N], as a count of them."""
        return compare(f"{self.name}.{key}", int(found.sum()), len(found) * self.setting(key), COUNT)


@dataclass(frozen=True)
class Given:
    """The set, with what its items compute from."""

    reference: ParitySet

    @property
    def inputs(self) -> Mapping[str, Tensor]:
        """The arrays that everything computes from."""
        return self.reference.inputs

    @property
    def config(self) -> Mapping[str, Any]:
        """Numbers of the set that are not those of one item."""
        return self.reference.config

    def items(self, *prefixes: str) -> list[Item]:
        """The items whose names start with one of the prefixes and a dot, in the order of the set."""
        names = self.reference.expected.tags("items")
        chosen = [name for name in names if name.startswith(tuple(f"{prefix}." for prefix in prefixes))]
        return [Item(name, self.reference.expected) for name in chosen]

    def denoiser(self, network: nn.Module) -> Denoiser:
        """A frozen network with the set's schedule."""
        return Denoiser(network, self.reference.schedule)

    @cached_property
    def base(self) -> Denoiser:
        """The reference of most items."""
        return self.denoiser(self.reference.base)

    @cached_property
    def text(self) -> Conditioning:
        """Conditioning on the prompts of the pairs."""
        return self.reference.embeddings()[0]

    @cached_property
    def third(self) -> nn.Module:
        """base + d with the elements of each parameter's d = tuned - base in reversed order."""
        return self._moved(lambda base, d: base + d.flatten().flip(0).view_as(d))

    def far(self, factor: float) -> nn.Module:
        """base + factor (third - base)."""
        third = dict(self.third.named_parameters())
        made = copy.deepcopy(self.reference.base)
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                parameter.copy_(parameter + factor * (third[name] - parameter))
        return made

    def mix(self, share: float) -> nn.Module:
        """base + share (tuned - base)."""
        return self._moved(lambda base, d: base + share * d)

    def _moved(self, move: Any) -> nn.Module:
        tuned, made = dict(self.reference.tuned.named_parameters()), copy.deepcopy(self.reference.base)
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                parameter.copy_(move(parameter, tuned[name] - parameter))
        return made

    def trained(self, network: nn.Module | None = None) -> Trained:
        """A network to train, the tuned one if none is given."""
        policy = make_policy(self.reference.tuned if network is None else network, "full")
        return Trained(self.denoiser(policy.network), dict(policy.parameters()))

    @cached_property
    def latents(self) -> Tensor:
        """Scaled latents of the preferred images, then of the others, [2 N, 4, h, w]."""
        images = [self.reference.images(name) for name in ("real_images_u8", "dpo_loser_images_u8")]
        with torch.no_grad():
            mean, std = self.reference.vae.posterior(torch.cat(images))
        return posterior_sample(mean, std, self.inputs["dpo_posterior_noise"], self.reference.vae.scale)

    @cached_property
    def pairs(self) -> LatentPairs:
        """The pairs, each certain and of weight 1."""
        ones = torch.ones(len(self.latents) // 2)
        return LatentPairs(*self.latents.chunk(2), label=ones, weight=ones)

    def errors(self, trained: Trained, pairs: LatentPairs | None = None, base: Denoiser | None = None) -> PairErrors:
        """Errors of the pairs at the noise and timesteps that most items share."""
        reference = self.base if base is None else base
        noise, t = self.inputs["pair_noise"], self.inputs["pair_timesteps"]
        pairs = self.pairs if pairs is None else pairs
        return pair_errors(trained.denoiser, reference.prediction, pairs, noise, t, self.text)

    def gradients(
        self, item: Item, trained: Trained, tolerance: float = GRADIENT, of: str = "", whole: float | None = None
    ) -> Iterator[Check]:
        """Norms of the gradients that stand in the parameters, and the ones that the set holds whole.

        `of` is what stands between the item's name and these entries; `whole` is the tolerance of the norm of all.
        """
        name, expected = f"{item.name}{of}", self.reference.expected
        found = {n: 0.0 if p.grad is None else float(p.grad.double().norm()) for n, p in trained.parameters.items()}
        names = expected.value("param_names")
        wanted = dict(zip(names, expected.array(f"{name}.grad_norms").tolist(), strict=True))
        total = expected.value("items", name, "grad_norm_total")
        length = sum(value**2 for value in found.values()) ** 0.5
        yield compare(f"{name}.grad_norm_total", length, total, tolerance if whole is None else whole)
        if max(wanted.values()) == 0:
            yield compare(f"{name}.grad_norms", [found[n] for n in names], [0.0] * len(names), tolerance)
            return
        yield next(norms(f"{name}.grad_norms", found, wanted, tolerance))
        for parameter, gradient in expected.under(f"{name}.grad."):
            yield compare(f"{name}.grad.{parameter}", trained.parameters[parameter].grad, gradient, tolerance)


def values(pairs: PairErrors, base: bool = False) -> Tensor:
    """Errors [2 N] of the winners, then of the losers, under the policy or under the reference."""
    return torch.cat([side.base if base else side.policy for side in (pairs.winner, pairs.loser)])
