"""The project's own set of reference numbers is always compared; other sets where they are at hand."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.errors import InputError
from stages.finetune.methods import imagerefl
from stages.parity import __main__ as parity
from stages.parity import losses, optimizers, parts, rollouts, training
from stages.parity.adam import Adam, Reach
from stages.parity.checks import GRADIENT, VALUE, Check, compare, norms, same, within
from stages.parity.reference import ParitySet, load
from stages.parity.rounding import COARSE, coarse, of_modules, with_rounding
from stages.rewards.preprocess import Preprocess
from tests import pixelwise_set

SHARED = Path(os.environ.get("PARITY_DIR", Path(__file__).parents[3] / "shared" / "parity"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("set")
    pixelwise_set.write(made)
    return made


@pytest.fixture
def reference(folder: Path) -> ParitySet:
    return load(folder)


def failures(checks: Iterator[Check]) -> list[str]:
    return [check.name for check in checks if not check.passed]


def test_everything_equals_the_formulas_worked_out_by_hand(reference: ParitySet):
    found = list(parity.checks(reference))
    assert [str(check) for check in found if not check.passed] == []
    assert reference.expected.unread() == []
    assert len(found) > 400


def sets() -> list[Path]:
    return sorted(path.parent for path in (*SHARED.glob("expected.json"), *SHARED.glob("*/expected.json")))


@pytest.mark.skipif(not sets(), reason=f"no set of reference numbers at {SHARED}; PARITY_DIR names another place")
@pytest.mark.parametrize("where", sets(), ids=lambda path: path.name)
def test_numbers_of_the_released_code(where: Path):
    reference = load(where)
    assert [str(check) for check in parity.checks(reference) if not check.passed] == []
    assert reference.expected.unread() == []


def changed(reference: ParitySet, **inputs: Callable[[torch.Tensor], torch.Tensor]) -> ParitySet:
    given = {name: inputs[name](value) if name in inputs else value for name, value in reference.inputs.items()}
    return replace(reference, inputs=given)


def with_config(reference: ParitySet, **changes: object) -> ParitySet:
    return replace(reference, config=dict(reference.config) | changes)


def amplified(gain: float, off: float) -> Callable[[], Iterator[Check]]:
    """An item that rounding moves `gain` times as far as one layer does, with an error of `off` besides."""
    layer = torch.nn.Linear(8, 8).requires_grad_(False)
    x = torch.ones(4, 8)
    expected = layer(x)

    def item() -> Iterator[Check]:
        yield compare("item", expected + gain * (layer(x) - expected) + off * expected.abs().max(), expected, VALUE)

    item.networks = [layer]  # type: ignore[attr-defined]
    return item


def rounded(item: Callable[[], Iterator[Check]]) -> Check:
    [found] = with_rounding(item.networks, item)  # type: ignore[attr-defined]
    return found


def test_rounding_widens_the_tolerance_of_what_amplifies_it_and_of_nothing_else():
    assert rounded(amplified(1, 1.5e-5)).tolerance == VALUE  # one layer rounds far less than that
    assert rounded(amplified(1000, 4e-6)).tolerance == VALUE  # not even near it: nothing is measured
    steep = rounded(amplified(1000, 5e-5))
    assert VALUE < 5e-5 < steep.tolerance < 1e-3
    assert steep.passed


def test_every_module_of_items_has_tolerances_by_rounding_and_its_own_things_given():
    steep, exact = amplified(1000, 5e-5), amplified(1, 1e-4)
    made: list[int] = []

    def module(name: str, item: Callable[[], Iterator[Check]]) -> ModuleType:
        found = ModuleType(name)
        found.checks = lambda given: (made.append(given), item())[1]  # type: ignore[attr-defined]
        return found

    numbers = iter(range(9))
    modules = [module("steep", steep), module("exact", exact)]
    networks = [*steep.networks, *exact.networks]  # type: ignore[attr-defined]
    first, second = of_modules(modules, networks, lambda: next(numbers))
    assert first.passed and first.tolerance > VALUE
    assert not second.passed and second.tolerance == VALUE
    assert made == [0, 1, 2, 3, 4, 5]  # once as it is, twice with rounding, each time anew


@pytest.mark.parametrize("off", [1e-4, 1e-2, 1.0, float("nan")])
def test_a_mistake_does_not_widen_its_own_tolerance(off: float):
    assert not rounded(amplified(1, off)).passed


def test_networks_are_as_before_when_rounding_was_measured():
    layer = torch.nn.Linear(8, 8)
    x = torch.ones(4, 8, requires_grad=True)
    before = layer(x)
    with coarse([layer, torch.nn.Sequential(layer)], 0):
        once = layer(x)
        once.sum().backward()
    assert 0 < float(((once - before) / before).detach().abs().max()) <= COARSE * 1.01
    assert x.grad is not None
    assert not torch.equal(x.grad, layer.weight.sum(0).expand(4, 8))
    assert torch.allclose(x.grad, layer.weight.sum(0).expand(4, 8), rtol=1e-3, atol=1e-4)
    assert torch.equal(layer(x), before)
    assert not layer._forward_hooks


MISTAKES: dict[str, tuple[Callable[[ParitySet], ParitySet], object, str]] = {
    "other guidance": (lambda r: with_config(r, guidance=2.9), rollouts, "rollout.base_cfg_k10.x0"),
    "noise shifted by one": (lambda r: changed(r, z=lambda z: z.roll(1, 0)), rollouts, "rollout.aig_p1.x0"),
    "base and tuned exchanged": (
        lambda r: replace(r, base=r.tuned, tuned=r.base), rollouts, "rollout.combined_k4.image"
    ),
    "no offset of timesteps": (
        lambda r: replace(r, schedule=replace(r.schedule, offset=0)), parts, "grid.T10.timesteps"
    ),
    "bilinear reward images": (
        lambda r: with_preprocess(r, Preprocess(interpolation="bilinear")), parts, "preprocess.image_features"
    ),
    "reward images not normalised": (
        lambda r: with_preprocess(r, Preprocess(mean=(0.0,) * 3, std=(1.0,) * 3)),
        training, "train.refl_m6_mse0.grad.first",
    ),
    "posterior mean": (
        lambda r: changed(r, posterior_noise=torch.zeros_like), training, "train.imagerefl_s6_m7.grad.second"
    ),
    "other micro-batches": (
        lambda r: with_scalar(r, ("accumulation", "mids"), [7, 8]), training, "accumulation.grad_norm_total"
    ),
    "other beta": (lambda r: with_scalar(r, ("dpo", "beta"), 301.0), losses, "dpo.loss"),
    "advantages not clamped": (
        lambda r: with_config(r, ddpo={"cfg": 2.0, "clip": 1e-2, "adv": 9.0}), losses, "ddpo.loss"
    ),
    "other discount": (
        lambda r: with_config(r, sqdf={"gamma": 0.91, "alpha": 2.0, "cfg": 2.0, "shift": 0.7}), losses, "sqdf.loss"
    ),
}  # fmt: skip


def with_preprocess(reference: ParitySet, preprocess: Preprocess) -> ParitySet:
    reference.reward.preprocess = preprocess
    return reference


def with_scalar(reference: ParitySet, path: tuple[str, str], value: object) -> ParitySet:
    reference.expected.scalars[path[0]][path[1]] = value
    return reference


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_seen(mistake: str, reference: ParitySet):
    change, module, name = MISTAKES[mistake]
    assert name in failures(module.checks(change(reference)))  # type: ignore[attr-defined]


def test_a_diffusion_loss_at_the_judged_index_is_seen(reference: ParitySet, monkeypatch: pytest.MonkeyPatch):
    from stages.finetune.families.reward_gradient import StepOutput
    from stages.finetune.rollouts import Rollout

    def step_with(networks, batch, start, m, weight):
        x, _ = networks.noised(batch, start)
        x = yield Rollout(x, start, m)
        penalties = {"diffusion": (weight, networks.diffusion_error(batch, m))}
        return StepOutput(networks.x0(batch, x, m), batch.prompts, penalties)

    monkeypatch.setattr(imagerefl, "step_with", step_with)
    found = failures(training.checks(reference))
    assert "train.imagerefl_s6_m7.L_mse" in found
    assert "train.imagerefl_s6_m7.grad.first" in found


def test_a_single_step_in_place_of_the_double_one_is_seen(reference: ParitySet, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(optimizers.OPTIMIZERS, "adam_official_double_step", {})
    found = failures(optimizers.checks(reference))
    assert "optim.adam_official_double_step.adam_step_count" in found
    assert "optim.adam_official_double_step.delta_norm_total" in found
    assert not [name for name in found if "double_step" not in name]


@pytest.mark.parametrize(
    "tag, change, seen",
    [
        ("adam_plain", {"optimizer": {"eps": 1.1e-8}}, "delta_norms (each by itself)"),
        ("adam_plain_eps1e_6", {"optimizer": {"eps": 1.1e-6}}, "delta.first"),
        ("adamw_official_double_step", {"as_released": {"double_step": True}}, "delta.first"),
        (
            "adam_official_double_step",
            {"as_released": {"double_step": True}, "optimizer": {"betas": [0.9, 0.9985]}},
            "delta.first",
        ),
    ],
)
def test_an_optimizer_of_other_settings_is_seen(
    tag: str, change: dict[str, object], seen: str, reference: ParitySet, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(optimizers.OPTIMIZERS, tag, change)
    assert f"optim.{tag}.{seen}" in failures(optimizers.checks(reference))


def steps_in_float32(adam: Adam, gradient: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weights after minus weights before of torch's AdamW, in double precision."""
    parameter = torch.nn.Parameter(weights.clone())
    optimizer = torch.optim.AdamW([parameter], adam.lr, adam.betas, adam.eps, adam.weight_decay)
    for factor in adam.factors:
        parameter.grad = gradient * factor
        optimizer.step()
    return (parameter.detach() - weights).double()


