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
