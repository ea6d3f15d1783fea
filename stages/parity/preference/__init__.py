"""Comparison with numbers of preference fine-tuning: losses, their gradients, inversions, merged weights.

A module for every group of items; each takes the settings of its items from the set.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from stages.parity.checks import Check
from stages.parity.preference import (
    adaptive,
    experts,
    formulas,
    guided,
    inversion,
    kto,
    mapo,
    negative,
    pairs,
    perceptual,
    selection,
    self_negative,
    two_networks,
)
from stages.parity.preference.given import Given
from stages.parity.preference.reasons import reason
from stages.parity.reference import ParitySet
from stages.parity.rounding import of_modules

__all__ = ["checks", "knows", "reason"]


def knows(reference: ParitySet) -> bool:
    """Whether the set has items; those of sampling-time methods are told apart before."""
    return bool(reference.expected.tags("items"))


def checks(reference: ParitySet) -> Iterator[Check]:
    """Every comparison with the items of the set that some module knows."""
    modules = (
        pairs, kto, mapo, negative, inversion, adaptive, experts, formulas, perceptual, selection, self_negative,
        two_networks, guided,
    )  # fmt: skip
    yield from of_modules(modules, reference.networks, partial(Given, reference))
