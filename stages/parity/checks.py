"""One comparison: how far a computed array is from the expected one, and how far it may be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Relative to the largest expected magnitude of an array; the recommendations of the public set's README, section 6.
VALUE = 2e-5  # latents, images, features, rewards, losses, total norms
GRADIENT = 1e-4  # gradients, per-parameter norms, differences of losses times a large factor
STEEP = 2e-4  # gradients of Diffusion-DPO, per-parameter norms of an optimizer step against the largest
EXACT = 0.0
COUNT = 1e-6  # of a whole number that is stored as a share in single precision


@dataclass(frozen=True)
class Check:
    """One line of the report: the largest error, relative to the largest expected magnitude, and its tolerance.

    `fixed`: the tolerance is one of the constants above, which rounding may widen (`rounding.py`).
    """

    name: str
    error: float
    tolerance: float
    fixed: bool = False

    @property
    def passed(self) -> bool:
        """Within the tolerance; an error that is not a number is not."""
        return self.error <= self.tolerance

    def __str__(self) -> str:
        verdict = "pass" if self.passed else "FAIL"
        return f"{self.name:<76} {self.error:9.2e} {self.tolerance:9.2e}  {verdict}"


def compare(name: str, found: Any, expected: Any, tolerance: float, scale: float | None = None) -> Check:
    """The check of numbers, sequences or tensors; another shape is an infinite error.

    `scale` replaces the largest expected magnitude as the unit of the error: that of the terms, for a mean of terms of
    both signs.
    """
    found, expected = _double(found), _double(expected)
    if found.shape != expected.shape:
        return Check(name, float("inf"), tolerance)
    if not expected.numel():
        return Check(name, 0.0, tolerance)
    unit = scale if scale is not None else float(expected.abs().max()) or 1.0
    error = float((found - expected).abs().max()) / unit
    return Check(name, error if error == error else float("inf"), tolerance, fixed=tolerance >= VALUE)


def within(name: str, found: Any, expected: Any, allowed: Any) -> Check:
    """The check of numbers that may each be off by a distance of their own, in units of it; its tolerance is 1."""
    found, expected, allowed = _double(found), _double(expected), _double(allowed)
    if found.shape != expected.shape:
        return Check(name, float("inf"), 1.0)
    if not expected.numel():
        return Check(name, 0.0, 1.0)
    error = float(((found - expected).abs() / allowed.clamp(min=torch.finfo(torch.float64).tiny)).max())
    return Check(name, error if error == error else float("inf"), 1.0)


def same(name: str, found: object, expected: object) -> Check:
    """The check of things that have no distance: equal or not."""
    return Check(name, 0.0 if found == expected else float("inf"), EXACT)


def norms(name: str, found: dict[str, float], expected: dict[str, float], tolerance: float) -> Iterator[Check]:
    """Two checks of norms by parameter: against the largest norm, and each above 1e-4 of it against itself."""
    if found.keys() != expected.keys():
        yield same(f"{name} (names)", sorted(found), sorted(expected))
        return
    names = list(expected)
    yield compare(name, [found[n] for n in names], [expected[n] for n in names], tolerance)
    floor = 1e-4 * max(expected.values())
    own = [abs(found[n] - expected[n]) / expected[n] for n in names if expected[n] > floor]
    yield compare(f"{name} (each by itself)", own, [0.0] * len(own), tolerance, scale=1.0)


def _double(values: Tensor | Sequence[float] | float) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().to("cpu", torch.float64)
    return torch.as_tensor(values, dtype=torch.float64)
