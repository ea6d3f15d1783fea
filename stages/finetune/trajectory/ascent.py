"""A reward's gradient through the last steps of a rollout, near the base and near the policy of some steps ago.

    L = mean of -r(x_T) + a KL(p(. | x) || base(. | x)) + b KL(p(. | x) || previous(. | x))

The inner loop of SEIKO (Uehara et al. 2024, arXiv 2402.16359): the gradient enters at a random step of the chain, as in
the released code (online_main.py). Divergences are taken at one state of each rollout, drawn evenly and detached: an
estimate of their mean over the steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from stages.finetune.batch import Batch
from stages.finetune.learner import Learner, reward_loss
from stages.finetune.methods.online import GradientSettings
from stages.finetune.trajectory.chain import Chain
from stages.finetune.trajectory.policy_gradient import divergences, kl_terms
from stages.finetune.trajectory.trainer import Piece
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser
from stages.models.process import Gaussian


class Earlier(nn.Module):
    """A network with earlier `values` of its trained parameters; everything else is shared with it."""

    def __init__(self, network: nn.Module, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._orig_mod = network  # as a compiled network names the one it wraps: its architecture is asked for
        self.values = dict(values)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the network gave when it had these values."""
        return functional_call(self._orig_mod, self.values, inputs, named)


class Ascent:
    """The objective; what changes is the policy of the last restart."""

    def __init__(self, settings: GradientSettings, accumulate: int) -> None:
        self.settings, self.accumulate = settings, accumulate
        self.previous: dict[str, Tensor] = {}

    def restart(self, learner: Learner) -> None:
        """Stay near the policy as it is now, where the study wants that."""
        if self.settings.previous_weight:
            network = learner.tools.policy.network
            trained = ((name, p) for name, p in network.named_parameters() if p.requires_grad)
            self.previous = {name: p.detach().clone() for name, p in trained}

    def due(self, step: int) -> bool:
        """Rollouts are made for every step anew, by `losses`."""
        return False

    def collect(self, learner: Learner, chain: Chain, batches: Sequence[Batch]) -> dict[str, float]:
        """Nothing to collect."""
        return {}

    def losses(self, learner: Learner, chain: Chain, batch: Batch) -> Iterator[Piece]:
        """The loss of one micro-batch."""
        settings, text = self.settings, Conditioning.of(batch.text)
        states = self.roll(chain, batch, batch.draw(settings.truncate))
        pulled = learner.pull(states[-1], batch.prompts, 1.0)
        rewards, gradient = pulled.rewards, pulled.gradient
        steps = [batch.rng.randrange(len(chain)) for _ in batch.prompts]
        x = torch.stack([states[i][row].detach() for row, i in enumerate(steps)])
        i = torch.tensor(steps, device=x.device)
        with torch.set_grad_enabled(bool(settings.base_weight or settings.previous_weight)):
            found = chain.transition(chain.tools.policy, x, i, text)
        kl = divergences(chain, found, x, i, text).mean()
        penalty, terms = settings.base_weight * kl, kl_terms(kl.detach(), x)
        if settings.previous_weight:
            moved = self.moved(chain, found, x, i, text)
            penalty = penalty + settings.previous_weight * moved
            terms["kl_previous"] = moved.detach() * x[0].numel()
        loss = reward_loss(rewards, learner.settings.reward_scale, learner.settings.reward_offset) + penalty.detach()
        yield Piece((gradient * states[-1]).sum() + penalty, {"loss": loss, "reward": rewards.mean()} | terms)

    def roll(self, chain: Chain, batch: Batch, last: int) -> list[Tensor]:
        """The states [B, C, h, w] of a rollout, from noise to what is judged; the `last` steps carry gradient."""
        states = [batch.noise.initial()]
        for i in range(len(chain)):
            with torch.set_grad_enabled(i >= len(chain) - last):
                x = states[-1]
                found = chain.transition(chain.tools.policy, x, chain.index(i, len(x)), batch.text)
                states.append(found.sample(batch.noise.step(i)))
        return states

    def moved(self, chain: Chain, found: Gaussian, x: Tensor, i: Tensor, text: Conditioning) -> Tensor:
        """Mean KL divergence [] of the policy's steps from those of the policy of the last restart."""
        policy = chain.tools.policy
        earlier = Denoiser(Earlier(policy.network, self.previous), policy.process)
        with torch.no_grad():
            before = chain.transition(earlier, x, i, text)
        policy.evaluations += earlier.evaluations
        return found.kl(before).mean()

    def state(self) -> dict[str, Any]:
        """The policy of the last restart."""
        return {"previous": self.previous}

    def load_state(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from what was saved, on `device`."""
        self.previous = {name: value.to(device) for name, value in state["previous"].items()}
