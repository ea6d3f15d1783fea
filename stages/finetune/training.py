"""The training loop, from top to bottom: the loop itself, its checkpoints, and an optimizer step."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from stages.errors import InputError
from stages.finetune.batch import Batch
from stages.finetune.cost import Cost
from stages.finetune.nonfinite import IN_A_ROW, NonFinite, require_finite
from stages.finetune.objective import Objective, Run
from stages.finetune.optimizer import adamw, update
from stages.finetune.precision import autocast
from stages.finetune.probe import Probed
from stages.resume import State
from stages.runtime import progress

Terms = dict[str, float]
CHECKPOINT = "run"
COMPANION = "companion: "
"""Prefix of the names of a second network's weights, so that they are names of no layer of the policy."""


def train(
    trainer: Trainer, checkpoint: Checkpoint, batches: Callable[[int], list[Batch]], probe: Callable[[], Probed],
    track: Callable[[int, Terms], None],
) -> None:  # fmt: skip
    """Take every step that is left, from the checkpoint on.

    `batches(step)` are the micro-batches of an optimizer step, `probe()` judges a few fixed prompts, and
    `track(step, terms)` is told of every step, those before the checkpoint too. Raises InputError for a step or a
    weight that is not finite, unless such steps are skipped, and Stopped when the job is told to stop.
    """
    settings, first = trainer.run.settings, trainer.run.processes.first
    for step, terms in checkpoint.resume():
        track(step, terms)
    left = range(checkpoint.step, settings.steps + 1)
    for step in progress(left, len(left), checkpoint.name):
        terms: Terms = {}
        pictures: list[Tensor] = []
        # once in a while, before the first and after the last step: how good are images now?
        if first and (step % settings.probe.every == 0 or step == settings.steps):
            seen = probe()
            terms, pictures = terms | seen.terms, seen.pictures
        # a single optimizer step, and what it cost
        if step < settings.steps:
            before = trainer.spent()
            terms |= checkpoint.take(batches(step))
            terms |= trainer.costs(before)
        track(step, terms)
        checkpoint.end_step(terms, pictures)
    checkpoint.require_finite()


