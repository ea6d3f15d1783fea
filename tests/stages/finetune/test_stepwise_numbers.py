"""Methods that learn from single steps against numbers of the released code, where they lie on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from torch import Tensor

from stages.finetune.families import policy_gradient
from stages.finetune.families.candidates import CandidateRollouts
from stages.finetune.families.step_preference import Branching
from stages.finetune.losses import step_preference
from stages.finetune.methods import alignprop as alignprop_method
from stages.finetune.methods import awm as awm_method
from stages.finetune.methods import dense_reward as dense_method
from stages.finetune.methods import draft_k
from stages.finetune.objective import Loss
from stages.models.conditioning import Conditioning
from stages.parity import stepwise
from stages.parity.reference import Expected, ParitySet, load
from stages.parity.stepwise import alignprop, awm, d3po, dense_reward, dpok, spo
from stages.parity.stepwise.given import Given
from tests.parity_sets import NUMBERS, PARITY_SETS

FOLDER = NUMBERS / "stepwise"
BASE = next((folder for folder in PARITY_SETS if (folder / "weights").is_dir()), None)
needs_numbers = pytest.mark.skipif(
    not (FOLDER / "expected.json").is_file() or BASE is None,
    reason=f"no step-level numbers in {FOLDER} (NUMBERS_DIR), or no set with their networks (PARITY_DIR)",
)


@pytest.fixture(scope="module")
def numbers() -> ParitySet:
    return load(FOLDER, BASE)


@pytest.mark.slow
@needs_numbers
def test_every_entry_is_compared_or_has_a_reason(numbers: ParitySet) -> None:
    found = list(stepwise.checks(numbers))
    assert len(found) > 200
    assert [str(check) for check in found if not check.passed] == []
    left = [name for name in numbers.expected.unread() if name not in numbers.expected.left]
    assert [name for name in left if not stepwise.reason(name)] == []


def unclipped(pairs: step_preference.StepPairs, beta: float, clip: float) -> Loss:
    inside = beta * pairs.sign * (pairs.first - pairs.second)
    return Loss.of(-(pairs.sign.abs() * torch.nn.functional.logsigmoid(inside)).mean())


def some(numbers: ParitySet, item: str) -> Given:
    """The set with one item of its method."""
    also = {"dense.multi": ["dense.cfg"]}.get(item, [])  # whose trajectories it learns from
    kept = {name: v for name, v in numbers.expected.scalars.items() if name in (item, *also) or "." not in name}
    return Given(replace(numbers, expected=Expected(numbers.expected.arrays, kept)))


@needs_numbers
@pytest.mark.parametrize(
    "item", ["d3po.b", "dpok.a", "awm.guided", "awm_flow.official", "alignprop.ddim", "spo.b", "dense.multi"]
)
def test_an_item_of_every_module_passes(item: str, numbers: ParitySet) -> None:
    found = [check for module in stepwise.MODULES for check in module.checks(some(numbers, item))]
    assert len(found) > 10
    assert [str(check) for check in found if not check.passed] == []


def too_early(self: CandidateRollouts, i: int) -> float:
    return float(self.run.networks.grid.timesteps[i - 1])


def not_predicted(self: CandidateRollouts, x: Tensor, i: int, text: Conditioning) -> tuple[Tensor, Tensor]:
    return x, Branching.predicted(self, x, i, text)[1]


def worst_first(found: Tensor, rewards: Tensor, own: Callable[..., Tensor] = dense_method.list_mle) -> Tensor:
    return own(found, -rewards)


MISTAKES: dict[str, tuple[ModuleType, object, str, object, str]] = {
    "ratios are not clipped": (d3po, step_preference, "clipped_preference", unclipped, "d3po.b.losses"),
    "half the divergence": (
        dpok, policy_gradient, "mse_to_base", lambda *x, own=policy_gradient.mse_to_base: own(*x) / 2, "dpok.a.kl",
    ),
    "the usual constant": (awm, awm_method, "SPREAD", 1e-6, "awm.guided.advantages_raw"),
    "clean latents are judged": (alignprop, alignprop_method, "noisy_end", draft_k.step_with, "alignprop.a.x0"),
    "lists are ranked from the worst": (dense_reward, dense_method, "list_mle", worst_first, "dense.multi.loss"),
    "scored at the time of the step before": (spo, CandidateRollouts, "time", too_early, "spo.b.scores"),
    "states are judged in place of predictions": (
        spo, CandidateRollouts, "predicted", not_predicted, "spo.b.image_raw_crop",
    ),
}  # fmt: skip


@needs_numbers
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_seen(mistake: str, numbers: ParitySet, monkeypatch: pytest.MonkeyPatch) -> None:
    module, where, name, wrong, seen = MISTAKES[mistake]
    monkeypatch.setattr(where, name, wrong)
    given = some(numbers, seen.rpartition(".")[0])
    assert seen in {check.name for check in module.checks(given) if not check.passed}
