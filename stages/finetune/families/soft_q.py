"""SQDF's loss: from a state one step with fresh noise, a frozen prediction of its end, reward and divergence there.

    L = mean of -gamma^n r(f(x')) + alpha KL(p(. | x), base(. | x)),  x' = mu(x) + sigma e,  n steps left after this one

(Kang et al. 2026, equation 16). The gradient passes through reward, decoder, the frozen predictor f and x' to the one
mean mu; never through the chain, and no weight of f has one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stages.finetune.batch import Batch, optimizer_step
from stages.finetune.families.online_settings import SoftQSettings
from stages.finetune.losses.sqdf import soft_q_loss
from stages.finetune.objective import Loss, RoundObjective, Run
from stages.finetune.trajectories.chain import Chain, Trajectory
from stages.finetune.trajectories.collection import MEGABYTE
from stages.finetune.trajectories.kl import kl_terms, kl_to_base
from stages.finetune.trajectories.predictors import Distilled, Predictor, Steps
from stages.finetune.trajectories.replay import Drawn, Replay


class SoftQ(RoundObjective):
    """SQDF on rollouts with noise `eta`; what changes is the buffer, or without one the last rollouts."""

    def __init__(self, settings: SoftQSettings, run: Run, eta: float, predictor: Predictor | None = None) -> None:
        self.settings, self.run = settings, run
        self.chain = Chain.of(run.networks, eta)
        self.predictor = predictor or predictor_of(settings)
        twice = settings.as_released.denormalise_twice
        self.reward = run.reward.denormalised_twice() if twice else run.reward
        self.buffer: Replay | None = None
        self.fresh: list[Trajectory] = []

    def restart(self) -> None:
        """Forget the trajectories: their reward is another one from now on."""
        self.buffer, self.fresh = None, []

    def collect(self, batches: Sequence[Batch]) -> dict[str, float]:
        """Where the last rollouts have been used as often as the study says: as many new trajectories as a batch has
        images, judged at their end.
        """
        if optimizer_step(batches) % self.settings.replay:
            return {}
        own = [self.chain.roll(batch) for batch in batches]
        rewards = [self.reward.of_all(t.last, t.prompts, self.run.processes) for t in own]
        made = [t.whole(self.run.processes) for t in own]
        terms = {"reward_rollout": float(torch.cat(rewards).mean())}
        if self.settings.buffer is None:
            self.fresh = made
            return terms | {"memory_mb": sum(t.bytes for t in made) / MEGABYTE}
        buffer = self.replay(len(self.chain))
        for t, found in zip(made, rewards, strict=True):
            buffer.add(t, found)
        return terms | {"memory_mb": buffer.bytes / MEGABYTE, "buffer": float(len(buffer.kept))}

    def losses(self, batches: Sequence[Batch]) -> Iterator[Loss]:
        """The loss of each micro-batch: as many states as it has images. Processes draw alike, each for its part."""
        for place, batch in enumerate(batches):
            noise = batch.noise.extra(f"soft q {batch.micro}")
            yield self.loss(self.draw(batch, place), noise).share(1.0, place)

    def draw(self, batch: Batch, place: int) -> Drawn:
        """A state for each image of this process's `batch`, from the buffer, or one of each fresh trajectory."""
        count = len(batch.prompts) * self.run.processes.count
        part = self.run.processes.part(count)
        if self.buffer is not None:
            return self.buffer.draw(count, batch.rng, part)
        fresh = self.fresh[place]
        steps = [batch.rng.randrange(len(self.chain)) for _ in range(count)][part]
        i = torch.tensor(steps, device=fresh.states.device)
        rows = torch.arange(count, device=i.device)[part]
        return Drawn(fresh.states[i, rows], i, fresh.text[part], list(fresh.prompts[part]))

    def loss(self, drawn: Drawn, noise: Tensor) -> Loss:
        """The mean loss over the drawn states with fresh `noise` [N, C, h, w]."""
        settings, train, chain = self.settings, self.run.settings, self.chain
        found = chain.transition(self.run.networks.policy, drawn.x, drawn.i, drawn.text)
        x0 = self.predictor(chain, found.sample(noise), drawn.i + 1, drawn.text)
        left = len(chain) - 1 - drawn.i
        gamma = self.loss_gamma(len(chain))
        discount = torch.as_tensor(gamma, dtype=x0.dtype, device=x0.device) ** left
        scored = self.reward.gradient(x0, drawn.prompts, weights=discount)
        kl = kl_to_base(chain, found, drawn.x, drawn.i, drawn.text)
        # By the reward before scale and offset, in gradient and log alike: `reward_offset` moves no image in or out.
        counted = scored.rewards > 0 if settings.as_released.positive_only else torch.ones_like(kl, dtype=torch.bool)
        weight = counted.to(kl.dtype)
        root = (weight.reshape(-1, 1, 1, 1) * scored.gradient * x0).sum() + settings.alpha * (weight * kl).mean()
        scaled = train.reward_scale * (scored.rewards + train.reward_offset)
        loss = soft_q_loss(scaled, kl.detach(), left, gamma, settings.alpha, counted)
        return Loss(root, {"loss": loss, "reward": scored.rewards.mean(), **kl_terms(kl.detach().mean(), drawn.x)})

    def loss_gamma(self, steps: int) -> float:
        """The discount in the loss; draws that are discounted already have none, unless as released."""
        drawn = self.settings.buffer is not None and self.settings.buffer.draw == "prioritised"
        return 1.0 if drawn and not self.settings.as_released.discount_twice else self.settings.discount(steps)

    def replay(self, steps: int) -> Replay:
        """The buffer, made when it is first needed."""
        wanted = self.settings.buffer
        assert wanted is not None
        if self.buffer is None:
            self.buffer = Replay(wanted.size, wanted.draw, self.settings.discount(steps))
        return self.buffer

    def state_dict(self) -> dict[str, Any]:
        """The buffer and the last rollouts."""
        buffer = None if self.buffer is None else {"gamma": self.buffer.gamma} | self.buffer.state_dict()
        return {"buffer": buffer, "fresh": [made.state_dict() for made in self.fresh]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what was saved."""
        self.fresh = [Trajectory.from_state_dict(kept, self.run.device) for kept in state["fresh"]]
        if state["buffer"] is not None and self.settings.buffer is not None:
            self.buffer = Replay(self.settings.buffer.size, self.settings.buffer.draw, state["buffer"]["gamma"])
            self.buffer.load_state_dict(state["buffer"], self.run.device)


def predictor_of(settings: SoftQSettings) -> Predictor:
    """What predicts the clean latents, as the study says."""
    if settings.predictor == "consistency":
        return Distilled()
    return Steps(2 if settings.predictor == "ddim2" else 1)
