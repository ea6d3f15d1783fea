"""Policy gradients on the density of single sampling steps: score function and clipped ratio."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stages.errors import InputError
from stages.finetune.batch import Batch
from stages.finetune.learner import Learner
from stages.finetune.losses.ddpo import clipped_loss
from stages.finetune.methods import ddpo, dpok, hrf, large_scale_rl
from stages.finetune.trajectory.chain import Chain
from stages.finetune.trajectory.policy_gradient import PolicyGradient, States
from stages.finetune.trajectory.settings import AdvantageSettings
from stages.finetune.trajectory.trainer import Piece
from stages.models.process import Gaussian

A = TypeVar("A", bound=AdvantageSettings)


class Clipped(PolicyGradient[A]):
    """-min(A rho, A clip(rho)), the ratio rho of the new to the old density of each step; PPO's loss."""

    def loss(self, chain: Chain, found: Gaussian, states: States) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss of the states."""
        settings = self.settings
        made = clipped_loss(
            found.log_prob(states.next), states.old, states.worth, settings.clip, settings.largest_advantage
        )
        outside = ((made.ratio - 1).abs() > settings.clip).float().mean()
        return made.loss, {"ratio": made.ratio.detach().mean(), "clipped": outside}


class Ddpo(Clipped[ddpo.Settings]):
    """DDPO-IS, or DDPO-SF: -A log p of the step."""

    def loss(self, chain: Chain, found: Gaussian, states: States) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss of the states."""
        if self.settings.estimator == "importance":
            return super().loss(chain, found, states)
        limit = self.settings.largest_advantage
        return -(states.worth.clamp(-limit, limit) * found.log_prob(states.next)).mean(), {}


class Hrf(Clipped[hrf.Settings]):
    """The clipped loss on a window of steps that moves from noise to image."""

    def window(self, count: int, step: int) -> range:
        """The window at optimizer step `step`: it stays for `hold` collections, moves, and starts again at the end."""
        settings = self.settings
        places = range(0, count - settings.window + 1, settings.move)
        start = places[step // (settings.lasting * settings.hold) % len(places)]
        return range(start, start + settings.window)


class Dpok(PolicyGradient[dpok.Settings]):
    """-w A clip(rho), the advantage A being the reward less its prompt's mean so far."""

    def worth(self, learner: Learner, last: Tensor, rewards: Tensor, prompts: Sequence[str]) -> Tensor:
        """Rewards [N] less what is expected of their prompts."""
        expected = self.history.expected(rewards, prompts)
        self.history.add(rewards, prompts)
        return rewards - expected

    def loss(self, chain: Chain, found: Gaussian, states: States) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss of the states; where the ratio leaves its range there is no gradient, whatever the advantage."""
        ratio = torch.exp(found.log_prob(states.next) - states.old)
        kept = ratio.clamp(1 - self.settings.clip, 1 + self.settings.clip)
        loss = -self.settings.reward_weight * (states.worth * kept).mean()
        return loss, {"ratio": ratio.detach().mean()}


class LargeScaleRl(Clipped[large_scale_rl.Settings]):
    """The clipped loss on rewards with the diversity of sets, and the diffusion loss on real images."""

    seen = 0.0  # mean diversity of the sets of the last collection

    def worth(self, learner: Learner, last: Tensor, rewards: Tensor, prompts: Sequence[str]) -> Tensor:
        """Advantages [N] of the rewards plus weighted diversity."""
        found = self.diversity(learner, last)
        self.seen = float(found.mean())
        return super().worth(learner, last, rewards + self.settings.diversity_weight * found, prompts)

    @torch.no_grad()
    def diversity(self, learner: Learner, last: Tensor) -> Tensor:
        """1 - mean cosine of each image [N] to the others of its set, or their mean over the set."""
        embed = getattr(learner.reward, "embed", None)
        if embed is None:
            raise InputError("the diversity of a set is taken in the reward's image features, but the reward has none")
        own = last[learner.processes.part(len(last))].split(learner.settings.judge_batch)
        features = torch.cat([embed(learner.decode(part)) for part in own]).float()
        features, size = learner.processes.whole([features])[0], self.settings.group
        units = normalize(features, dim=-1).reshape(-1, size, features.shape[-1])
        cosines = units @ units.transpose(1, 2)
        each = 1 - (cosines.sum(-1) - cosines.diagonal(dim1=1, dim2=2)) / (size - 1)
        return (each if self.settings.credit == "own" else each.mean(1, keepdim=True).expand_as(each)).flatten()

    def losses(self, learner: Learner, chain: Chain, batch: Batch) -> Iterator[Piece]:
        """Those of the policy gradient, and the pretraining loss."""
        yield from super().losses(learner, chain, batch)
        weight = self.settings.pretraining_weight
        if not weight:
            return
        if batch.clean is None:
            raise ValueError("this micro-batch has no real images")
        process, noise = chain.tools.grid.process, batch.noise.extra("forward")
        count = len(batch.prompts) * learner.processes.count
        t = process.random_timesteps(batch.rng, count)[learner.processes.part(count)]
        prediction = chain.tools.policy.prediction(process.noised(batch.clean, noise, t), t, batch.text)
        error = (prediction - process.target(batch.clean, noise)).square().mean()
        terms = {"loss": weight * error, "loss_diffusion": error, "set_diversity": error.new_tensor(self.seen)}
        yield Piece(weight * error, terms)

    def state(self) -> dict[str, Any]:
        """Also the diversity that is logged."""
        return super().state() | {"seen": self.seen}

    def load_state(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from what was saved, on `device`."""
        super().load_state(state, device)
        self.seen = state["seen"]
