"""The best and worst images of a prompt that HPS v1 selects, from a table of scores."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stages.parity.checks import Check, same
from stages.parity.preference.given import Given, Item
from stages.select.steps.hps_v1 import Settings, selected

NAME = "hps_v1"


def checks(given: Given) -> Iterator[Check]:
    """The selection, where the set has one. Its images that are blurred are left out before, by curation."""
    expected = given.reference.expected
    if NAME not in expected.tags("items"):
        return
    item = Item(NAME, expected)
    rows = [row for row in item.setting("table") if not row["blurry"]]
    settings = Settings(kind=NAME, reward="x")
    yield same(f"{NAME}.minimum_images", settings.fewest, item.setting("minimum_images"))
    _, group = np.unique([row["prompt"] for row in rows], return_inverse=True)
    scores = np.array([row["score"] for row in rows])  # 100 times the cosine, and so scaled
    masks = selected(scores, group, settings.fewest, settings.times)
    found = {
        (kind, row["id"])
        for kind, mask in zip(("positive", "negative"), masks, strict=True)
        for row, chosen in zip(rows, mask, strict=True) if chosen
    }  # fmt: skip
    wanted = {(row["type"], row["image_id"]) for row in item.setting("selected")}
    yield same(f"{NAME}.selected", found, wanted)
