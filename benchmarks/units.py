"""Operations of the full-size networks, counted without weights, and the noise schedule that studies of them have."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from stages.models.process_noise import NoiseSchedule

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


@dataclass(frozen=True)
class Unit:
    """TFLOP of one image (a multiplication and an addition are two): one evaluation, what its backward pass adds,
    encoding, decoding, decoding and judging with their gradient, judging by all models of a study, judging by the
    reward alone; gigabytes of the weights in single precision, and numbers of a prompt's encoding.
    """

    name: str
    forward: float
    backward: float
    encode: float
    decode: float
    reward_gradient: float
    score: float
    query: float
    weights: float
    text: int


UNITS = (
    Unit("Stable Diffusion 1.5", 0.8033, 1.6035, 1.1167, 2.5145, 5.0634 + 0.68, 0.825, 0.34, 3.44, 77 * 768),
    Unit("SDXL at 512 pixels", 1.589, 3.178, 1.1167, 2.5145, 5.0634 + 0.68, 0.825, 0.34, 10.3, 77 * 2048 + 1280 + 6),
)
"""Of SDXL's backward pass at this size only its ratio to the forward pass (two) is known."""


def schedule() -> NoiseSchedule:
    """That of Stable Diffusion."""
    return NoiseSchedule.from_config(BETAS, torch.device("cpu"))
