"""What training costs, counted: evaluations of the networks."""

from __future__ import annotations

from dataclasses import dataclass

from stages.finetune.networks import Networks

BACKWARD = 2.0
"""Evaluations that the backward pass of one evaluation costs: the gradients of inputs and of weights."""


@dataclass(frozen=True)
class Cost:
    """Network evaluations of one image: `forward` of all, `backward` of those among them that carry gradient."""

    forward: int
    backward: int

    @property
    def compute(self) -> float:
        """Both in units of one forward evaluation."""
        return self.forward + BACKWARD * self.backward

    @classmethod
    def of(cls, networks: Networks) -> Cost:
        """What the networks have evaluated so far."""
        every = networks.denoisers.values()
        return cls(sum(d.evaluations for d in every), sum(d.backward for d in every))

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.forward - other.forward, self.backward - other.backward)