STEPS = {
    "plain": Adam(3e-4, (0.9, 0.999), 1e-8, 0.0, (1.0,)),
    "double": Adam(3e-4, (0.9, 0.999), 1e-8, 0.0, (65536.0, 1.0)),
    "double, with weight decay": Adam(3e-4, (0.9, 0.999), 1e-8, 0.01, (65536.0, 1.0)),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_gradient_within_its_tolerance_gives_a_step_within_reach(name: str):
    adam, random = STEPS[name], torch.Generator().manual_seed(0)
    weights = 1 + 0.2 * torch.randn(64, generator=random)
    gradient = 1e-7 * torch.randn(64, generator=random)
    gradient[:4] = torch.tensor([1e-12, -3e-13, 2e-9, 0.0])  # as small as their error, or as eps
    reach = Reach.of(adam, gradient, weights, GRADIENT)
    expected = steps_in_float32(adam, gradient, weights)
    largest = 0.0
    for _ in range(20):
        error = (2 * torch.rand(64, generator=random) - 1) * GRADIENT * gradient.abs().max()
        found = steps_in_float32(adam, gradient + error, weights)
        assert within("elements", found, expected, reach.elements).passed
        lengths = float(found.norm()), float(expected.norm())
        assert abs(lengths[0] - lengths[1]) <= reach.length(*lengths)
        largest = max(largest, abs(lengths[0] - lengths[1]) / lengths[1])
    if "double" in name:
        assert largest > 1e-3  # far above what steps of other weights differ by
    if name == "plain":  # a gradient that is off by 100 times its tolerance is seen where the step depends on it
        far = steps_in_float32(adam, gradient * 1.01, weights)
        assert not within("elements", far, expected, reach.elements).passed
    other = steps_in_float32(replace(adam, lr=1.005 * adam.lr), gradient, weights)
    assert not within("elements", other, expected, reach.elements).passed


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    monkeypatch.setattr(sys, "argv", ["stages.parity", "--set", str(folder)])
    with pytest.raises(SystemExit) as exit_:
        parity.main()
    return int(exit_.value.code or 0), capsys.readouterr().out.splitlines()


def test_command_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    code, lines = run(folder, monkeypatch, capsys)
    assert code == 0
    assert all(line.endswith("pass") for line in lines[:-1])
    count = len(lines) - 1
    assert lines[-1] == f"{count} compared, {count} passed, 0 failed, 0 not compared"

    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "weights").symlink_to(folder / "weights")
    for name in ("inputs.safetensors", "expected.json"):
        (broken / name).symlink_to(folder / name)
    arrays = load_file(folder / "expected.safetensors")
    arrays["train.refl_m6_mse0.x0"] = arrays["train.refl_m6_mse0.x0"] * 1.001
    save_file(arrays | {"unknown.item": torch.zeros(1)}, broken / "expected.safetensors")
    code, lines = run(broken, monkeypatch, capsys)
    assert code == 1
    assert [line.split()[0] for line in lines if line.endswith("FAIL")] == ["train.refl_m6_mse0.x0"]
    assert "unknown.item" in lines[-2]
    assert lines[-1] == f"{count} compared, {count - 1} passed, 1 failed, 1 not compared"


