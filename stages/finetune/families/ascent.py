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
from stages.finetune.families.online_settings import AscentSettings
from stages.finetune.objective import Loss, RoundObjective, Run
from stages.finetune.trajectories.chain import Chain
from stages.finetune.trajectories.kl import kl_terms, kl_to_base
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser
from stages.models.process import Gaussian


class Earlier(nn.Module):
    """A network with earlier `values` of its trained parameters; everything else is shared with it."""

    def __init__(self, network: nn.Module, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._orig_mod = network  # torch.compile's name for the network inside: callers look its class up there
        self.values = dict(values)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the network gave when it had these values."""
        return functional_call(self._orig_mod, self.values, inputs, named)


class Ascent(RoundObjective):
    """The objective on rollouts with noise `eta`; what changes is the policy of the last restart."""

    def __init__(self, settings: AscentSettings, run: Run, eta: float) -> None:
        self.settings, self.run = settings, run
        self.chain = Chain.of(run.networks, eta)
        self.previous: dict[str, Tensor] = {}

    def restart(self) -> None:
        """Stay near the policy as it is now, where the study wants that."""
        if self.settings.previous_weight:
            trained = ((name, p) for name, p in self.run.networks.policy.network.named_parameters() if p.requires_grad)
            self.previous = {name: p.detach().clone() for name, p in trained}

    def losses(self, batches: Sequence[Batch]) -> Iterator[Loss]:
        """The loss of each micro-batch, on rollouts of its own."""
        for place, batch in enumerate(batches):
            yield self.loss(batch).share(1.0, place)

    def loss(self, batch: Batch) -> Loss:
        """The loss of one micro-batch."""
        settings, text, chain = self.settings, Conditioning.of(batch.text), self.chain
        states = self.roll(batch, batch.draw(settings.truncate))
        scored = self.run.reward.gradient(states[-1], batch.prompts)
        steps = [batch.rng.randrange(len(chain)) for _ in batch.prompts]
        x = torch.stack([states[i][row].detach() for row, i in enumerate(steps)])
        i = torch.tensor(steps, device=x.device)
        with torch.set_grad_enabled(bool(settings.base_weight or settings.previous_weight)):
            found = chain.transition(self.run.networks.policy, x, i, text)
        kl = kl_to_base(chain, found, x, i, text).mean()
        penalty, terms = settings.base_weight * kl, kl_terms(kl.detach(), x)
        if settings.previous_weight:
            moved = self.kl_to_previous(found, x, i, text)
            penalty = penalty + settings.previous_weight * moved
            terms["kl_previous"] = moved.detach() * x[0].numel()
        loss = self.run.reward.loss(scored.rewards) + penalty.detach()
        root = (scored.gradient * states[-1]).sum() + penalty
        return Loss(root, {"loss": loss, "reward": scored.rewards.mean(), **terms})

    def roll(self, batch: Batch, last: int) -> list[Tensor]:
        """The states [B, C, h, w] of a rollout, from noise to what is judged; the `last` steps carry gradient."""
        states = [batch.noise.initial()]
        for i in range(len(self.chain)):
            with torch.set_grad_enabled(i >= len(self.chain) - last):
                x = states[-1]
                found = self.chain.transition(self.run.networks.policy, x, self.chain.index(i, len(x)), batch.text)
                states.append(found.sample(batch.noise.step(i)))
        return states

    def kl_to_previous(self, found: Gaussian, x: Tensor, i: Tensor, text: Conditioning) -> Tensor:
        """Mean KL divergence [] of the policy's steps from those of the policy of the last restart."""
        policy = self.run.networks.policy
        earlier = Denoiser(Earlier(policy.network, self.previous), policy.process)
        with torch.no_grad():
            before = self.chain.transition(earlier, x, i, text)
        policy.evaluations += earlier.evaluations
        return found.kl(before).mean()

    def state_dict(self) -> dict[str, Any]:
        """The policy of the last restart."""
        return {"previous": self.previous}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what was saved."""
        self.previous = {name: value.to(self.run.device) for name, value in state["previous"].items()}
