"""The one stochastic sampler of the trajectory methods, and what it records.

A policy is the Markov chain p(x_{i+1} | x_i) of Gaussian steps (`Grid.transition`: DDIM with eta, or the SDE of
Flow-GRPO). The last step has noise too, so it has a density; what is decoded is that last state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stages.finetune.batch import Batch
from stages.finetune.networks import Networks
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser
from stages.models.policy import unchanged
from stages.models.process import Gaussian
from stages.processes import Processes


@dataclass(frozen=True)
class Trajectory:
    """Rollouts of B images over T steps, without gradient.

    `states` [T + 1, B, C, h, w] enter the steps, the last one is scored; `means` [T, B, C, h, w] and `std` [T] are
    those of the steps, `log_density` [T, B] is each step's under the policy that made it (a mean over C, h, w). `text`
    are the conditions of the prompts, a row per image.
    """

    states: Tensor
    means: Tensor
    std: Tensor
    log_density: Tensor
    text: Conditioning
    prompts: Sequence[str]

    def __len__(self) -> int:
        return len(self.means)

    @property
    def noise(self) -> Tensor:
        """The standard normal draws [T, B, C, h, w] of the steps."""
        return (self.states[1:] - self.means) / self.std.reshape(-1, 1, 1, 1, 1)

    @property
    def last(self) -> Tensor:
        """What is decoded and scored, [B, C, h, w]."""
        return self.states[-1]

    @property
    def bytes(self) -> int:
        """Memory of all tensors: about 8 T C h w bytes per image in float32, and its conditions."""
        own = [value for value in vars(self).values() if isinstance(value, Tensor)]
        return sum(value.numel() * value.element_size() for value in [*own, *self.text.tensors().values()])

    def whole(self, processes: Processes) -> Trajectory:
        """The rollouts of all processes, by rank; each has made as many."""
        if processes.count == 1:
            return self
        states, means, density = processes.whole([self.states, self.means, self.log_density], dim=1)
        text = whole_text(self.text, processes)
        return Trajectory(states, means, self.std, density, text, processes.everyone(self.prompts))

    def state_dict(self) -> dict[str, Any]:
        """What to save."""
        return vars(self) | {"text": self.text.tensors(), "prompts": list(self.prompts)}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any], device: torch.device) -> Trajectory:
        """What was saved, on `device`."""
        states, means, std, density = (state[name].to(device) for name in ("states", "means", "std", "log_density"))
        return cls(states, means, std, density, Conditioning(**state["text"]).to(device), state["prompts"])


def whole_text(text: Conditioning, processes: Processes) -> Conditioning:
    """The rows of conditions of all processes, by rank."""
    own = text.tensors()
    return Conditioning(**dict(zip(own, processes.whole(list(own.values())), strict=True)))


@dataclass(frozen=True)
class Chain:
    """The steps of the policy's grid; index i goes from state i to state i + 1, i from 0 to T - 1."""

    networks: Networks
    eta: float

    @classmethod
    def of(cls, networks: Networks, eta: float = 1.0) -> Chain:
        """The chain on the grid of `networks`; raises InputError where its last step has no noise."""
        networks.grid.require_transitions()
        return cls(networks, eta)

    def __len__(self) -> int:
        return len(self.networks.grid)

    @property
    def device(self) -> torch.device:
        """Where the states are."""
        return self.networks.grid.process.device

    def prediction(self, denoiser: Denoiser, x: Tensor, i: Tensor, text: Conditioning) -> Tensor:
        """Prediction [B, C, h, w] for states x that enter the steps i [B], guided as the study says."""
        networks = self.networks
        return denoiser.prediction(x, networks.grid.timesteps[i], text, networks.empty, networks.guidance)

    def step(self, x: Tensor, prediction: Tensor, i: Tensor) -> Gaussian:
        """The Gaussian over states i + 1 that predictions at states x, entering i [B], imply."""
        return self.networks.grid.transition(x, prediction, i, self.eta)

    def transition(self, denoiser: Denoiser, x: Tensor, i: Tensor, text: Conditioning) -> Gaussian:
        """The Gaussian over states i + 1 that `denoiser` predicts for states x entering i [B]."""
        return self.step(x, self.prediction(denoiser, x, i, text), i)

    def index(self, i: int, count: int) -> Tensor:
        """The index i for each of `count` states."""
        return torch.full((count,), i, device=self.device)

    @torch.no_grad()
    def roll(self, batch: Batch, first: Tensor | None = None) -> Trajectory:
        """One rollout of the policy for a micro-batch; `first` [B, C, h, w] in place of the batch's own noise."""
        x = batch.noise.initial() if first is None else first
        states, means, densities, stds = [x], [], [], []
        with unchanged(*self.networks.policy.eager):
            for i in range(len(self)):
                found = self.transition(self.networks.policy, x, self.index(i, len(x)), batch.text)
                x = found.sample(batch.noise.step(i))
                states.append(x)
                means.append(found.mean)
                densities.append(found.log_prob(x))
                stds.append(found.std[0].flatten())
        return Trajectory(torch.stack(states), torch.stack(means), torch.cat(stds), torch.stack(densities),
                          Conditioning.of(batch.text), batch.prompts)  # fmt: skip
