"""Settings at their ends, and models that give a search what it cannot work with: one line, or the limit itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_concepts import worded as worded  # a fixture
from test_every_strategy import ENTRIES
from test_every_strategy import job as every_kind
from test_img import Picky
from torch import Tensor

from stages import plugins
from stages.errors import InputError
from stages.models.diffusion import DiffusionModel
from stages.sample.job import RecordedReward, Sampling, Task
from stages.sample.judged import judged
from stages.sample.meter import Cost
from stages.sample.resolve import STRATEGIES, strategy
from stages.sample.search import MOST
from stages.sample.settings import SampleSettings
from stages.sample.soft_values import soft_mean
from stages.sample.strategies import das, dts
from tests import tiny

HUGE = 1e308
Scores = Callable[[Tensor, Sequence[str]], Any]


class Reward:
    """A reward by a function, which says that it is differentiable."""

    name, differentiable = "proxy", True

    def __init__(self, scores: Scores = tiny.reward) -> None:
        self.scores = scores

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Any:
        return self.scores(images, prompts)


class Critic(Picky):
    """A critic by a function of the number of images."""

    def __init__(self, faults: Callable[[int], Any]) -> None:
        super().__init__()
        self.faults = faults

    def criticise(self, images: Tensor, prompts: Sequence[str]) -> Any:
        return self.faults(len(images))


@pytest.fixture(scope="module")
def work(worded: DiffusionModel, tmp_path_factory: pytest.TempPathFactory) -> Sampling:
    return every_kind(worded, tmp_path_factory.mktemp("hostile"))


def made(
    work: Sampling, kind: str, more: dict[str, Any], reward: Any = None, critic: Any = None, steps: int = 0
) -> Cost:
    """What an image of the first group costs by a strategy of a run; raises what the job does."""
    fields = plugins.load(STRATEGIES, "", kind, "").Settings.model_fields
    entry = {
        "kind": kind,
        **ENTRIES[kind],
        "apply_to": ["tuned"],
        **({"reward": "proxy"} if "reward" in fields else {}),
    }
    sample = work.plan.sample.model_copy(update={"steps": steps} if steps else {})
    grid = work.model.process.grid(sample.steps)
    judges = {"proxy": RecordedReward(reward or Reward(), "p"), "critic": RecordedReward(critic or Picky(-1.0), "c")}
    asked = replace(work, plan=replace(work.plan, sample=sample), grid=grid, rewards=judges)
    group, found = work.suite.groups()[0], strategy("s", entry | more, sample, "test")
    with torch.no_grad():
        images = asked.images(asked.context(group), Task(group, found, found.settings.points()[-1]))
    return images.costs[0]


ODD: dict[str, tuple[Scores, str]] = {
    "a number": (lambda images, _: images.mean(), r"found shape \[\] for \d images, expected a tensor of shape \[\d\]"),
    "a column": (lambda images, _: images.mean((1, 2, 3))[:, None], r"found shape \[(\d), 1\] for \1 images"),
    "one too few": (lambda images, _: images.mean((1, 2, 3))[1:], r"found shape \[\d\] for \d images"),
    "a list": (lambda images, _: images.mean((1, 2, 3)).tolist(), "found a list for"),
    "no number": (lambda images, _: images.mean((1, 2, 3)) * math.nan, "gave a value that is not finite"),
}
"""Rewards that are none, and what is said."""


@pytest.mark.parametrize("kind", ["best_of_n", "svdd", "das", "reno", "dts"])
@pytest.mark.parametrize("odd", ODD)
def test_a_reward_that_is_none_is_told_in_one_line(work: Sampling, odd: str, kind: str):
    scores, message = ODD[odd]
    with pytest.raises(InputError, match=f"^sampling: reward 'proxy':? {message}"):
        made(work, kind, {}, Reward(scores))


def test_a_reward_of_another_type_is_taken_as_numbers(work: Sampling):
    """float64 by a search along its gradient, and whole numbers by one that needs none."""
    twice = Reward(lambda images, prompts: tiny.reward(images.double(), prompts))
    assert made(work, "reno", {}, twice) == made(work, "reno", {})
    assert made(work, "code", {}, Reward(lambda images, _: (9 * images.mean((1, 2, 3))).long())).queries > 0


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        *((given, torch.float32) for given in (torch.bfloat16, torch.float16, torch.bool, torch.int64)),
        (torch.float64, torch.float64),
    ],
)
def test_rewards_have_the_precision_that_sums_of_them_need(given: torch.dtype, taken: torch.dtype):
    reward: Any = Reward(lambda images, _: torch.ones(len(images)).to(given))
    found = judged(reward, "proxy", torch.zeros(3, 3, 2, 2), ["a"] * 3)
    assert found.dtype == taken and found.tolist() == [1.0] * 3


@pytest.mark.parametrize("kind", ["das", "fmtt", "reno", "carinox"])
def test_a_reward_without_the_gradient_that_is_followed_is_told(work: Sampling, kind: str):
    """Noise optimisation went on by its regulariser alone, without a word."""
    with pytest.raises(InputError, match="'proxy' gave no gradient with respect to the images, which the strategy"):
        made(work, kind, {}, Reward(lambda images, prompts: tiny.reward(images, prompts).detach()))


@pytest.mark.parametrize("kind", ["das", "fmtt", "reno", "carinox"])
def test_a_gradient_that_is_not_finite_is_told_where_it_arises(work: Sampling, kind: str):
    """The root of 0 is finite, its slope is not."""
    with pytest.raises(InputError, match="a gradient with respect to the latents, found one that is not finite"):
        made(work, kind, {}, Reward(lambda images, _: (0 * images).sum((1, 2, 3)).sqrt()))


def test_a_gradient_that_goes_elsewhere_is_told(work: Sampling):
    own = torch.ones((), requires_grad=True)
    with pytest.raises(InputError, match="expected a gradient with respect to the latents, found none"):
        made(work, "das", {}, Reward(lambda images, prompts: own * tiny.reward(images, prompts).detach()))


@pytest.mark.parametrize(("faults", "message"), [
    (lambda count: [[0]] * (count - 1), r"critic 'critic': found faults of \d images, expected \d"),
    (lambda count: [[0]] * (count + 1), r"critic 'critic': found faults of \d images, expected \d"),
    (lambda count: [[99]] * count, "critic 'critic': no word 99 in"),
])  # fmt: skip
def test_a_critic_that_names_what_is_not_there_is_told(work: Sampling, faults: Callable[[int], Any], message: str):
    with pytest.raises(InputError, match=message):
        made(work, "img", {}, critic=Critic(faults))


@pytest.mark.parametrize(("kind", "more"), [
    ("reno", {"rate": HUGE}), ("ebama", {"a": [HUGE]}), ("sgt", {"c": [HUGE]}), ("condition_noise", {"scale": HUGE}),
    ("fmtt", {"strength": HUGE}), ("das", {"strength": HUGE}), ("reno", {"weights": {"proxy": HUGE}}),
    ("carinox", {"regularise": HUGE}), ("rlg", {"w": [HUGE]}), ("npo", {"s": [HUGE]}),
])  # fmt: skip
def test_a_number_beyond_reason_is_told(work: Sampling, kind: str, more: dict[str, Any]):
    with pytest.raises(InputError, match=r"^sampling: .*(not finite|too large)"):
        made(work, kind, more)


@pytest.mark.parametrize(("kind", "more"), [
    ("fk", {"strength": HUGE}), ("fk", {"strength": HUGE, "potential": "add", "every": 1, "memory": -HUGE}),
    ("das", {"gamma": HUGE}), ("das", {"gamma": HUGE, "schedule": HUGE}), ("dts", {"strength": HUGE}),
    ("dts", {"strength": 1e-310}), ("dts", {"children": None, "widening": [2.0, HUGE]}),
    ("dts", {"children": None, "widening": [HUGE, HUGE]}), ("dts_star", {"exploration": HUGE}),
    ("best_of_n", {"stop": -HUGE}), ("best_of_n", {"stop": HUGE}), ("code", {"block": 10**9, "start": "own"}),
    ("dsearch", {"replace": 0.999, "oversample": 3}), ("fk", {"window": [3, 3]}), ("fk", {"every": 10**9}),
    ("das", {"n": [1], "threshold": 1.0}), ("ebama", {"until": 1.0}), ("condition_noise", {"k": [4]}),
])  # fmt: skip
def test_ends_of_settings_are_limits(work: Sampling, kind: str, more: dict[str, Any]):
    assert made(work, kind, more).nfe >= 4


@pytest.mark.parametrize("kind", ENTRIES)
def test_one_step_is_enough(work: Sampling, kind: str):
    """Of the kinds that can be asked for it: what switches networks on the way is refused."""
    if kind in ("combined", "fusion"):
        with pytest.raises(InputError, match=r"there is no step to switch at|k 2 is not between"):
            made(work, kind, {}, steps=1)
        return
    if kind == "condition_noise":
        with pytest.raises(InputError, match=r"k 2 is above sample\.steps 1"):
            made(work, kind, {}, steps=1)
    more = {"k": [1]} if kind == "condition_noise" else {}
    assert made(work, kind, more, steps=1).nfe >= 1


UNASKED = (("code", 1), ("svdd", 1))
"""What has no choice in a single step: candidates share x_T, and part by the noise of steps alone."""


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize(
    "kind", ["best_of_n", "fk", "code", "svdd", "dlbs", "dsearch", "das", "fmtt", "dts", "dts_star"]
)
def test_the_base_s_part_may_be_as_short_as_one_step(work: Sampling, kind: str, k: int):
    """The result of the part is judged, and decoded once more after the steps of the tuned network."""
    more = {"part": "base", "prediction": {"kind": "combined", "k": [k]}}
    found = made(work, kind, more | ({"flow_map": None} if kind == "fmtt" else {}))
    assert found.nfe >= 4 and found.decodes > found.queries and (found.queries == 0) == ((kind, k) in UNASKED)


@pytest.mark.parametrize(("kind", "more", "message"), [
    ("dlbs", {"b": [2**9], "children": 2**8}, f"b times children {2**17} is above {MOST}"),
    ("dsearch", {"beams": 2**9, "oversample": 2**9}, r"wider times m times beams times oversample \d+ is above"),
    ("dsearch", {"wider": 1e9}, r"wider times m times beams times oversample \d+ is above"),
    ("das", {"schedule": -1.0}, "schedule: "),
])  # fmt: skip
def test_more_candidates_than_there_may_be_are_refused_however_they_come_about(kind: str, more: dict, message: str):
    with pytest.raises(InputError, match=message):
        strategy("s", {"kind": kind, "reward": "proxy", **ENTRIES[kind], **more}, SampleSettings(), "test")


def test_a_tempered_strength_is_a_share_however_fast_it_rises():
    settings: list[tuple[float, Any]] = [(HUGE, "exp"), (HUGE, HUGE), (0.5, 0.0), (1e-300, "exp")]
    for gamma, schedule in settings:
        rising = das.Settings(kind="das", reward="r", n=(1,), gamma=gamma, schedule=schedule)
        shares = [rising.tempered(i) for i in range(30)]
        assert shares == sorted(shares) and shares[0] in (0.0, 1.0) and shares[-1] <= 1


def test_a_state_may_not_have_more_children_than_a_search_has_candidates():
    assert dts.Settings(kind="dts", reward="r", m=(1,), children=None, widening=(HUGE, HUGE)).limit(2) == MOST


@pytest.mark.parametrize("strength", [1e-3, 1e-12, 1e-300])
def test_a_soft_value_without_strength_is_the_mean(strength: float):
    assert soft_mean([1.0, 2.0, 4.5], strength) == pytest.approx(2.5, abs=2 * strength + 1e-12)


def test_a_soft_value_is_the_formula():
    expected = math.log((math.exp(2 * 0.1) + math.exp(2 * 0.7)) / 2) / 2
    assert soft_mean([0.1, 0.7], 2.0) == pytest.approx(expected, rel=1e-12)
    assert soft_mean([0.1, 0.7], HUGE) == 0.7
