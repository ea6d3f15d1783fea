"""A pair of images that can be fetched by name, with those among them that are new."""

from __future__ import annotations

from collections.abc import Callable

from stages.curate.catalogue import Catalogue
from stages.curate.rows import ImageRow, Offer, PairRow


def offer(pair: PairRow, read: Callable[[str], bytes], catalogue: Catalogue, group: str = "") -> Offer:
    """`pair` with its images that `catalogue` does not know yet; `read` gives the bytes of an image by its name."""
    new = [name for name in dict.fromkeys((pair.a, pair.b)) if not catalogue.knows(name)]
    images = (ImageRow(name, read(name), pair.text, pair.source, group, for_pairs=True) for name in new)
    return Offer(pair, tuple(images))


def share_of_better_ranks(a: list[float], b: list[float]) -> float | None:
    """The share of judges who ranked a before b; rank 1 is best, equal ranks are half a vote; None without judges."""
    votes = [(first < second) + 0.5 * (first == second) for first, second in zip(a, b, strict=True)]
    return sum(votes) / len(votes) if votes else None