@dataclass
class Checkpoint:
    """How far a run has come, and how it goes on after an interruption and after a step that is not finite.

    The step to take next, the rows (step, term, value) of the log and the pictures (step, PNG bytes of each) of the
    probes so far, and how many steps were just skipped: together with the trainer's own state that is everything, since
    batches are functions of the step.
    """

    trainer: Trainer
    state: State
    name: str = ""
    step: int = 0
    rows: list[tuple[int, str, float]] = field(default_factory=list)
    pictures: list[tuple[int, list[Tensor]]] = field(default_factory=list)
    skipped: int = 0

    def resume(self) -> Iterator[tuple[int, Terms]]:
        """Go on from what the state holds; yields step and terms of the steps that were taken before."""
        saved = self.state.load(CHECKPOINT)
        if saved is None:
            return
        self.step, self.skipped = saved["step"], saved["skipped"]
        self.rows = [tuple(row) for row in saved["rows"]]
        self.pictures = [(step, list(shown)) for step, shown in saved["pictures"]]
        self.trainer.load_state_dict(saved["trainer"])
        torch.set_rng_state(saved["random"])
        if saved["random_cuda"]:
            torch.cuda.set_rng_state_all(saved["random_cuda"])
        print(f"{self.name}: resumed at step {self.step}", file=sys.stderr, flush=True)
        for step, rows in groupby(self.rows, key=lambda row: row[0]):
            yield step, {term: value for _, term, value in rows}

    def take(self, batches: Sequence[Batch]) -> Terms:
        """The optimizer step; raises InputError where it is not finite and such steps are not to be skipped."""
        skip, before = self.trainer.run.settings.nonfinite == "skip", self.trainer.collected_state()
        try:
            terms = self.trainer.step(batches)
        except NonFinite as error:
            where = f"{self.name}: step {self.step}: {error}"
            self.skipped += 1
            if skip and self.skipped <= IN_A_ROW:
                print(f"warning: {where}; skipped", file=sys.stderr, flush=True)
                return error.finite()
            self.skipped -= 1
            self.state.save(CHECKPOINT, self._content(before))
            self.trainer.run.processes.wait()  # a process that ends takes the others with it
            advice = "lower the lr" if skip else "lower the lr, or skip such steps (finetune.nonfinite)"
            raise InputError(f"{where}; the step was not taken and the run stands before it; {advice}") from None
        self.skipped = 0
        return terms

    def end_step(self, terms: Mapping[str, float], pictures: Sequence[Tensor] = ()) -> None:
        """Log a step and save when it is time to; raises Stopped when the job was told to stop."""
        self.rows += [(self.step, name, float(value)) for name, value in terms.items()]
        self.pictures += [(self.step, list(pictures))] if pictures else []
        self.step += 1
        self.state.offer(CHECKPOINT, self._content)

    def require_finite(self) -> None:
        """Raise InputError where a weight is NaN or infinite, which the last step may have made it."""
        average = self.trainer.average or {}
        for name, value in [*self.trainer.parameters.items(), *average.items()]:
            if not bool(torch.isfinite(value).all()):
                raise InputError(f"{self.name}: after step {self.step - 1} {name} is not finite; lower the lr")

    def _content(self, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What to save, with the parts of the trainer's state in `before` in place of those of now."""
        return {
            "step": self.step,
            "skipped": self.skipped,
            "rows": self.rows,
            "pictures": self.pictures,
            "trainer": {**self.trainer.state_dict(), **(before or {})},
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }


@dataclass
class Trainer:
    """What changes during training is in `parameters`, `optimizer`, `average` (None where the study wants none) and the
    objective.

    Each of several processes has an equal share of every micro-batch; gradients and terms are means over them, so that
    a step is finite in all of them or in none.
    """

    run: Run
    objective: Objective
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor] | None

    @classmethod
    def start(cls, run: Run, objective: Objective, parameters: Mapping[str, nn.Parameter]) -> Trainer:
        """A trainer before its first step; the weights of a second network are trained with those of the policy."""
        parameters = {**parameters, **companions(run)}
        average = {name: p.detach().clone() for name, p in parameters.items()} if run.settings.ema else None
        return cls(run, objective, dict(parameters), adamw(parameters.values(), run.settings.optimizer), average)

    def step(self, batches: Sequence[Batch]) -> Terms:
        """One optimizer step; returns the terms of its log.

        These are what the objective collected, the mean terms of the loss, and the norm of the gradient before
        clipping. Raises NonFinite where a term of the loss or that norm is not finite, and leaves the policy as it was.
        """
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            collected = self.objective.collect(batches)
        each = self.backward(batches)

        terms = mean_terms(each)
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        self.run.processes.mean([*gradients, *terms.values()])
        limit = self.run.settings.optimizer.clip_norm or math.inf
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), limit)
        logged = {name: float(value) for name, value in terms.items()} | {"grad_norm": float(norm)}
        require_finite(logged, each, batches, self.run.processes)

        update(self.optimizer, gradients, self.run.settings.as_released.double_step)
        self._average()
        return collected | logged

    def backward(self, batches: Sequence[Batch]) -> list[dict[str, Tensor]]:
        """Add the gradient of the mean loss of the micro-batches to the parameters, part by part; returns the terms of
        each micro-batch.
        """
        released = self.run.settings.as_released
        share = released.loss_scale * (1.0 if released.sum_accumulation else 1 / len(batches))
        each: list[dict[str, Tensor]] = [{} for _ in batches]
        losses = self.objective.losses(batches)
        while True:
            with self._autocast():
                loss = next(losses, None)
            if loss is None:
                break
            if not loss.later:
                (share * loss.root).backward()
            terms = each[loss.place]
            for name, value in loss.terms.items():
                terms[name] = terms[name] + value.detach() if name in terms else value.detach()
        for terms in each:
            terms["loss"] = released.loss_scale * terms["loss"]
        return each

    def averaged(self) -> dict[str, Tensor] | None:
        """The average of the policy's weights alone; None where the study wants none."""
        if self.average is None:
            return None
        return {name: value for name, value in self.average.items() if not name.startswith(COMPANION)}

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes during training: tensors, numbers, texts, and lists and dictionaries of them."""
        return {
            "parameters": {name: p.detach() for name, p in self.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            **self.collected_state(),
        }

    def collected_state(self) -> dict[str, Any]:
        """The parts of `state_dict` that a step changes even where its update is not taken: rollouts are collected
        before the gradient is known. Later steps leave what this gives as it is.
        """
        return {"objective": self.objective.state_dict(), "counters": self.counters()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(state["parameters"][name])
            for name, value in (self.average or {}).items():
                value.copy_(state["average"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.objective.load_state_dict(state["objective"])
        for role, denoiser in self.run.networks.denoisers.items():
            denoiser.evaluations, denoiser.backward = (n // self.run.processes.count for n in state["counters"][role])

    def counters(self) -> dict[str, list[int]]:
        """Evaluations of each network by all processes so far, and those among them that carry gradient."""
        count = self.run.processes.count
        return {role: [d.evaluations * count, d.backward * count] for role, d in self.run.networks.denoisers.items()}

    def spent(self) -> tuple[Cost, int]:
        """Evaluations and queries of this process so far."""
        return Cost.of(self.run.networks), self.run.reward.queries

    def costs(self, before: tuple[Cost, int]) -> Terms:
        """Terms of the log: evaluations (`nfe`) and `queries` of all processes since `before`, evaluations so far."""
        (cost, queries), count = self.spent(), self.run.processes.count
        terms = {
            "nfe": (cost - before[0]).forward, "forward": cost.forward, "backward": cost.backward,
            "queries": queries - before[1],
        }  # fmt: skip
        return {name: float(value * count) for name, value in terms.items()}

    def _average(self) -> None:
        if self.average is not None and self.run.settings.ema is not None:
            for name, parameter in self.parameters.items():
                self.average[name].lerp_(parameter.detach(), 1 - self.run.settings.ema)

    def _autocast(self) -> torch.autocast:
        return autocast(self.run.settings, self.run.device)


def companions(run: Run) -> dict[str, nn.Parameter]:
    """The trained weights of the network beside the policy, where there is one."""
    if run.networks.companion is None:
        return {}
    named = run.networks.companion.network.named_parameters()
    return {f"{COMPANION}{name}": value for name, value in named if value.requires_grad}


def mean_terms(each: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each term over the micro-batches; one that lacks a term counts as 0."""
    terms: dict[str, Tensor] = {}
    for own in each:
        for name, value in own.items():
            terms[name] = terms.get(name, torch.zeros_like(value)) + value / len(each)
    return terms
