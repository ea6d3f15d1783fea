"""The method that docs/add-a-method.md adds works as the page says."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import stages.finetune.methods
from stages import plugins
from stages.finetune.batch import LatentPairs
from stages.finetune.methods import draft_k, ipo
from stages.finetune.resolve import TrainingPlan, training_plan
from stages.finetune.training import Trainer
from stages.models.diffusion import Denoiser
from stages.models.policy import make_policy
from tests import tiny
from tests.documented import shown

STEP = partial(draft_k.step, settings=draft_k.Settings(kind="draft_k"))
STUDY = """
study: {name: doc, seed: 0, reward: proxy, heldout: heldout}
finetune: {steps: 2, sampling_steps: 20}
"""


@pytest.fixture
def study(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A study with the page's entries for one method; the page's module is where the page puts it, as far as imports
    can tell.
    """
    name = getattr(request, "param", "refl_twice")
    module, entries = shown(name)
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / f"{name}.py").write_text(module)
    paths = [*stages.finetune.methods.__path__, str(folder)]
    monkeypatch.setattr(stages.finetune.methods.__spec__, "submodule_search_locations", paths)
    monkeypatch.setattr(stages.finetune.methods, "__path__", paths)
    plugins._files.cache_clear()
    (tmp_path / "params.yaml").write_text(STUDY + entries)
    yield tmp_path / "params.yaml"
    plugins._files.cache_clear()  # other tests do not know this method
    sys.modules.pop(f"stages.finetune.methods.{name}", None)


def test_the_page_s_method_trains(study: Path) -> None:
    plan = training_plan(study, "refl_twice-s0")
    assert plan.method_settings.kind == "refl_twice"
    policy = make_policy(tiny.unet(), "full")
    run = tiny.trainer(policy.network, STEP, plan.train, steps=20).run
    objective = plan.definition.objective(plan.method_settings, run)
    trainer = Trainer.start(run, objective, dict(policy.parameters()))
    before = {name: parameter.detach().clone() for name, parameter in policy.parameters()}
    terms = trainer.step([tiny.batch(steps=20)])
    assert terms["grad_norm"] > 0
    assert any(not torch.equal(before[name], parameter) for name, parameter in policy.parameters())


def test_a_window_without_halves_is_refused(study: Path) -> None:
    study.write_text(study.read_text().replace("[14, 20]", "[14, 15]"))
    with pytest.raises(Exception, match=r"methods\.refl_twice: middle has fewer than two indices"):
        training_plan(study, "refl_twice-s0")


def trained_on_pairs(plan: TrainingPlan) -> tuple[Trainer, list[dict[str, float]]]:
    """The trainer of a method that learns from pairs, and the terms of two steps on the same pairs of images."""
    policy, base = make_policy(tiny.unet(), "full"), tiny.unet()
    run = tiny.trainer(policy.network, STEP, plan.train, steps=20).run
    networks = replace(run.networks, reference=Denoiser(base, run.networks.policy.process))
    objective = plan.definition.objective(plan.method_settings, replace(run, networks=networks))
    trainer = Trainer.start(replace(run, networks=networks), objective, dict(policy.parameters()))
    batch = tiny.batch(steps=20)
    winner, loser = batch.real(), batch.real().flip(0)
    pairs = LatentPairs(winner, loser, torch.ones(2), torch.ones(2))
    return trainer, [trainer.step([replace(batch, rng=random.Random(0), pairs=pairs)]) for _ in range(2)]


def test_the_page_s_preference_loss_is_that_of_the_tree() -> None:
    assert shown("ipo")[0] == Path(ipo.__file__).read_text()


@pytest.mark.parametrize("study", ["ipo"], indirect=True)
def test_the_page_s_preference_loss_pulls_the_margin_to_its_value(study: Path) -> None:
    study.write_text(study.read_text().replace("tau: 500", "tau: 5"))  # which one step does not go beyond
    _, terms = trained_on_pairs(training_plan(study, "ipo-s0"))
    assert terms[0]["margin"] == 0 and terms[0]["loss"] == pytest.approx(0.01)  # (1 / (2 * 5))^2
    assert terms[1]["margin"] > 0 and terms[1]["loss"] < terms[0]["loss"]
