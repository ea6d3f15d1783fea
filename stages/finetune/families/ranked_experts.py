"""Images of experts against the policy's own trajectories (Diffusion-DRO): online negatives, no pairs.

Every expert image is compared with a state of a trajectory that the policy makes for the same caption. There the
network's own prediction is the target, so that the policy's error is 0 while it is the network of the trajectory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from stages.errors import InputError
from stages.finetune.batch import Batch, optimizer_step
from stages.finetune.families.pair_errors import Errors, Noisy, Outputs, PairErrors
from stages.finetune.families.pair_variants import ExpertSettings
from stages.finetune.families.preference import PairedPreference
from stages.finetune.families.reference import Earlier
from stages.finetune.objective import Loss, Run
from stages.models.conditioning import Conditioning
from stages.models.multistep import trajectory
from stages.models.process_noise import NoiseSchedule

E = TypeVar("E", bound=ExpertSettings)


@dataclass(frozen=True)
class OwnStates:
    """States `x` [B, C, h, w] of trajectories, their timesteps `t` [B] and the predictions there, `target`."""

    x: Tensor
    t: Tensor
    target: Tensor


class RankedExperts(PairedPreference[E]):
    """The objective; winners are expert images, losers the states. Raises InputError for a flow-matching base."""

    joins = False  # every micro-batch goes on along trajectories of its own

    def __init__(self, settings: E, run: Run, loss: Callable[[PairErrors, E], Loss]) -> None:
        super().__init__(settings, run, loss)
        process = run.networks.policy.process
        if not isinstance(process, NoiseSchedule):
            raise InputError("the trajectories are those of a noise schedule, but the base is a flow-matching model")
        self.process = process
        self.copy = Earlier(run.networks.policy) if settings.copy_every > 1 else None

    def collect(self, batches: Sequence[Batch]) -> dict[str, float]:
        """The reference and the network of the trajectories as they are in this step."""
        if self.copy is not None and optimizer_step(batches) % self.settings.copy_every == 0:
            self.copy.copy()
        return super().collect(batches)

    def errors(self, batches: Sequence[Batch]) -> list[PairErrors]:
        """Errors of each micro-batch, one after the other."""
        return [self.errors_of(batch) for batch in batches]

    def errors_of(self, batch: Batch) -> PairErrors:
        """Errors of expert images and of states of the policy's trajectories, at the same timesteps."""
        own, expert = self.own_states(batch), batch.real()
        noise, text = batch.noise.extra("forward"), Conditioning.of(batch.text)
        found = expert_errors(self.process, self.outputs, expert, noise, own, text, self.timesteps.weight(own.t))
        ones = torch.ones_like(found[0].base)
        return PairErrors(*found, ones, ones, self.run.processes)

    @torch.no_grad()
    def own_states(self, batch: Batch) -> OwnStates:
        """A state of a trajectory for every row; its offset on the grid and its place are drawn for all processes."""
        steps, text = self.run.settings.sampling_steps, Conditioning.of(batch.text)
        ratio, count = len(self.process.alphas_cumprod) // steps, len(text) * self.run.processes.count
        part = self.run.processes.part(count)
        offsets = torch.tensor([batch.rng.randrange(ratio) for _ in range(count)][part])
        places = torch.tensor([batch.rng.randrange(steps) for _ in range(count)])
        times = grid(steps, ratio, offsets).to(text.device)[: int(places.max()) + 1]
        source = self.run.networks.policy if self.copy is None else self.copy
        levels = times[:, :1].expand_as(times) if self.settings.as_released.one_grid else None
        x = batch.noise.initial()
        made = trajectory(self.process, lambda x, t: source.prediction(x, t, text), x, times, levels)
        chosen, rows = places[part].to(text.device), torch.arange(len(text), device=text.device)
        return OwnStates(made.states[chosen, rows], times[chosen, rows], made.predictions[chosen, rows])

    def state_dict(self) -> dict[str, Any]:
        """The weights of the reference and of the copy, where they change."""
        return super().state_dict() | ({} if self.copy is None else {"copy": self.copy.weights})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what was saved."""
        super().load_state_dict(state)
        if self.copy is not None:
            self.copy.weights = [w.to(p.device) for w, p in zip(state["copy"], self.copy.parameters, strict=True)]


def grid(steps: int, ratio: int, offsets: Tensor) -> Tensor:
    """Timesteps [T, B], noisiest first: `ratio` apart, each column moved by its offset [B]."""
    return torch.arange(steps - 1, -1, -1)[:, None] * ratio + offsets


def expert_errors(
    process: NoiseSchedule, outputs: Callable[[Noisy], Outputs], expert: Tensor, noise: Tensor, own: OwnStates,
    text: Conditioning, weight: Tensor | None = None,
) -> tuple[Errors, Errors]:  # fmt: skip
    """Errors of expert latents [B, C, h, w] with their noise at the timesteps of the states, and of these states."""
    noised, both = process.noised(expert, noise, own.t), Conditioning.cat([text, text])
    twice = None if weight is None else torch.cat([weight, weight])
    noisy = Noisy(
        torch.cat([noised, own.x]), torch.cat([own.t, own.t]), both, torch.cat([noise, own.target]), twice
    )  # fmt: skip
    first, second = outputs(noisy).halves()
    return Errors.of(first), Errors.of(second)
