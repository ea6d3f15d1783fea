"""One training loop for every model: schedule, clipping, averaged weights, log, state to resume from."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages import tables
from stages.errors import InputError
from stages.prepare.settings import Training
from stages.resume import State
from stages.runtime import seed_from

Terms = dict[str, Tensor]
"""Named terms of one step; `loss` is what is minimised."""


def place(module: nn.Module, device: torch.device) -> None:
    """Move a network; a function with types of its own, since some libraries give `to` others."""
    module.to(device)


def rate(settings: Training, step: int) -> float:
    """Share of the highest learning rate at `step` (0-based)."""
    rising = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    held = settings.hold * settings.steps
    past = max(0.0, (step - held) / max(1.0, settings.steps - held))
    return rising * (1 - (1 - settings.final) * past)


def generator(seed: int, purpose: str, step: int) -> torch.Generator:
    """Randomness of one step: a function of seed, purpose and step alone, so that a resumed run repeats it."""
    return torch.Generator().manual_seed(seed_from(seed, purpose, step))


def draw_rows(seed: int, purpose: str, step: int, count: int, batch: int) -> Tensor:
    """Rows of the batch of `step`, drawn with replacement from `count`."""
    return torch.randint(count, (batch,), generator=generator(seed, purpose, step))


@dataclass(frozen=True)
class Probe:
    """A measurement with the averaged weights, taken every `every` steps and after the last; never in a shorter run."""

    every: int
    measure: Callable[[int], dict[str, float]]


@dataclass
class Log:
    """Rows of a training log (`tables.TRAIN_LOG`)."""

    rows: list[tuple[int, str, float]] = field(default_factory=list)

    def add(self, step: int, terms: dict[str, float]) -> None:
        self.rows += [(step, name, float(value)) for name, value in terms.items()]

    def write(self, path: Path) -> None:
        rows: list[dict[str, object]] = [
            {"step": step, "term": term, "value": value} for step, term, value in self.rows
        ]
        tables.write(path, tables.table(tables.TRAIN_LOG, rows), tables.TRAIN_LOG)


class Trainer:
    """Trains `modules` together.

    Parameters
    ----------
    state
        Where the run is kept under its name, to go on from: when it is time to, every `settings.save_every` steps and
        at its end (another run of the same job may follow). Without one nothing is kept.
    factors
        Learning rate of a module relative to `settings.lr`; 1 where it is not named.
    """

    def __init__(
        self,
        name: str,
        modules: dict[str, nn.Module],
        settings: Training,
        state: State | None = None,
        factors: dict[str, float] | None = None,
    ) -> None:
        self.modules, self.settings, self.state, self.name = modules, settings, state or State(), name
        self.log, self.step = Log(), 0
        self.factors = [(factors or {}).get(key, 1.0) for key in modules]
        groups = [{"params": [p for p in m.parameters() if p.requires_grad]} for m in modules.values()]
        self.optimizer = torch.optim.AdamW(
            groups, lr=settings.lr, betas=(0.9, settings.beta2), weight_decay=settings.weight_decay
        )
        self.average = {k: {n: v.detach().clone() for n, v in m.state_dict().items()} for k, m in modules.items()}
        if kept := self.state.load(name):
            self._resume(kept)

    def run(self, terms: Callable[[int], Terms], probe: Probe | None = None) -> None:
        """Take the steps that are left."""
        started, first, told = time.monotonic(), self.step, 0.0
        while self.step < self.settings.steps:
            values = self._update(terms(self.step))
            self.step += 1
            passed = time.monotonic() - started
            if self._due(self.settings.log_every):
                self.log.add(self.step, {k: float(v) for k, v in values.items()})
            if passed - told > 15 or self._due(self.settings.steps):
                told = passed
                self._tell(values, passed / (self.step - first))
            if probe and probe.every <= self.settings.steps and self._due(probe.every):
                self._probe(probe.measure)
            if self._due(self.settings.save_every):
                self.state.save(self.name, self._content())
            self.state.offer(self.name, self._content)

    def finish(self) -> Log:
        """Put the averaged weights in place for use, and return the log."""
        self._use_average()
        for module in self.modules.values():
            module.eval()
        return self.log

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.settings.steps

    def _tell(self, values: Terms, each: float) -> None:
        left = each * (self.settings.steps - self.step)
        shown = "  ".join(f"{name} {float(value):.4f}" for name, value in values.items())
        place = f"{self.name} {self.step}/{self.settings.steps}"
        print(f"{place}, {each:.3f} s each, {left:.0f} s left  {shown}", file=sys.stderr, flush=True)

    def _use_average(self) -> None:
        if self.settings.ema:
            for key, module in self.modules.items():
                module.load_state_dict(self.average[key])

    def _update(self, terms: Terms) -> Terms:
        share = rate(self.settings, self.step)
        for group, factor in zip(self.optimizer.param_groups, self.factors, strict=True):
            group["lr"] = self.settings.lr * factor * share
        self.optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, self.settings.clip)
        if not math.isfinite(float(norm)) or not math.isfinite(float(terms["loss"].detach())):
            found = ", ".join(f"{name} {float(value.detach()):.4g}" for name, value in terms.items())
            raise InputError(
                f"{self.name}: step {self.step}: {found}, gradient norm {float(norm):.4g}, expected finite numbers;"
                " the step was not taken; lower the lr?"
            )
        self.optimizer.step()
        if self.settings.ema:
            # A young average follows quickly: the first steps would otherwise weigh on it for 1 / (1 - ema) steps.
            decay = min(self.settings.ema, (self.step + 1) / (self.step + 10))
            for key, module in self.modules.items():
                _blend(self.average[key], module.state_dict(), decay)
        return {k: v.detach() for k, v in terms.items()} | {"grad_norm": norm.detach()}

    def _probe(self, measure: Callable[[int], dict[str, float]]) -> None:
        raw = {k: {n: v.detach().clone() for n, v in m.state_dict().items()} for k, m in self.modules.items()}
        self._use_average()
        modes = {k: m.training for k, m in self.modules.items()}
        for module in self.modules.values():
            module.eval()
        with torch.no_grad():
            found = measure(self.step)
        for key, module in self.modules.items():
            module.load_state_dict(raw[key])
            module.train(modes[key])
        self.log.add(self.step, found)
        shown = "  ".join(f"{k} {v:.3f}" for k, v in found.items())
        print(f"{self.name} probe at {self.step}: {shown}", file=sys.stderr, flush=True)

    def _content(self) -> dict[str, object]:
        """Everything that changes during training; batches and noise are functions of the step."""
        return {
            "step": self.step,
            "modules": {k: m.state_dict() for k, m in self.modules.items()},
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "log": self.log.rows,
        }

    def _resume(self, content: dict[str, Any]) -> None:
        self.step, self.log.rows = content["step"], [tuple(row) for row in content["log"]]
        for key, module in self.modules.items():
            module.load_state_dict(content["modules"][key])
            for name, value in content["average"][key].items():
                self.average[key][name].copy_(value)
        self.optimizer.load_state_dict(content["optimizer"])
        print(f"{self.name}: resumed at step {self.step}", file=sys.stderr, flush=True)


@torch.no_grad()
def _blend(average: dict[str, Tensor], current: dict[str, Tensor], decay: float) -> None:
    for name, value in average.items():
        if value.is_floating_point():
            value.lerp_(current[name], 1 - decay)
        else:
            value.copy_(current[name])
