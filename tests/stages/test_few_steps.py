"""Sampling in a few steps: a rollout of PSO with the same noise, by the student where the base is meant."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_sample import model as model  # a fixture
from test_search_limits import SAMPLE
from test_search_limits import group as group  # a fixture
from torch import Tensor, nn

from stages.errors import InputError
from stages.models.diffusion import Denoiser
from stages.models.few_steps import Rule, grid, transition
from stages.models.process_flow import FlowMatching
from stages.models.process_noise import NoiseSchedule
from stages.params import read_study
from stages.prepare import check_students
from stages.sample.context import Context
from stages.sample.resolve import sampling_plan, strategy
from stages.sample.settings import StrategySettings, SweepPoint, Target, student
from tests import tiny

STUDIES = Path(__file__).resolve().parents[2] / "studies"


def few(**entry: Any) -> StrategySettings:
    return strategy("s", {"kind": "few_steps", "steps": [1, 2, 4], **entry}, SAMPLE, "test").settings


def other_network(network: nn.Module) -> nn.Module:
    """A network of the same form whose predictions differ."""
    found = deepcopy(network)
    with torch.no_grad():
        for weight in found.parameters():
            weight.mul_(0.9)
    return found


@pytest.fixture
def contexts(group: Any) -> dict[str, Context]:
    """The first group of images of the base alone and of a run; both know the student, which differs from both."""
    work, own = group
    made = replace(work, others={student("student"): other_network(work.model.unet)})
    tuned = made.context(own)
    return {"tuned": tuned, "base": replace(tuned, networks=replace(tuned.networks, tuned_network=None))}


def by_hand(ctx: Context, network: Denoiser, steps: int, rule: Rule) -> Tensor:
    """Clean latents: every state but the last is drawn around what the network makes of the one before."""
    schedule = network.process
    assert isinstance(schedule, NoiseSchedule) and 1000 % steps == 0
    x, text, product = ctx.noise.initial(), ctx.networks.text, schedule.alphas_cumprod
    for i in range(steps):
        t = torch.tensor(999 - 1000 // steps * i)
        a = product[t]
        noise = network.prediction(x, t, text)
        clean = (x - (1 - a).sqrt() * noise) / a.sqrt()
        if i + 1 == steps:
            return clean
        after = product[999 - 1000 // steps * (i + 1)]
        if rule == "renoise":
            mean, std = after.sqrt() * clean, (1 - after).sqrt()
        else:
            keep = a / after
            mean = (after.sqrt() * (1 - keep) * clean + keep.sqrt() * (1 - after) * x) / (1 - a)
            std = ((1 - after) * (1 - keep) / (1 - a)).sqrt()
        x = mean + std * ctx.noise.step(i)
    raise AssertionError("no steps")


@pytest.mark.parametrize("rule", ["renoise", "ancestral"])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_images_are_those_made_by_hand(contexts: dict[str, Context], rule: Rule, steps: int) -> None:
    search = few(rule=rule)
    with torch.no_grad():
        for target, ctx in contexts.items():
            network = ctx.networks.others[student("student")] if target == "base" else ctx.networks.tuned_network
            assert network is not None
            expected = ctx.decode(by_hand(ctx, network, steps, rule))
            torch.testing.assert_close(search.sample(ctx, steps), expected, rtol=1e-4, atol=1e-4)


def test_the_base_s_point_is_the_student_and_a_run_s_its_own_network(contexts: dict[str, Context]) -> None:
    with torch.no_grad():
        found = {target: few().sample(ctx, 2) for target, ctx in contexts.items()}
        twice = few().sample(contexts["base"], 4)
    assert not torch.allclose(found["base"], found["tuned"], atol=1e-3)
    assert not torch.allclose(found["base"], twice, atol=1e-3)


def test_a_step_is_one_evaluation(contexts: dict[str, Context]) -> None:
    for number, ctx in enumerate(contexts.values(), 1):  # one meter of both
        with torch.no_grad():
            few().sample(ctx, 4)
        assert {tuple(cost) for cost in ctx.rows.meter.costs()} == {(4 * number, 0, 0, number)}


@pytest.mark.parametrize("rule", ["renoise", "ancestral"])
def test_the_last_step_ends_at_the_predicted_latents(rule: Rule) -> None:
    steps = grid(tiny.schedule(), 3)
    x, clean = torch.randn(2, 2, 1, 4, 4).unbind()
    found = transition(steps, rule, x, clean, torch.full((2,), 2))
    torch.testing.assert_close(found.mean, clean)
    assert not found.std.any()


def test_flow_matching_is_refused(contexts: dict[str, Context]) -> None:
    ctx = contexts["base"]
    base = Denoiser(ctx.networks.base_network.network, FlowMatching(1.0, 1000, tiny.CPU))
    with pytest.raises(InputError, match=r"few-step sampling .* flow-matching model"):
        few().sample(replace(ctx, networks=replace(ctx.networks, base_network=base)), 2)


@pytest.mark.parametrize("steps", [[], [0], [-1], [1.5]])
def test_numbers_of_steps_are_whole_and_at_least_one(steps: list[Any]) -> None:
    with pytest.raises(InputError, match=r"steps"):
        few(steps=steps)


class ByTarget(StrategySettings):
    """A strategy that evaluates one distilled model for the base and another for runs, by the same setting."""

    def students(self, target: Target) -> dict[str, str]:
        return {"model": {"base": "one", "tuned": "two"}[target]}

    def points(self) -> list[SweepPoint]:
        return []

    def sample(self, ctx: Context, value: float) -> Tensor:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("targets", "unknown"),
    [(["base"], "one"), (["tuned"], "two"), (["base", "tuned"], "one"), (["tuned", "base"], "two")],
)
def test_students_are_those_of_what_is_sampled(targets: list[str], unknown: str) -> None:
    """Those of other targets need not be there, and none stands in the way of another one of the same setting."""
    settings = ByTarget.model_validate({"kind": "by_target", "apply_to": targets})
    known = {name: SimpleNamespace(sampling_steps=20) for name in ("one", "two")}
    study = SimpleNamespace(
        prepare=SimpleNamespace(train=SimpleNamespace(consistency=known)), sample=SimpleNamespace(steps=20)
    )
    check_students.of_strategy(study, settings, "sample.strategies.own")  # type: ignore[arg-type]
    del known[unknown]
    with pytest.raises(InputError, match=rf"sample.strategies.own.model: unknown consistency model '{unknown}'"):
        check_students.of_strategy(study, settings, "sample.strategies.own")  # type: ignore[arg-type]


def test_a_run_in_few_steps_takes_no_student() -> None:
    path = STUDIES / "shapes-few.yaml"
    plan = sampling_plan(path, read_study(path))
    assert plan.students("base") == ["student"] and plan.students("tuned") == []
