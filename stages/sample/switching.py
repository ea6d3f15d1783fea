"""Strategies in which the base makes the first k steps, at several k."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field, field_validator

from stages.decided.auto import Auto
from stages.sample.mixing import Mixing
from stages.sample.settings import SweepPoint

if TYPE_CHECKING:
    from stages.decided.auto import Resolved


class Switching(Mixing):
    """The switch steps."""

    k: tuple[int, ...] | Auto = Field(
        description="numbers of first steps that the base makes; auto: those that `decided` finds worth a try"
    )

    @field_validator("k")
    @classmethod
    def _some(cls, k: tuple[int, ...] | Auto) -> tuple[int, ...] | Auto:
        if not k:
            raise ValueError("expected at least one k, or auto; found an empty list")
        return k

    @property
    def auto(self) -> bool:
        """Whether k is."""
        return self.k == "auto"

    def decided(self, found: Resolved, steps: int) -> Self:
        """The k that `auto` stands for."""
        return self.model_copy(update={"k": found.k_of(steps)}) if self.auto else self

    def points(self) -> list[SweepPoint]:
        """One point per switch step; raises ValueError while k is auto."""
        if isinstance(self.k, str):
            raise ValueError("k is auto, which is known when `decided` has run")
        return [SweepPoint(f"k={k}", float(k)) for k in self.k]

    def require(self, low: int, high: int, why: str) -> None:
        """Raise ValueError for a k outside [low, high]; `why` says what such a k would be."""
        if low > high:
            raise ValueError(f"sample.steps is {high + 1}: there is no step to switch at {why}")
        for k in () if isinstance(self.k, str) else self.k:
            if not low <= k <= high:
                raise ValueError(f"k {k} is not between {low} and {high} {why}")
