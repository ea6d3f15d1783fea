"""What every trainer shares: judging in slices, accumulation, the optimizer step, averaged weights, the terms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from stages.errors import InputError
from stages.finetune.batch import Batch, Likeness
from stages.finetune.nonfinite import require_finite
from stages.finetune.settings import FinetuneSettings
from stages.finetune.tools import Tools
from stages.processes import ALONE, Processes
from stages.rewards.networks.contrastive import exact

Decode = Callable[[Tensor], Tensor]
RewardFunction = Callable[[Tensor, Sequence[str]], Tensor]
LOSS_SCALER = 65536.0  # start value of torch's GradScaler


def adamw(parameters: dict[str, nn.Parameter], settings: FinetuneSettings) -> torch.optim.AdamW:
    """The optimizer of every trainer."""
    o = settings.optimizer
    return torch.optim.AdamW(
        parameters.values(), lr=o.lr, betas=o.betas, eps=o.eps, weight_decay=o.weight_decay, foreach=True
    )


def first_average(parameters: dict[str, nn.Parameter], settings: FinetuneSettings) -> dict[str, Tensor] | None:
    """Averaged weights before the first step; None where the study wants none."""
    return {name: p.detach().clone() for name, p in parameters.items()} if settings.ema else None


def reward_loss(rewards: Tensor, scale: float = 1.0, offset: float = 0.0, weights: Tensor | None = None) -> Tensor:
    """-mean over b of w_b scale (R_b + offset), of rewards [B]; without `weights` [B] they are 1.

    ImageReFL's code, reward_models/base_model.py.
    """
    terms = scale * (rewards + offset)
    return -(terms if weights is None else weights * terms).mean()


def image_features(reward: RewardFunction) -> Callable[[Tensor], Tensor]:
    """The function from images [B, 3, H, W] to the reward's own features [B, D]; raises InputError without one."""
    embed = getattr(reward, "embed", None)
    if embed is None:
        raise InputError("the training reward has no features of images, which this method needs")
    return embed


@dataclass(frozen=True)
class Pull:
    """What judging gave: `rewards` [N], the `gradient` [N, C, h, w] of the loss by the latents, and `distances` [N]
    from the real images, where these are asked for.
    """

    rewards: Tensor
    gradient: Tensor
    distances: Tensor | None = None


