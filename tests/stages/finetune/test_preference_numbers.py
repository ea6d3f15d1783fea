"""Losses on preferences against numbers of the released code, where they lie on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import pytest
import torch

from stages.errors import InputError
from stages.finetune.families import safeguard
from stages.finetune.losses import pairs as pair_losses
from stages.finetune.methods import diffusion_kto, dspo, mapo
from stages.parity import __main__ as parity
from stages.parity import preference
from stages.parity.preference import kto, negative, pairs
from stages.parity.preference import mapo as mapo_checks
from stages.parity.preference.given import Given
from stages.parity.reference import ParitySet, load
from tests.parity_sets import NUMBERS

FOLDER = NUMBERS / "preference"
needs_numbers = pytest.mark.skipif(
    not (FOLDER / "expected.json").is_file(), reason=f"no numbers of preference losses in {FOLDER} (NUMBERS_DIR)"
)
BASE = Path(os.environ["PARITY_DIR"]) if "PARITY_DIR" in os.environ else None


@pytest.fixture(scope="module")
def numbers() -> ParitySet:
    base = BASE if BASE is not None and (BASE / "weights").is_dir() else None
    return load(FOLDER, base)


@needs_numbers
def test_everything_that_is_compared_passes_and_the_rest_has_a_reason(numbers: ParitySet) -> None:
    found = list(parity.checks(numbers))
    assert len(found) > 400
    assert [str(check) for check in found if not check.passed] == []
    assert [name for name in numbers.expected.unread() if not preference.reason(name)] == []


def failures(module: ModuleType, numbers: ParitySet) -> set[str]:
    return {check.name for check in module.checks(Given(numbers)) if not check.passed}


MISTAKES: dict[str, tuple[ModuleType, ModuleType, str, object, str]] = {
    "no half of beta": (
        pairs, pair_losses, "logistic", lambda m, b, _=1.0: -torch.nn.functional.logsigmoid(b * m), "pair.dpo_b.loss"
    ),
    "one scale per pair": (
        pairs, safeguard, "safeguarded",
        lambda p, s, guard=safeguard.safeguarded: guard(p, s.model_copy(update={"per": "pair"})),
        "sdpo.dpo_mu_b.grad_norms",
    ),
    "a reference point of 0": (
        kto, diffusion_kto, "reference_point", lambda images, _: images.errors.base.new_zeros(()), "kto.sigmoid_zpos.z0"
    ),
    "exchanged twice": (
        negative, negative.diffusion_npo, "loss",
        lambda p, s, loss=negative.diffusion_npo.loss: loss(p.exchanged(), s), "npo.sd15_b.loss",
    ),
    "another score": (
        mapo_checks, mapo, "score", lambda e, s: s * e / (torch.exp(s * e) + 1), "mapo.exact_a.win_score"
    ),
    "a difference that always counts": (pairs, dspo, "LARGE", 0.0, "pair.dspo_xl_constant_branch.loss"),
}  # fmt: skip


@needs_numbers
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_seen(mistake: str, numbers: ParitySet, monkeypatch: pytest.MonkeyPatch) -> None:
    module, where, name, wrong, seen = MISTAKES[mistake]
    monkeypatch.setattr(where, name, wrong)
    if where is safeguard:
        monkeypatch.setattr(pairs, name, wrong)
    assert seen in failures(module, numbers)


def test_a_set_without_networks_names_those_that_it_takes(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "expected.json").write_text('{"config": {}, "weights": "../nowhere/weights", "items": {}}')
    for name in ("expected", "inputs"):
        save_file({"x": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(InputError, match=r"nowhere/inputs\.safetensors: no such file"):
        load(tmp_path)
