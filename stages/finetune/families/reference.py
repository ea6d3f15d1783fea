"""The reference that denoising errors of the policy are compared with: the base, nothing, or earlier weights of the
policy itself.

Earlier weights are only those that are trained: for an evaluation they take the place of the policy's own, so that no
second network is held, whatever is trained of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stages.finetune.families.pair_settings import ReferenceSettings
from stages.finetune.networks import Networks
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser


class Earlier:
    """Earlier weights of a policy, for evaluations without gradient; whoever holds them calls `copy` or `average` to
    bring them up to date.
    """

    def __init__(self, policy: Denoiser) -> None:
        self.policy = policy
        self.parameters: list[nn.Parameter] = [p for p in policy.network.parameters() if p.requires_grad]
        self.weights: list[Tensor] = [p.detach().clone() for p in self.parameters]

    def copy(self) -> None:
        """Take over the policy's weights as they are now."""
        self.weights = [p.detach().clone() for p in self.parameters]

    def average(self, decay: float) -> None:
        """decay times these weights + (1 - decay) times the policy's; saved states keep the tensors that they have."""
        self.weights = [w.lerp(p.detach(), 1 - decay) for w, p in zip(self.weights, self.parameters, strict=True)]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """A region without gradient in which the policy has these weights."""
        own = [p.data for p in self.parameters]
        try:
            for parameter, value in zip(self.parameters, self.weights, strict=True):
                parameter.data = value
            with torch.no_grad():
                yield
        finally:
            for parameter, value in zip(self.parameters, own, strict=True):
                parameter.data = value

    def prediction(self, x: Tensor, t: Tensor, text: Conditioning) -> Tensor:
        """Prediction [B, C, h, w] with these weights, without gradient."""
        with self.in_place():
            return self.policy.prediction(x, t, text)


class Reference:
    """The reference that the settings name."""

    def __init__(self, settings: ReferenceSettings, networks: Networks) -> None:
        self.settings, self.networks = settings, networks
        self.earlier = Earlier(networks.policy) if settings.kind in ("ema", "hard") else None

    @property
    def there(self) -> bool:
        """Whether there is a reference."""
        return self.settings.kind != "none"

    @torch.no_grad()
    def prediction(self, x: Tensor, t: Tensor, text: Conditioning) -> Tensor | None:
        """Prediction [B, C, h, w] of the reference, without gradient; None where there is no reference."""
        if not self.there:
            return None
        source = self.networks.base if self.earlier is None else self.earlier
        return source.prediction(x, t, text)

    def advance(self, step: int) -> None:
        """Before optimizer step `step` (from 0): the average follows the policy, or a copy is renewed."""
        if self.earlier is None or step == 0:
            return
        if self.settings.decay is not None:
            self.earlier.average(self.settings.decay)
        elif self.settings.every is not None and step % self.settings.every == 0:
            self.earlier.copy()

    def state_dict(self) -> dict[str, Any]:
        """The earlier weights, where there are any."""
        return {} if self.earlier is None else {"weights": self.earlier.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        if self.earlier is not None:
            self.earlier.weights = [
                w.to(p.device) for w, p in zip(state["weights"], self.earlier.parameters, strict=True)
            ]
