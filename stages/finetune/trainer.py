"""The trainer of every reward-gradient method: a method says what is judged, the trainer does the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stages.errors import InputError
from stages.finetune.batch import Batch, Judged
from stages.finetune.settings import FinetuneSettings
from stages.finetune.tools import Tools

Decode = Callable[[Tensor], Tensor]
RewardFunction = Callable[[Tensor, Sequence[str]], Tensor]
LOSS_SCALER = 65536.0  # start value of torch's GradScaler


def reward_loss(rewards: Tensor, scale: float = 1.0, offset: float = 0.0) -> Tensor:
    """-mean over b of scale (R_b + offset), of rewards [B]. ImageReFL's code, reward_models/base_model.py."""
    return -(scale * (rewards + offset)).mean()


@dataclass
class Trainer:
    """One policy being trained. `decode` maps clean latents to images in [0, 1]; `reward` judges images and prompts.

    `micro_step(tools, batch)` is the method. Everything that changes during training is in `parameters`,
    `optimizer` and `average`.
    """

    tools: Tools
    decode: Decode
    reward: RewardFunction
    micro_step: Callable[[Tools, Batch], Judged]
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor] | None
    settings: FinetuneSettings

    @classmethod
    def start(
        cls,
        tools: Tools,
        decode: Decode,
        reward: RewardFunction,
        micro_step: Callable[[Tools, Batch], Judged],
        parameters: dict[str, nn.Parameter],
        settings: FinetuneSettings,
    ) -> Trainer:
        """A trainer before its first step."""
        o = settings.optimizer
        optimizer = torch.optim.AdamW(
            parameters.values(), lr=o.lr, betas=o.betas, eps=o.eps, weight_decay=o.weight_decay, foreach=True
        )
        average = {name: p.detach().clone() for name, p in parameters.items()} if settings.ema else None
        return cls(tools, decode, reward, micro_step, parameters, optimizer, average, settings)

    def train_step(self, batches: Sequence[Batch]) -> dict[str, float]:
        """One optimizer step on the mean loss of the micro-batches; returns the mean terms of the loss and the norm of
        the gradient, before clipping.
        """
        share = 1.0 if self.settings.as_released.sum_accumulation else 1 / len(batches)
        self.optimizer.zero_grad(set_to_none=True)
        terms: dict[str, Tensor] = {}
        for batch in batches:
            for name, value in self.backward(batch, share).items():
                terms[name] = terms.get(name, torch.zeros_like(value)) + value / len(batches)
        limit = self.settings.optimizer.clip_norm or math.inf
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), limit)
        self._update()
        if self.average is not None and self.settings.ema is not None:
            values = [p.detach() for p in self.parameters.values()]
            for average, value in zip(self.average.values(), values, strict=True):
                average.lerp_(value, 1 - self.settings.ema)
        logged = {name: float(value) for name, value in terms.items()} | {"grad_norm": float(norm)}
        if not math.isfinite(logged["loss"]) or not math.isfinite(logged["grad_norm"]):
            raise InputError(
                f"training: the loss is {logged['loss']}, its gradient norm {logged['grad_norm']}; lower the lr?"
            )
        return logged

    def backward(self, batch: Batch, share: float = 1.0) -> dict[str, Tensor]:
        """Add `share` of one micro-batch's gradient to the parameters; returns its terms, detached.

        loss = - reward_scale * mean reward + sum of weight * penalty. The reward's gradient goes through decoder and
        reward in slices of `judge_batch` images, is collected at x0, and enters the network once, with the penalties.
        """
        share *= self.settings.as_released.loss_scale
        with self._autocast():
            judged = self.micro_step(self.tools, batch)
            penalty = sum((weight * value for weight, value in judged.penalties.values()), torch.zeros(()))
        x0 = judged.x0.detach().requires_grad_(True)
        rewards = torch.cat([part.detach() for part in self._judge(x0, judged.prompts, share)])
        roots, gradients = [judged.x0], [x0.grad]
        if judged.penalties:
            roots, gradients = [*roots, penalty * share], [*gradients, None]
        torch.autograd.backward(roots, gradients)
        loss = reward_loss(rewards, self.settings.reward_scale, self.settings.reward_offset) + penalty.detach()
        terms = {"reward": rewards.mean(), "loss": self.settings.as_released.loss_scale * loss}
        return terms | {f"loss_{name}": value.detach() for name, (_, value) in judged.penalties.items()}

    def _judge(self, x0: Tensor, prompts: Sequence[str], share: float) -> Iterator[Tensor]:
        """Rewards slice by slice; each slice's share of the loss is propagated to x0.grad before the next one."""
        size = self.settings.judge_batch
        for start in range(0, len(x0), size):
            with self._autocast():
                images = self.decode(x0[start : start + size])
                rewards = self.reward(images, prompts[start : start + size])
                rewards = rewards.to(torch.promote_types(rewards.dtype, torch.float32))
            loss = reward_loss(rewards, self.settings.reward_scale, self.settings.reward_offset)
            (share * len(rewards) / len(x0) * loss).backward()
            yield rewards

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
