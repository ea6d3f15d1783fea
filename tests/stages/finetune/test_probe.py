"""What the probe says of images that an oracle has read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.finetune.probe import Probe
from stages.pictures import decode


@dataclass(frozen=True)
class Brightness:
    """The brightness of every image, as an oracle would see it; its range is what a prompt leaves open."""

    brightness: np.ndarray

    def diversity(self) -> Mapping[str, float]:
        return {"attribute_diversity": float(np.ptp(self.brightness)), "other": -1.0}


class Oracle:
    def see(self, images: Tensor, prompts: Sequence[str]) -> Brightness:
        assert len(images) == len(prompts)
        return Brightness(images.mean((1, 2, 3)).numpy())


def test_attributes_are_those_of_the_images_of_each_prompt() -> None:
    levels = torch.tensor([0.1, 0.4, 0.2, 0.9, 0.3, 0.3])
    images = levels.view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    unused: Any = None
    prompts = ["a", "a", "b", "b", "c", "c"]
    probe = Probe(prompts, unused, unused, 2, {}, unused)
    oracle: Any = Oracle()
    assert probe.attributes(oracle, images).tolist() == pytest.approx([0.3, 0.7, 0.0], abs=1e-6)


def test_pictures_are_those_of_the_images_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.linspace(0, 1, 4).view(-1, 1, 1, 1).expand(-1, 3, 96, 128)
    unused: Any = None
    probe = Probe(["a", "a", "b", "b"], unused, unused, 2, {}, lambda found: torch.eye(4))
    monkeypatch.setattr(Probe, "images", lambda self, *given: images)
    seen = probe.measure(unused, unused, unused, "ddpm")
    assert seen.terms == {"probe_diversity": 1.0}
    rows = probe.rows([(0, seen.pictures), (7, seen.pictures[::-1])])
    assert [(row["step"], row["prompt"], row["sample"]) for row in rows[3:6]] == [(0, "b", 1), (7, "a", 0), (7, "a", 1)]
    for row, level in zip(rows, (0, 85, 170, 255, 255, 170, 85, 0), strict=True):
        pixels = decode(bytes(row["image"]), "picture")  # type: ignore[arg-type]
        assert pixels.shape == (48, 64, 3)
        assert set(np.unique(pixels)) == {level}
