"""Comparison with reference numbers of sampling-time methods: searches, particles, guidance by a further network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stages.parity.checks import Check
    from stages.parity.reference import ParitySet

METHODS = frozenset({
    "fk", "code", "svdd", "dsearch", "dlbs", "rlg", "npo", "chats", "reno", "carinox", "das", "density", "ebama",
    "tilt", "dts", "fmtt",
})  # fmt: skip
"""Methods that a set of this kind has items of, each under its bare name; a set with one of them is compared here."""
REASONS = {
    r"items\..*\.(network|reward)_calls": "batches, which sample.batch_size cuts",
    r"items\.(code|svdd|dsearch|dlbs)\..*(network_evaluations|by_network.*|reward_images)": (
        "the released code evaluates or judges the same latents again; the product keeps what it has"
    ),
    r"items\.rlg\..*(network_evaluations|by_network.*|reward_images)": (
        "the product evaluates one network where the weights of the other are 0; no reward is asked"
    ),
    r"items\..*\.reward_images": "no reward is asked while images are made",
    r"density\.(step\.drift|sampler\..*)|items\.density\.gmm\.lambda_(min|max)": (
        "the product has no solver in continuous time"
    ),
}
"""Why names that match a pattern are not compared."""


def knows(reference: ParitySet) -> bool:
    """Whether the set has items of these methods."""
    return bool(METHODS & set(reference.expected.tags("items")))


def checks(reference: ParitySet) -> Iterator[Check]:
    """Every comparison with a set of sampling-time methods."""
    from stages.parity.sampling import attention, beams, blocks, das, dlbs, fk, flow_map, guidance, noise, trees
    from stages.parity.sampling.world import SamplingSet

    made = SamplingSet(reference, reference.inputs, reference.expected)
    for module in (fk, blocks, beams, dlbs, das, trees, guidance, noise, attention, flow_map):
        yield from module.checks(made)


def reason(name: str) -> str:
    """Why nothing compares an entry; empty where that is not known."""
    if (method := re.match(r"items\.([^.]+)\.", name)) and method[1] not in METHODS:
        return "no sampling-time method of this name is known"
    return next((why for pattern, why in REASONS.items() if re.fullmatch(pattern, name)), "")
