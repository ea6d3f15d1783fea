"""SQDF's loss: from a state one step with fresh noise, a frozen prediction of its end, reward and divergence there.

    L = mean of -gamma^n r(f(x')) + alpha KL(p(. | x), base(. | x)),  x' = mu(x) + sigma e,  n steps left after this one

(Kang et al. 2026, equation 16). The gradient passes reward, decoder, the frozen predictor f and x' to the one mean mu;
never through the chain, and no weight of f has one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stages.finetune.batch import Batch
from stages.finetune.learner import Learner
from stages.finetune.losses.sqdf import soft_q_loss
from stages.finetune.methods.sqdf import SoftQSettings
from stages.finetune.trajectory.chain import Chain, Trajectory
from stages.finetune.trajectory.policy_gradient import MEGABYTE, divergences, kl_terms
from stages.finetune.trajectory.predictors import Predictor
from stages.finetune.trajectory.replay import Drawn, Replay
from stages.finetune.trajectory.trainer import Piece
from stages.processes import ALONE, Processes


class SoftQ:
    """SQDF; what changes is the buffer, or without one the last rollouts."""

    def __init__(self, settings: SoftQSettings, accumulate: int, predictor: Predictor) -> None:
        self.settings, self.accumulate, self.predictor = settings, accumulate, predictor
        self.buffer: Replay | None = None
        self.fresh: list[Trajectory] = []

    def due(self, step: int) -> bool:
        """Whether the last rollouts have been used as often as the study says."""
        return step % self.settings.replay == 0

    def collect(self, learner: Learner, chain: Chain, batches: Sequence[Batch]) -> dict[str, float]:
        """As many new trajectories as a batch has images, judged at their end."""
        learner = self.judging(learner)
        own = [chain.roll(batch) for batch in batches]
        rewards = [learner.judged_whole(t.last, t.prompts) for t in own]
        made = [t.whole(learner.processes) for t in own]
        terms = {"reward_rollout": float(torch.cat(rewards).mean())}
        if self.settings.buffer is None:
            self.fresh = made
            return terms | {"memory_mb": sum(t.bytes for t in made) / MEGABYTE}
        buffer = self.replay(len(chain))
        for t, found in zip(made, rewards, strict=True):
            buffer.add(t, found)
        return terms | {"memory_mb": buffer.bytes / MEGABYTE, "buffer": float(len(buffer.kept))}

    def losses(self, learner: Learner, chain: Chain, batch: Batch) -> Iterator[Piece]:
        """The loss of one micro-batch: as many states as it has images. All processes draw alike, each for its part."""
        drawn = self.draw(chain, batch, learner.processes)
        noise = batch.noise.extra(f"soft q {batch.micro}")
        yield self.piece(self.judging(learner), chain, drawn, noise)

    def draw(self, chain: Chain, batch: Batch, processes: Processes = ALONE) -> Drawn:
        """A state for each image of this process's `batch`, from the buffer, or one of each fresh trajectory."""
        count = len(batch.prompts) * processes.count
        part = processes.part(count)
        if self.buffer is not None:
            return self.buffer.draw(count, batch.rng, part)
        fresh = self.fresh[batch.micro % self.accumulate]
        steps = [batch.rng.randrange(len(chain)) for _ in range(count)][part]
        i = torch.tensor(steps, device=fresh.states.device)
        rows = torch.arange(count, device=i.device)[part]
        return Drawn(fresh.states[i, rows], i, fresh.text[part], list(fresh.prompts[part]))

    def piece(self, learner: Learner, chain: Chain, drawn: Drawn, noise: Tensor) -> Piece:
        """The mean loss over the drawn states with fresh `noise` [N, C, h, w]."""
        settings = self.settings
        found = chain.transition(chain.tools.policy, drawn.x, drawn.i, drawn.text)
        x0 = self.predictor(chain, found.sample(noise), drawn.i + 1, drawn.text)
        left = len(chain) - 1 - drawn.i
        gamma = self.loss_gamma(len(chain))
        discount = torch.as_tensor(gamma, dtype=x0.dtype, device=x0.device) ** left
        pulled = learner.pull(x0, drawn.prompts, 1.0, discount)
        rewards, gradient = pulled.rewards, pulled.gradient
        kl = divergences(chain, found, drawn.x, drawn.i, drawn.text)
        # The mask asks the reward itself, as gradient and log must alike: `reward_offset` moves no image in or out.
        counted = rewards > 0 if settings.as_released.positive_only else torch.ones_like(rewards, dtype=torch.bool)
        weight = counted.to(kl.dtype)
        root = (weight.reshape(-1, 1, 1, 1) * gradient * x0).sum() + settings.alpha * (weight * kl).mean()
        scaled = learner.settings.reward_scale * (rewards + learner.settings.reward_offset)
        loss = soft_q_loss(scaled, kl.detach(), left, gamma, settings.alpha, counted)
        return Piece(root, {"loss": loss, "reward": rewards.mean()} | kl_terms(kl.detach().mean(), drawn.x))

    def loss_gamma(self, steps: int) -> float:
        """The discount in the loss; draws that are discounted already have none, unless as released."""
        drawn = self.settings.buffer is not None and self.settings.buffer.draw == "prioritised"
        return 1.0 if drawn and not self.settings.as_released.discount_twice else self.settings.discount(steps)

    def judging(self, learner: Learner) -> Learner:
        """The learner, as its reward sees images."""
        if not self.settings.as_released.denormalise_twice:
            return learner
        decode = learner.decode
        return replace(learner, decode=lambda x0: decode(x0) / 2 + 0.5)

    def replay(self, steps: int) -> Replay:
        """The buffer, made when it is first needed."""
        wanted = self.settings.buffer
        assert wanted is not None
        if self.buffer is None:
            self.buffer = Replay(wanted.size, wanted.draw, self.settings.discount(steps))
        return self.buffer

    def restart(self, learner: Learner) -> None:
        """Forget the trajectories: what judged them is another one from now on."""
        self.buffer, self.fresh = None, []

    def state(self) -> dict[str, Any]:
        """The buffer and the last rollouts."""
        buffer = None if self.buffer is None else {"gamma": self.buffer.gamma} | self.buffer.state()
        return {"buffer": buffer, "fresh": [made.state() for made in self.fresh]}

    def load_state(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from what was saved, on `device`."""
        self.fresh = [Trajectory.of_state(kept, device) for kept in state["fresh"]]
        if state["buffer"] is not None and self.settings.buffer is not None:
            self.buffer = Replay(self.settings.buffer.size, self.settings.buffer.draw, state["buffer"]["gamma"])
            self.buffer.load_state(state["buffer"], device)
