"""The KL divergence from the base as a penalty of reward-gradient methods, estimated at one step of the rollout.

As everywhere here it is that of the ancestral step, in nats a number, averaged over the steps of the rollout: the index
is drawn anew for every micro-batch. The state is detached; SQDF's paper compares with DRaFT and this penalty.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from stages.finetune.batch import Batch
from stages.finetune.tools import Tools
from stages.finetune.trajectory.chain import Chain
from stages.finetune.trajectory.policy_gradient import divergence


@dataclass
class Watched:
    """One index of a rollout, and the latents that entered it once they have been seen."""

    index: int
    x: Tensor | None = None

    @classmethod
    def draw(cls, batch: Batch, steps: int) -> Watched:
        """One of the first `steps` indices."""
        return cls(batch.draw((0, steps)))

    def __call__(self, i: int, x: Tensor) -> None:
        """Keep x where i is the index."""
        if i == self.index:
            self.x = x.detach()

    def penalty(self, tools: Tools, batch: Batch, weight: float) -> dict[str, tuple[float, Tensor]]:
        """The penalty `kl` of a method's loss."""
        assert self.x is not None
        chain = Chain.of(tools)
        i = chain.index(self.index, len(self.x))
        found = chain.transition(tools.policy, self.x, i, batch.text)
        return {"kl": (weight, divergence(chain, found, self.x, i, batch.text))}