def test_refuses_a_folder_that_is_no_set(tmp_path: Path):
    with pytest.raises(InputError, match=r"expected\.json: no such file"):
        load(tmp_path)
    (tmp_path / "expected.json").write_text("[]")
    with pytest.raises(InputError, match=r"expected\.json: expected a JSON object, found the list"):
        load(tmp_path)
    (tmp_path / "expected.json").write_text(json.dumps({"config": {}}))
    with pytest.raises(InputError, match=r"expected\.safetensors: no such file"):
        load(tmp_path)


def test_errors_of_checks():
    assert compare("a", [1.0, 2.0], [1.0, 2.1], 0.1).error == pytest.approx(0.1 / 2.1)
    assert compare("a", [1.0, 2.0], [1.0], 9.0).passed is False
    assert compare("a", float("nan"), 1.0, 9.0).passed is False
    assert compare("a", float("inf"), 1.0, 9.0).passed is False
    assert compare("a", [0.0, 1e-3], [0.0, 0.0], 1e-2).error == 1e-3
    assert compare("a", np.array([3]), torch.tensor([3]), 0.0).passed
    assert not same("a", [1], [2]).passed
    assert within("a", [1.0, 2.0], [1.0, 2.5], [0.0, 1.0]).error == 0.5
    assert not within("a", [1.0, 2.0], [1.1, 2.5], [0.0, 1.0]).passed
    assert not within("a", [1.0], [1.0, 2.5], [0.0, 1.0]).passed
    assert not within("a", [float("nan")], [1.0], [1.0]).passed
    by_name = {check.name: check.error for check in norms("n", {"a": 1.0, "b": 2e-3}, {"a": 1.0, "b": 1e-3}, 1e-2)}
    assert by_name == {"n": pytest.approx(1e-3), "n (each by itself)": pytest.approx(1.0)}
    assert [check.passed for check in norms("n", {"a": 1.0}, {"b": 1.0}, 1.0)] == [False]
