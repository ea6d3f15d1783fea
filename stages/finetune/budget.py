"""How many optimizer steps a method gets for an amount of compute, counted by walking through its own steps.

The unit is one evaluation of the network on one image. Compute counts forward and backward: an evaluation that
gradient flows back through costs three, since a backward pass takes about twice the time of a forward pass (the
gradients of inputs and of weights). Decoder and reward are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from stages.encode.store import Encodings, Item
from stages.errors import InputError
from stages.finetune.batch import Batch
from stages.finetune.data import Data
from stages.finetune.tools import Tools
from stages.finetune.trajectory.trainer import TrajectoryTrainer
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser
from stages.models.process import DiffusionProcess

if TYPE_CHECKING:
    from stages.finetune.resolve import Plan

BACKWARD = 2.0  # evaluations that the backward pass of one evaluation costs


@dataclass(frozen=True)
class Cost:
    """Network evaluations: `forward` of all, `backward` of those among them that carry gradient."""

    forward: int
    backward: int

    @property
    def compute(self) -> float:
        """Both in units of one forward evaluation."""
        return self.forward + BACKWARD * self.backward

    @classmethod
    def of(cls, tools: Tools) -> Cost:
        """What the networks have been asked for so far."""
        every = tools.denoisers
        return cls(sum(d.evaluations for d in every), sum(d.backward for d in every))

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.forward - other.forward, self.backward - other.backward)


def within_budget(plan: Plan, process: DiffusionProcess) -> Plan:
    """The plan with the number of steps that its budget pays for; the same plan where it has none.

    Raises InputError where the budget does not pay for one step.
    """
    budget = plan.train.budget
    if budget is None:
        return plan
    steps = budget.steps or steps_within(plan, process, cast(float, budget.compute))
    if not steps:
        raise InputError(f"run {plan.name!r}: finetune.budget.compute {budget.compute:g} does not pay for one step")
    return replace(plan, train=plan.train.model_copy(update={"steps": steps}))


def steps_within(plan: Plan, process: DiffusionProcess, compute: float) -> int:
    """The most optimizer steps whose compute, over all of them, is not above `compute`."""
    spent = 0.0
    for step, cost in enumerate(costs(plan, process)):
        spent += cost.compute
        if spent > compute:
            return step
    raise AssertionError("costs never end")


def costs(plan: Plan, process: DiffusionProcess) -> Iterator[Cost]:
    """The cost of every optimizer step from the first on, without end: the random indices are those of training.

    The method's own `step` runs with a network that returns its input, on latents of one number, so no weights and
    no data are needed. Raises InputError for a method that makes no evaluation.
    """
    train = plan.train
    grid = process.grid(train.sampling_steps)
    policy = Denoiser(_Echo(), process)
    device = process.device
    others = {name: Denoiser(_Echo(), process) for name in ("reference", "student")}
    tools = Tools(policy, grid, Conditioning(torch.zeros(1, 1, 1, device=device)), train.guidance, train.sampler,
                  train.as_released.extra_step, **others)  # fmt: skip
    item = Item("counted", "", 0, 0)
    data = Data(cast(Encodings, _Nothing(device)), [item], plan.seed, train.batch_size, train.accumulate, 1.0, device,
                plan.method_settings.data == "images", plan.method_settings.group)  # fmt: skip
    take = _taking(plan, tools)
    for step in count():
        before = Cost.of(tools)
        take([data.batch(step, micro) for micro in range(train.accumulate)])
        cost = Cost.of(tools) - before
        if not cost.forward:
            raise InputError(f"run {plan.name!r}: method {plan.method!r} evaluates nothing, expected a budget of steps")
        yield cost


def _taking(plan: Plan, tools: Tools) -> Callable[[Sequence[Batch]], object]:
    """A function that makes the network evaluations of an optimizer step on these micro-batches."""
    if not hasattr(plan.module, "start"):
        return lambda batches: [plan.module.step(tools, batch, plan.method_settings) for batch in batches]
    train = plan.train.model_copy(update={"optimizer": plan.train.optimizer.model_copy(update={"lr": 1e-12})})
    method, weights = plan.module.start(plan.method_settings, train), dict(tools.policy.network.named_parameters())
    eta = getattr(plan.method_settings, "eta", 1.0)
    return TrajectoryTrainer.start(tools, lambda x0: x0, _Indifferent(), method, weights, train, eta).train_step


class _Indifferent:
    """A reward of 0 for everything."""

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return 0 * images.flatten(1).mean(1)

    def embed(self, images: Tensor) -> Tensor:
        return images.flatten(1)

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        return torch.zeros(len(prompts), 1)


class _Echo(nn.Module):
    """A network that costs nothing: its input times a weight of 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, return_dict: bool) -> tuple[Tensor]:
        return (x * self.weight.to(x.device),)


@dataclass(frozen=True)
class _Nothing:
    """Encodings of latents and texts that are one number each."""

    device: torch.device

    def latent_shape(self) -> tuple[int, int, int]:
        return 1, 1, 1

    def text(self, items: Sequence[Item]) -> Tensor:
        return torch.zeros(len(items), 1, 1, device=self.device)

    def posterior(self, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        zeros = torch.zeros(len(items), 1, 1, 1, device=self.device)
        return zeros, zeros
