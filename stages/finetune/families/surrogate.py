"""A reward learnt from queries: ridge regression on features, with its uncertainty.

    value(z) = mean over heads of (offset_h + w_h . z)  +  weight * uncertainty(z)

Features z are standardised on the data. Heads are fitted on bootstrap resamples of the data and their standard
deviation is the uncertainty, or one head is fitted on all of it and the uncertainty is

    s sqrt(z' (Z'Z + lambda I)^-1 z),

s the standard deviation of the residuals: the two optimistic models of SEIKO (Uehara et al. 2024, arXiv 2402.16359,
section 5), linear in the features. Everything is computed in double precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Optimism = Literal["bootstrap", "ucb", "none"]
PENALTIES = tuple(10.0**n for n in range(-2, 6))
"""What generalised cross-validation chooses from, of standardised features."""
TINY = 1e-12


@dataclass(frozen=True)
class Surrogate:
    """Heads on features [N, F]: `mean`, `scale` [F] standardise, `weights` [H, F] and `offsets` [H] are the heads.

    `inverse` [F, F] is (Z'Z + lambda I)^-1 of all data and `std` [] that of the residuals of a head on all data;
    `penalty` [] is lambda.
    """

    mean: Tensor
    scale: Tensor
    weights: Tensor
    offsets: Tensor
    inverse: Tensor
    std: Tensor
    penalty: Tensor

    @classmethod
    def fit(
        cls, features: Tensor, rewards: Tensor, heads: int, penalty: float | None, generator: torch.Generator
    ) -> Surrogate:
        """Fit on features [N, F] and rewards [N]: one head on all data, or `heads` > 1 on resamples of `generator`.

        Without a `penalty` it is the one of PENALTIES with the least generalised cross-validation error.
        """
        features, rewards = features.double(), rewards.double()
        mean, spread = features.mean(0), features.std(0, correction=0)
        scale = torch.where(spread > TINY, spread, torch.ones_like(spread))  # a constant feature is 0 and stays 0
        z = (features - mean) / scale
        squares = z.T @ z
        chosen = cross_validated(z, rewards) if penalty is None else penalty
        inverse = torch.linalg.inv(squares + chosen * torch.eye(len(squares), dtype=z.dtype, device=z.device))
        weights, offset = ridge(z, rewards, chosen)
        left = rewards - offset - z @ weights
        free = len(z) - 1 - (inverse * squares).sum()  # trace of the hat matrix, and the offset
        std = (left.square().sum() / free.clamp(min=1.0)).sqrt()
        if heads > 1:
            rows = torch.randint(len(z), (heads, len(z)), generator=generator).to(z.device)
            made = [ridge(z[row], rewards[row], chosen) for row in rows]
        else:
            made = [(weights, offset)]
        found = torch.stack([w for w, _ in made]), torch.stack([b for _, b in made])
        return cls(mean, scale, *found, inverse, std, z.new_tensor(chosen))

    def heads(self, features: Tensor) -> Tensor:
        """The prediction [H, N] of every head for features [N, F]."""
        return self.offsets[:, None] + self.weights @ self._standardised(features).T

    def expected(self, features: Tensor) -> Tensor:
        """The mean over the heads [N], without optimism."""
        return self.heads(features).mean(0)

    def uncertainty(self, features: Tensor, kind: Optimism) -> Tensor:
        """The uncertainty [N] of the expected reward, in its units."""
        if kind == "bootstrap":
            return (self.heads(features).var(0, correction=0) + TINY).sqrt()  # the root has a gradient where all agree
        z = self._standardised(features)
        if kind == "ucb":
            return self.std * (((z @ self.inverse) * z).sum(1) + TINY).sqrt()
        return z.new_zeros(len(z))

    def value(self, features: Tensor, kind: Optimism, weight: float) -> Tensor:
        """Expected reward [N] plus `weight` times the uncertainty; the gradient flows to the features."""
        return self.expected(features) + weight * self.uncertainty(features, kind)

    def state_dict(self) -> dict[str, Any]:
        """What to save."""
        return dict(vars(self))

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any], device: torch.device) -> Surrogate:
        """What was saved, on `device`."""
        return cls(**{name: value.to(device) for name, value in state.items()})

    def _standardised(self, features: Tensor) -> Tensor:
        return (features.double() - self.mean) / self.scale


def ridge(z: Tensor, rewards: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Weights [F] and offset [] that minimise |rewards - offset - z w|^2 + penalty |w|^2, for z [N, F]."""
    centre, middle = z.mean(0), rewards.mean()
    own = z - centre
    squares = own.T @ own + penalty * torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    weights = torch.linalg.solve(squares, own.T @ (rewards - middle))
    return weights, middle - centre @ weights


def cross_validated(z: Tensor, rewards: Tensor) -> float:
    """The penalty of PENALTIES with the least N |residuals|^2 / (N - degrees of freedom)^2 (Golub et al. 1979), for
    centred z [N, F].
    """
    left, values, _ = torch.linalg.svd(z, full_matrices=False)
    wanted = rewards - rewards.mean()
    along = left.T @ wanted
    beyond = wanted.square().sum() - along.square().sum()  # what no weights explain
    errors = []
    for penalty in PENALTIES:
        kept = penalty / (values.square() + penalty)
        free = len(z) - 1 - (1 - kept).sum()
        errors.append(float(((kept * along).square().sum() + beyond) / free.clamp(min=TINY).square()))
    return PENALTIES[min(range(len(errors)), key=errors.__getitem__)]
