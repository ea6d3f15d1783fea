"""The interface of every method to the trainer: what is minimised on the micro-batches of an optimizer step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from stages.finetune.batch import Batch
from stages.finetune.networks import Networks
from stages.finetune.reward import LatentReward
from stages.finetune.settings import FinetuneSettings
from stages.processes import ALONE, Processes


@dataclass(frozen=True)
class Run:
    """What an objective works with. Each of several `processes` has its rows of every micro-batch, in order."""

    networks: Networks
    reward: LatentReward
    settings: FinetuneSettings
    processes: Processes = ALONE

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.networks.empty.device


@dataclass(frozen=True)
class Loss:
    """A part of the loss of micro-batch `place` of an optimizer step (from 0).

    `root` is a scalar whose gradient is taken at once, so that the graph behind it is free when the next part is made.
    With `later` it is not taken: it is part of the root of a later part, with whose graph it is connected.
    `terms` are its shares of the logged terms, `loss` among them. Parts of a micro-batch add up, and so do their terms.
    """

    root: Tensor
    terms: Mapping[str, Tensor]
    place: int = 0
    later: bool = False

    @classmethod
    def of(cls, value: Tensor, **terms: Tensor) -> Loss:
        """A part whose root is its value."""
        return cls(value, {"loss": value.detach(), **{name: term.detach() for name, term in terms.items()}})

    def plus(self, weight: float, value: Tensor, **terms: Tensor) -> Loss:
        """With `weight` times a further scalar in it, and further terms."""
        more = {name: term.detach() for name, term in terms.items()}
        loss = self.terms["loss"] + weight * value.detach()
        return replace(self, root=self.root + weight * value, terms={**self.terms, **more, "loss": loss})

    def share(self, share: float, place: int) -> Loss:
        """As a part of micro-batch `place` that has the weight `share` in it."""
        terms = {name: share * value for name, value in self.terms.items()}
        return replace(self, root=share * self.root, terms=terms, place=place)


class Objective(ABC):
    """What a method minimises, with all that it keeps from step to step.

    With several processes an objective holds the same in each: it gathers what all have made, draws for all of them,
    and learns from its own part.
    """

    def collect(self, batches: Sequence[Batch]) -> dict[str, float]:
        """Prepare an optimizer step on these micro-batches, for example by new rollouts; returns terms of the log."""
        return {}

    @abstractmethod
    def losses(self, batches: Sequence[Batch]) -> Iterator[Loss]:
        """The loss of each micro-batch of an optimizer step, in parts; the caller takes the gradient of a part before
        it asks for the next.
        """

    def state_dict(self) -> dict[str, Any]:
        """What changes from step to step: tensors, numbers, texts, and lists and dictionaries of them. It is asked for
        before every step, so it should copy no tensors, and later steps must leave it as it is.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 (nothing to load is the rule)
        """Go on from what `state_dict` gave; its tensors may be on another device."""


class RoundObjective(Objective):
    """An objective that can serve within the rounds of another one; every part of its loss has the term `reward`, and
    it yields one part per micro-batch.
    """

    @abstractmethod
    def restart(self) -> None:
        """A round begins: the reward is another one from now on."""
