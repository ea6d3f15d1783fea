"""Nothing is tuned on evaluation prompts: which prompts the sweep, the probe of training and `decided` take."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stages.decided.draw import Drawing
from stages.decided.settings import DecidedSettings
from stages.encode.store import Encodings, Item
from stages.finetune.context import TrainingContext
from stages.finetune.settings import FinetuneSettings
from stages.tune.settings import TuneSettings
from tests import tiny


class Asked(Encodings):
    """Encodings that remember which splits were asked for."""

    splits: list[str]

    def prompts(self, split: str) -> list[Item]:
        """The prompts of a split."""
        self.splits = [*getattr(self, "splits", []), split]
        return super().prompts(split)


@pytest.fixture
def encodings(tmp_path: Path) -> Asked:
    return Asked(*tiny.encodings(tmp_path), tiny.CPU)


def context(encodings: Asked) -> TrainingContext:
    paths: Any = None
    model: Any = SimpleNamespace(device=tiny.CPU)
    judge: Any = SimpleNamespace(embed=lambda images: images)
    return TrainingContext(paths, model, encodings, {"heldout": judge})


def test_decided_takes_training_prompts(encodings: Asked) -> None:
    model: Any = None
    groups = Drawing(model, encodings, DecidedSettings(diversity="x"), 4, 0).groups()
    assert encodings.splits == ["train"]
    assert {item.item_id for group in groups for item in group} == {f"p{n}" for n in range(6)}


def test_the_sweep_and_the_probe_take_training_prompts(encodings: Asked) -> None:
    """The sweep judges by a probe with sizes of its own (`stages/tune/sweep.py`)."""
    sizes = TuneSettings()
    for prompts, samples in ((sizes.prompts, sizes.samples), (8, 4)):
        train = FinetuneSettings.model_validate({"probe": {"prompts": prompts, "samples": samples}})
        plan: Any = SimpleNamespace(train=train, study=SimpleNamespace(seed=0, heldout="heldout"))
        probe = context(encodings).probe(plan)
        assert set(probe.prompts) <= {item.text for item in Encodings.prompts(encodings, "train")}
    assert set(encodings.splits) == {"train"}
