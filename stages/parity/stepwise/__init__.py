"""Comparison with numbers of methods that learn from single steps of rollouts, and of AlignProp and AWM.

A module for every group of items; each takes the settings of its items from the set.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from stages.parity.checks import Check
from stages.parity.reference import ParitySet
from stages.parity.rounding import of_modules
from stages.parity.stepwise import alignprop, awm, d3po, dense_reward, dpok, lpo, lrm, pso, spo
from stages.parity.stepwise.given import Given
from stages.parity.stepwise.reasons import REASONS, reason

__all__ = ["MODULES", "checks", "knows", "reason"]

MODULES = (d3po, dpok, awm, alignprop, spo, lrm, lpo, dense_reward, pso)
COMPARED = ("d3po", "dpok", "awm", "awm_flow", "alignprop", "spo", "lrm", "lpo", "dense", "pso")


def knows(reference: ParitySet) -> bool:
    """Whether the set has items of these methods; their names start with that of the method and a dot."""
    groups = {name.split(".")[0] for name in reference.expected.scalars if "." in name}
    return bool(groups & {*COMPARED, *REASONS})


def checks(reference: ParitySet) -> Iterator[Check]:
    """Every comparison with the items of the set that some module knows."""
    yield from of_modules(MODULES, reference.networks, partial(Given, reference))
