"""How many optimizer steps a method gets for an amount of compute, counted by walking through its own steps.

The unit is one evaluation of the network on one image. Compute counts forward and backward: an evaluation that
gradient flows back through costs three, since a backward pass takes about twice the time of a forward pass (the
gradients of inputs and of weights). Decoder and reward are not counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stages.encode.store import Item
from stages.errors import InputError
from stages.finetune.cost import Cost
from stages.finetune.data import Data
from stages.finetune.networks import Networks
from stages.finetune.objective import Run
from stages.finetune.reward import CountedReward, LatentReward
from stages.finetune.training import Trainer
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser
from stages.models.process import DiffusionProcess
from stages.models.stand_in import StandIn

if TYPE_CHECKING:
    from stages.finetune.resolve import TrainingPlan

UNMOVED = 1e-12
"""A learning rate that leaves a weight of 1 as it is."""


def within_budget(plan: TrainingPlan, process: DiffusionProcess) -> TrainingPlan:
    """The plan with the number of steps that its budget pays for; the same plan where it has none.

    Raises InputError where the budget does not pay for one step.
    """
    budget = plan.train.budget
    if budget is None:
        return plan
    steps = budget.steps or steps_within(plan, process, budget.compute or 0.0)
    if not steps:
        raise InputError(f"run {plan.name!r}: finetune.budget.compute {budget.compute:g} does not pay for one step")
    return replace(plan, train=plan.train.model_copy(update={"steps": steps}))


def steps_within(plan: TrainingPlan, process: DiffusionProcess, compute: float) -> int:
    """The most optimizer steps whose compute, over all of them, is not above `compute`."""
    spent = 0.0
    for step, cost in enumerate(costs(plan, process)):
        spent += cost.compute
        if spent > compute:
            return step
    raise AssertionError("costs never end")


def costs(plan: TrainingPlan, process: DiffusionProcess) -> Iterator[Cost]:
    """The cost of every optimizer step from the first on, without end: the random indices are those of training.

    The method's own objective trains a network that returns its input, on latents of one number, so no weights and no
    data are needed. Raises InputError for a method that makes no evaluation.
    """
    trainer, encodings, needs = stand_in(plan, process), _StandInEncodings(process.device), plan.method_settings.needs
    item = Item("counted", "", 0, 0)
    data = Data(
        encodings, [item], plan.seed, plan.train.batch_size, plan.train.accumulate, scale=1.0, device=process.device,
        posterior=needs.data == "images", repeat=needs.group,
        pairs=[_StandInPair(item, item, captioned=needs.captions)] if needs.data == "pairs" else (),
    )  # fmt: skip
    for step in count():
        before = Cost.of(trainer.run.networks)
        trainer.step(data.batches(step))
        cost = Cost.of(trainer.run.networks) - before
        if not cost.forward:
            raise InputError(f"run {plan.name!r}: method {plan.method!r} evaluates nothing, expected a budget of steps")
        yield cost


def stand_in(plan: TrainingPlan, process: DiffusionProcess) -> Trainer:
    """A trainer of the plan on networks that cost nothing and a reward that is 0 for everything."""
    optimizer, needs = plan.train.optimizer.model_copy(update={"lr": UNMOVED}), plan.method_settings.needs
    train = plan.train.model_copy(update={"optimizer": optimizer, "nonfinite": "stop"})
    policy, frozen = StandIn(), StandIn().requires_grad_(False)
    empty = Conditioning(torch.zeros(1, 1, 1, device=process.device))
    networks = Networks(
        Denoiser(policy, process), process.grid(train.sampling_steps), empty, train.guidance, train.sampler,
        train.as_released.extra_step, reference=Denoiser(frozen, process) if needs.reference else None,
        student=Denoiser(frozen, process) if needs.student is not None else None,
        companion=Denoiser(StandIn(), process) if needs.companion else None,
    )  # fmt: skip
    run = Run(networks, LatentReward(lambda x0: x0, CountedReward(_StandInReward()), train), train)
    objective = plan.definition.objective(plan.method_settings, run)
    return Trainer.start(run, objective, dict(policy.named_parameters()))


class _StandInReward:
    """A reward of 0 for everything."""

    name, differentiable, base = "counted", True, ""

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return 0 * images.flatten(1).mean(1)

    def score_latents(self, x: Tensor, prompts: Sequence[str], t: float) -> Tensor:
        return 0 * x.flatten(1).mean(1)

    def embed(self, images: Tensor) -> Tensor:
        return images.flatten(1)

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        return torch.zeros(len(prompts), 1)


@dataclass(frozen=True)
class _StandInPair:
    """Two images that are one number each."""

    winner: Item
    loser: Item
    item_id: str = "counted"
    text: str = ""
    text_row: int = 0
    label: float = 1.0
    weight: float = 1.0
    captioned: bool = False
    annotator: str = ""


@dataclass(frozen=True)
class _StandInEncodings:
    """Encodings of latents and texts that are one number each."""

    device: torch.device

    def latent_shape(self) -> tuple[int, int, int]:
        return 1, 1, 1

    def text(self, items: Sequence[Item]) -> Conditioning:
        return Conditioning(torch.zeros(len(items), 1, 1, device=self.device))

    def posterior(self, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros(len(items), 1, 1, 1, device=self.device)
        return zeros, zeros
