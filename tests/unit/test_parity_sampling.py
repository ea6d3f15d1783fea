"""Reference numbers of sampling-time methods, where they are at hand; and that mistakes are seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.errors import InputError
from stages.parity import __main__ as parity
from stages.parity import sampling
from stages.parity.checks import Check
from stages.parity.reference import Expected, load
from stages.parity.sampling import attention, flow_map, noise, trees
from stages.parity.sampling.mixture import Mixture
from stages.parity.sampling.world import SamplingSet
from tests.parity_sets import NUMBERS, PARITY_SETS

SET = NUMBERS / "sampling"
pytestmark = pytest.mark.skipif(
    not (SET / "expected.json").is_file() or not PARITY_SETS, reason=f"no set of reference numbers in {SET}"
)


@pytest.fixture
def reference() -> SamplingSet:
    made = load(SET, base())
    return SamplingSet(made, made.inputs, made.expected)


def base() -> Path:
    return next((path for path in PARITY_SETS if path.name == "public"), PARITY_SETS[0])


def failures(checks: Iterator[Check]) -> list[str]:
    return [str(check) for check in checks if not check.passed]


@pytest.mark.slow
def test_numbers_of_the_released_code():
    made = load(SET, base())
    assert failures(parity.checks(made)) == []
    assert [name for name in made.expected.unread() if not parity.reason(made, name)] == []


def test_trees_and_the_tilted_mixture(reference: SamplingSet):
    found = list(trees.checks(reference))
    assert failures(iter(found)) == [] and len(found) > 50


@pytest.mark.parametrize(("key", "value"), [("lam", 2.5), ("rollouts", 39), ("limit", ["fixed", 2])])
def test_other_settings_are_seen(reference: SamplingSet, key: str, value: Any):
    item = reference.expected.scalars["items"]["dts"]["dts_fixed3"]
    item[key] = value
    reference.expected.scalars["items"]["dts"] = {"dts_fixed3": item}
    assert failures(trees.checks(reference))


def test_why_something_is_not_compared():
    assert "keeps what it has" in sampling.reason("items.code.n4_b5.network_evaluations")
    assert sampling.reason("fk.max_k4.weights") == ""
    assert "of this name" in sampling.reason("items.unheard_of.a.prompt")


def test_entries_that_are_left_out_are_listed():
    expected = Expected({"a": torch.zeros(1)}, {"b": 1}, left={"a, event 3": "why"})
    expected.array("a")
    assert expected.unread() == ["b", "a, event 3"]


def test_the_mixture_s_soft_value_is_the_expectation():
    """By a sum over draws of x_0 given x of a single Gaussian, whose posterior is Gaussian."""
    one = Mixture(torch.ones(1).double(), torch.zeros(1, 2).double(), 0.5, torch.tensor([1.0, 0.0]).double())
    alpha, x = torch.tensor(0.3).double(), torch.tensor([[0.4, -0.2]]).double()
    variance = 0.3 * 0.25 + 0.7
    mean, spread = 0.3**0.5 * 0.25 / variance * 0.4, 0.25 * 0.7 / variance
    assert float(one.soft_value(x, alpha, 2.0)) == pytest.approx(mean + 2.0 * spread / 2)
    tilted, normaliser = one.tilted(2.0)
    assert tilted.means.tolist() == [[0.5, 0.0]] and normaliser == pytest.approx(0.5)


def test_energies_of_attention_and_flow_maps(reference: SamplingSet):
    found = [*attention.checks(reference), *flow_map.checks(reference)]
    assert failures(iter(found)) == [] and len(found) >= 12


def test_a_wrong_weight_of_the_energy_or_curvature_of_the_reward_is_seen(reference: SamplingSet):
    items = reference.expected.scalars["items"]
    items["ebama"]["cos"]["lambda_intensity"] = 0.6
    items["fmtt"]["config"]["kappa"] = 0.4
    assert failures(attention.checks(reference)) and failures(flow_map.checks(reference))


@pytest.mark.parametrize("method", ["reno", "npo", "ebama", "fmtt", "tilt"])
def test_a_set_with_items_of_one_method_is_one_of_these(reference: SamplingSet, method: str):
    items = reference.expected.scalars["items"]
    reference.expected.scalars["items"] = {method: items[method]}
    assert parity.layout(reference.base) is sampling


def test_what_an_item_lacks_is_named(reference: SamplingSet):
    reference.expected.scalars["items"]["ebama"]["cos"].pop("subtrees")
    with pytest.raises(InputError, match=r"^parity set: expected.json: item ebama.cos has no 'subtrees'$"):
        list(attention.checks(reference))
    reference.inputs.pop("fmtt.start")  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"^parity set: inputs.safetensors has no 'fmtt.start'$"):
        list(flow_map.checks(reference))
    reference.inputs.pop("dts.toy.draws")  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"^parity set: inputs.safetensors has no 'dts.toy.draws'$"):
        list(trees.checks(reference))


@pytest.mark.parametrize(
    ("name", "module"), [("fmtt.drift", flow_map), ("ebama.kl.gradient", attention), ("tilt.epsilon", trees)]
)
def test_an_array_that_the_set_lacks_is_listed(reference: SamplingSet, name: str, module: Any):
    items = reference.expected.scalars["items"]
    reference.expected.scalars["items"] = {name.split(".")[0]: items[name.split(".")[0]]}
    reference.expected.arrays.pop(name)
    assert failures(module.checks(reference)) == []
    assert name in reference.expected.unread()
    assert parity.reason(reference.base, name) == ": the set has no such array"


def only_reno(reference: SamplingSet, **changes: Any) -> None:
    """Leave one short item of noise optimisation."""
    items = reference.expected.scalars["items"]
    items["reno"] = {"sgd_t1": items["reno"]["sgd_t1"] | changes}
    items["carinox"] = {}


def test_noise_is_optimised_as_released(reference: SamplingSet):
    only_reno(reference)
    found = list(noise.checks(reference))
    assert failures(iter(found)) == [] and len(found) == 15


@pytest.mark.parametrize(
    ("key", "value"),
    [("momentum", 0.8), ("regularisation", 0.02), ("grad_clip", 0.2)],
)
def test_another_step_of_the_noise_is_seen(reference: SamplingSet, key: str, value: Any):
    only_reno(reference, **{key: value})
    assert failures(noise.checks(reference))
