"""The trainer of every trajectory method: rollouts are collected when the method wants some, then learnt from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from stages.finetune.batch import Batch
from stages.finetune.learner import Decode, Learner, RewardFunction, adamw, first_average
from stages.finetune.settings import FinetuneSettings
from stages.finetune.tools import Tools
from stages.finetune.trajectory.chain import Chain


@dataclass(frozen=True)
class Piece:
    """A part of a micro-batch's loss: `root`, a scalar whose gradient is the part's, and its shares of the terms.

    Pieces add up: so do their terms, `loss` among them. A graph is freed before the next piece is made.
    """

    root: Tensor
    terms: dict[str, Tensor]


class Method(Protocol):
    """What a trajectory method's module makes in `start(settings, train)`.

    Of several processes (`learner.processes`) each is given its rows of the micro-batches, in order. What a method
    holds is the same in all of them: it gathers what they made, draws for all of it and learns from its part.
    """

    def due(self, step: int) -> bool:
        """Whether optimizer step `step` (from 0) begins with new rollouts."""
        ...

    def collect(self, learner: Learner, chain: Chain, batches: Sequence[Batch]) -> dict[str, float]:
        """Roll out and judge the micro-batches of a step, keep what is learnt from; returns terms of the log."""
        ...

    def losses(self, learner: Learner, chain: Chain, batch: Batch) -> Iterator[Piece]:
        """The loss of one micro-batch, in pieces; the batch's place says which rollouts are its own."""
        ...

    def state(self) -> dict[str, Any]:
        """What changes from step to step: tensors, numbers, texts, and lists and dictionaries of them. It is asked for
        before every step, so it should copy no tensors, and later steps leave it as it is.
        """
        ...

    def load_state(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from what `state` gave, on `device`."""
        ...


@dataclass
class TrajectoryTrainer(Learner):
    """A learner whose method learns from rollouts of `chain`."""

    chain: Chain
    method: Method

    @classmethod
    def start(
        cls,
        tools: Tools,
        decode: Decode,
        reward: RewardFunction,
        method: Method,
        parameters: dict[str, nn.Parameter],
        settings: FinetuneSettings,
        eta: float = 1.0,
    ) -> TrajectoryTrainer:
        """A trainer before its first step; raises InputError where the base's grid gives no stochastic last step."""
        optimizer, average = adamw(parameters, settings), first_average(parameters, settings)
        return cls(tools, decode, reward, parameters, optimizer, average, settings, Chain.of(tools, eta), method)

    def train_step(self, batches: Sequence[Batch]) -> dict[str, float]:
        """Collect when it is time to, then one optimizer step; returns the terms of both."""
        terms: dict[str, float] = {}
        if self.method.due(batches[0].micro // self.settings.accumulate):
            with self._autocast():
                terms = self.method.collect(self, self.chain, batches)
        return terms | super().train_step(batches)

    def backward(self, batch: Batch, share: float = 1.0) -> dict[str, Tensor]:
        """Add `share` of one micro-batch's gradient to the parameters, piece by piece; returns its terms."""
        share *= self.settings.as_released.loss_scale
        terms: dict[str, Tensor] = {}
        pieces = self.method.losses(self, self.chain, batch)
        while True:
            with self._autocast():
                piece = next(pieces, None)
            if piece is None:
                break
            (share * piece.root).backward()
            for name, value in piece.terms.items():
                terms[name] = terms.get(name, 0) + value.detach()
        terms["loss"] = self.settings.as_released.loss_scale * terms["loss"]
        return terms

    def state(self) -> dict[str, Any]:
        """What every learner keeps, and what the method does."""
        return super().state() | {"method": self.method.state()}

    def standing(self) -> dict[str, Any]:
        """Also what the method holds: rollouts are collected before the gradient of the step is known."""
        return super().standing() | {"method": self.method.state()}

    def load_state(self, content: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        super().load_state(content)
        self.method.load_state(content["method"], self.chain.device)
