"""The method that docs/add-a-method.md adds works as the page says."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import stages.finetune.methods
from stages import plugins
from stages.finetune.methods import draft_k
from stages.finetune.resolve import resolve
from stages.finetune.training import Trainer
from stages.models.policy import make_policy
from tests import tiny

PAGE = Path(__file__).parents[2] / "docs" / "add-a-method.md"
STUDY = """
study: {name: doc, seed: 0, reward: proxy, heldout: heldout}
finetune: {steps: 2, sampling_steps: 20}
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A study with the page's entries; the page's module is where the page puts it, as far as imports can tell."""
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "refl_twice.py").write_text(blocks("python")[0])
    paths = [*stages.finetune.methods.__path__, str(folder)]
    monkeypatch.setattr(stages.finetune.methods.__spec__, "submodule_search_locations", paths)
    monkeypatch.setattr(stages.finetune.methods, "__path__", paths)
    plugins._files.cache_clear()
    (tmp_path / "params.yaml").write_text(STUDY + blocks("yaml")[0])
    yield tmp_path / "params.yaml"
    plugins._files.cache_clear()  # other tests do not know this method
    sys.modules.pop("stages.finetune.methods.refl_twice", None)


def test_the_page_s_method_trains(study: Path) -> None:
    plan = resolve(study, "refl_twice-s0")
    assert plan.method_settings.kind == "refl_twice"
    policy = make_policy(tiny.unet(), "full")
    run = tiny.trainer(policy.network, draft_k.step, plan.train, steps=20).run
    objective = plan.definition.objective(plan.method_settings, run)
    trainer = Trainer.start(run, objective, dict(policy.parameters()))
    before = {name: parameter.detach().clone() for name, parameter in policy.parameters()}
    terms = trainer.step([tiny.batch(steps=20)])
    assert terms["grad_norm"] > 0
    assert any(not torch.equal(before[name], parameter) for name, parameter in policy.parameters())


def test_a_window_without_halves_is_refused(study: Path) -> None:
    study.write_text(study.read_text().replace("[14, 20]", "[14, 15]"))
    with pytest.raises(Exception, match=r"methods\.refl_twice: middle has fewer than two indices"):
        resolve(study, "refl_twice-s0")
