"""Losses on pairs against numbers of the released code, where they lie on this machine."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from stages.finetune.batch import LatentPairs
from stages.finetune.families.preference import PairErrors, pair_errors
from stages.finetune.methods import diffusion_dpo
from stages.models.diffusion import Denoiser, posterior_sample
from stages.models.policy import make_policy
from stages.parity import reference
from tests.documented import shown
from tests.parity_sets import NUMBERS

FOLDER = NUMBERS / "preference"
pytestmark = pytest.mark.skipif(
    not (FOLDER / "expected.json").is_file(), reason=f"no numbers of preference losses in {FOLDER} (NUMBERS_DIR)"
)
VALUE, LOSS, GRADIENT = 2e-5, 1e-4, 2e-4  # the README of the numbers, section 7: relative to the largest of an array


class Numbers:
    """The numbers with the networks and inputs that they were computed from."""

    def __init__(self) -> None:
        self.scalars: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text())
        self.arrays = load_file(FOLDER / "expected.safetensors")
        self.given = load_file(FOLDER / "inputs.safetensors")
        self.set = reference.load((FOLDER / self.scalars["weights"]).resolve().parent)

    def pairs(self) -> LatentPairs:
        """Latents of the four pairs."""
        images = torch.cat([self.set.images("real_images_u8"), self.set.images("dpo_loser_images_u8")])
        with torch.no_grad():
            mean, std = self.set.vae.posterior(images)
        winner, loser = posterior_sample(mean, std, self.set.inputs["dpo_posterior_noise"], self.set.vae.scale).chunk(2)
        return LatentPairs(winner, loser, torch.ones(4), torch.ones(4))

    def errors(self, pairs: LatentPairs) -> tuple[PairErrors, dict[str, torch.nn.Parameter]]:
        """Errors of the trained network against the base, and its parameters."""
        policy = make_policy(self.set.tuned, "full")
        text, _ = self.set.embeddings()
        found = pair_errors(
            Denoiser(policy.network, self.set.schedule), Denoiser(self.set.base, self.set.schedule), pairs,
            self.given["pair_noise"], self.given["pair_timesteps"], text,
        )  # fmt: skip
        return found, dict(policy.parameters())

    def check(self, item: str, found: Tensor, tolerance: float) -> None:
        """Compare with an array of the set."""
        expected = self.arrays[item].double().numpy()
        error = np.abs(found.detach().double().numpy() - expected).max() / np.abs(expected).max()
        assert error < tolerance, (item, error)

    def check_gradients(self, item: str, parameters: dict[str, torch.nn.Parameter]) -> None:
        """Norms of all gradients, and the gradients that the set holds whole."""
        names = self.scalars["param_names"]
        norms = torch.stack([g.norm() if (g := parameters[n].grad) is not None else torch.zeros(()) for n in names])
        self.check(f"{item}.grad_norms", norms, GRADIENT)
        for name in self.scalars["full_grad_names"]:
            if f"{item}.grad.{name}" in self.arrays:
                gradient = parameters[name].grad
                assert gradient is not None
                self.check(f"{item}.grad.{name}", gradient, GRADIENT)


@pytest.fixture(scope="module")
def numbers() -> Numbers:
    return Numbers()


def documented(name: str) -> dict[str, Any]:
    """What stands in a method's module in docs/add-a-method.md."""
    made = ModuleType(name)
    sys.modules[name] = made  # where pydantic looks up annotations
    exec(shown(name)[0], vars(made))
    return vars(sys.modules.pop(name))


@pytest.mark.parametrize("item", ["pair.dpo_a", "pair.dpo_b"])
def test_diffusion_dpo(numbers: Numbers, item: str) -> None:
    wanted = numbers.scalars["items"][item]
    pairs, parameters = numbers.errors(numbers.pairs())
    numbers.check("pair.model_losses", torch.cat([pairs.winner.policy, pairs.loser.policy]), VALUE)
    numbers.check("pair.ref_losses", torch.cat([pairs.winner.base, pairs.loser.base]), VALUE)
    settings = diffusion_dpo.Settings(kind="diffusion_dpo", beta=wanted["beta"])
    loss = diffusion_dpo.loss(pairs, settings).root
    loss.backward()
    numbers.check(f"{item}.inside_term", settings.beta / 2 * pairs.margin, LOSS)
    assert float(loss.detach()) == pytest.approx(wanted["loss"], rel=LOSS)
    assert float((pairs.margin > 0).float().mean()) == wanted["implicit_acc"]
    numbers.check_gradients(item, parameters)


def test_ipo_on_exchanged_pairs(numbers: Numbers) -> None:
    """The loss of docs/add-a-method.md against a released one of pairs whose images are exchanged."""
    item = "npo.sd15_ipo"
    wanted, given = numbers.scalars["items"][item], numbers.pairs()
    pairs, parameters = numbers.errors(replace(given, winner=given.loser, loser=given.winner))
    numbers.check(f"{item}.model_losses", torch.cat([pairs.winner.policy, pairs.loser.policy]), VALUE)
    numbers.check(f"{item}.logits", pairs.margin, LOSS)
    ipo = documented("ipo")
    loss = ipo["loss"](pairs, ipo["Settings"](kind="ipo", tau=wanted["beta"])).root
    loss.backward()
    assert float(loss.detach()) == pytest.approx(wanted["loss"], rel=LOSS)
    numbers.check_gradients(item, parameters)