@dataclass
class Learner:
    """One policy being trained. `decode` maps clean latents to images in [0, 1]; `reward` judges images and prompts.

    What changes during training is in `parameters`, `optimizer` and `average`; a kind of trainer may add to it. Each
    of several `processes` has an equal share of every micro-batch; gradients and terms are means over them, so that a
    step is finite in all of them or in none.
    """

    tools: Tools
    decode: Decode
    reward: RewardFunction
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor] | None
    settings: FinetuneSettings
    processes: Processes = field(default=ALONE, kw_only=True)

    def backward(self, batch: Batch, share: float = 1.0) -> dict[str, Tensor]:
        """Add `share` of one micro-batch's gradient to the parameters; returns its terms, detached, `loss` among
        them.
        """
        raise NotImplementedError

    def ready(self, batches: Sequence[Batch], share: float = 1.0) -> Sequence[Batch]:
        """The micro-batches of a step, with what is made of them together before their turns; here nothing. `share` is
        that of `backward`.
        """
        return batches

    def train_step(self, batches: Sequence[Batch]) -> dict[str, float]:
        """One optimizer step on the mean loss of the micro-batches; returns the mean terms of the loss and the norm of
        the gradient, before clipping. Raises NonFinite where one of them is no number, and leaves everything as it was.
        """
        share = 1.0 if self.settings.as_released.sum_accumulation else 1 / len(batches)
        self.optimizer.zero_grad(set_to_none=True)
        terms: dict[str, Tensor] = {}
        each = [self.backward(batch, share) for batch in self.ready(batches, share)]
        for own in each:
            for name, value in own.items():
                terms[name] = terms.get(name, torch.zeros_like(value)) + value / len(batches)
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        self.processes.mean([*gradients, *terms.values()])
        limit = self.settings.optimizer.clip_norm or math.inf
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), limit)
        logged = {name: float(value) for name, value in terms.items()} | {"grad_norm": float(norm)}
        require_finite(logged, each, batches, self.processes)
        self._update()
        if self.average is not None and self.settings.ema is not None:
            values = [p.detach() for p in self.parameters.values()]
            for average, value in zip(self.average.values(), values, strict=True):
                average.lerp_(value, 1 - self.settings.ema)
        return logged

    def state(self) -> dict[str, Any]:
        """Everything that changes during training: tensors, numbers, texts, and lists and dictionaries of them.

        A kind of trainer that keeps more (a buffer) adds it here and takes it back in `load_state`.
        """
        return {
            "parameters": {name: p.detach() for name, p in self.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "counters": self.counters(),
        }

    def standing(self) -> dict[str, Any]:
        """The parts of `state` that a step changes even where it is not taken; nothing changes them afterwards, so that
        a state with those of before the step stands before it.
        """
        return {"counters": self.counters()}

    def counters(self) -> dict[str, int]:
        """What the networks of all processes have counted so far, by the place of the network and the counter's
        name.
        """
        return {
            f"{place} {name}": value * self.processes.count
            for place, denoiser in enumerate(self.tools.denoisers)
            for name, value in vars(denoiser).items()
            if isinstance(value, int)
        }

    def load_state(self, content: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(content["parameters"][name])
            for name, value in (self.average or {}).items():
                value.copy_(content["average"][name])
        self.optimizer.load_state_dict(content["optimizer"])
        for key, value in content["counters"].items():
            place, name = key.split()
            setattr(self.tools.denoisers[int(place)], name, value // self.processes.count)

    def judged(self, x0: Tensor, prompts: Sequence[str]) -> Tensor:
        """Rewards [N] of clean latents [N, C, h, w], without gradient, in slices of `judge_batch` images."""
        size = self.settings.judge_batch
        with torch.no_grad():
            parts = range(0, len(x0), size)
            return torch.cat([self._rewards(x0[n : n + size], prompts[n : n + size]) for n in parts])

    def judged_whole(self, x0: Tensor, prompts: Sequence[str]) -> Tensor:
        """Rewards of the clean latents of all processes, by rank, each of which judges its own [N, C, h, w]."""
        return self.processes.whole([self.judged(x0, prompts)])[0]

    def pull(
        self,
        x0: Tensor,
        prompts: Sequence[str],
        share: float,
        weights: Tensor | None = None,
        likeness: Likeness | None = None,
    ) -> Pull:
        """Judge clean latents [N, C, h, w]: the gradient of `share` of `reward_loss`, and of the likeness, by them.

        It goes through decoder and reward in slices of `judge_batch` images, so that memory is bounded. `weights` [N]
        are those of the images in the loss. Raises InputError where a likeness is asked for and the reward has no
        features of images.
        """
        x0 = x0.detach().requires_grad_(True)
        size, found, apart = self.settings.judge_batch, [], []
        for start in range(0, len(x0), size):
            part = slice(start, start + size)
            rewards, distances = self._seen(x0[part], prompts[part], None if likeness is None else likeness.real[part])
            own = None if weights is None else weights[part]
            loss = reward_loss(rewards, self.settings.reward_scale, self.settings.reward_offset, own)
            if likeness is not None and distances is not None:
                loss = loss + likeness.weight * distances.mean()
                apart.append(distances.detach())
            (share * len(rewards) / len(x0) * loss).backward()
            found.append(rewards.detach())
        assert x0.grad is not None
        return Pull(torch.cat(found), x0.grad, torch.cat(apart) if apart else None)

    def _rewards(self, x0: Tensor, prompts: Sequence[str]) -> Tensor:
        return self._seen(x0, prompts)[0]

    def _seen(self, x0: Tensor, prompts: Sequence[str], real: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Rewards [N] of latents, and 1 - cosine [N] between their images' features and those of `real` latents."""
        with self._autocast():
            images = self.decode(x0)
            rewards = exact(self.reward(images, prompts))
            if real is None:
                return rewards, None
            with torch.no_grad():
                wanted = normalize(exact(image_features(self.reward)(self.decode(real))), dim=-1)
            found = normalize(exact(image_features(self.reward)(images)), dim=-1)
        return rewards, 1 - (found * wanted).sum(-1)

    def _update(self) -> None:
        """An optimizer step; with `double_step` one before it, on the gradient that no scaler has unscaled yet."""
        if self.settings.as_released.double_step:
            gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
            for gradient in gradients:
                gradient.mul_(LOSS_SCALER)
            self.optimizer.step()
            for gradient in gradients:
                gradient.div_(LOSS_SCALER)
        self.optimizer.step()

    def _autocast(self) -> torch.autocast:
        """A region of its own for every network pass: a weight cached without gradient must not reach one with
        gradient.
        """
        wanted = self.settings.precision == "bfloat16"
        return torch.autocast(self.tools.empty.device.type, torch.bfloat16, enabled=wanted, cache_enabled=False)
