"""Comparison with numbers of methods that learn from single steps of rollouts, and of AlignProp and AWM.

A module for every group of items; each takes the settings of its items from the set.
"""

from __future__ import annotations

from collections.abc import Iterator

from stages.parity.checks import Check
from stages.parity.reference import ParitySet
from stages.parity.stepwise import alignprop, awm, d3po, dense_reward, dpok, spo
from stages.parity.stepwise.given import Given
from stages.parity.stepwise.reasons import REASONS, reason

__all__ = ["checks", "checks_of", "knows", "reason"]

COMPARED = ("d3po", "dpok", "awm", "awm_flow", "alignprop", "spo", "dense")


def knows(reference: ParitySet) -> bool:
    """Whether the set has items of these methods; their names start with that of the method and a dot."""
    groups = {name.split(".")[0] for name in reference.expected.scalars if "." in name}
    return bool(groups & {*COMPARED, *REASONS})


def checks(reference: ParitySet) -> Iterator[Check]:
    """Every comparison with the items of the set that some module knows."""
    yield from checks_of(Given(reference))


def checks_of(given: Given) -> Iterator[Check]:
    """The comparisons of what is given."""
    for module in (d3po, dpok, awm, alignprop, spo, dense_reward):
        yield from module.checks(given)
