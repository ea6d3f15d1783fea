"""RKE: how many different images the images of a prompt amount to, by the Rényi entropy of order 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from stages.about import MetricAbout
from stages.measure.statistics import second_order_number

if TYPE_CHECKING:
    from stages.measure.scored import ScoredImages

ABOUT = MetricAbout("RKE", "Jalali, Li and Farnia 2023, arXiv 2302.05656", labels={"rke": "RKE"}, rising="more diverse")

SCOPE = "prompt"
SPACE = "first"


def metric(images: ScoredImages) -> Mapping[str, float]:
    """Score in the first embedding of the study, between 1 and the number of images; nothing without an embedding.

    It is the Vendi score of order 2 (Pasarkar and Dieng 2023, arXiv 2310.12952): of the two it gives less weight to
    rare images, so it is never the larger one.
    """
    first = next(iter(images.embeddings.values()), None)
    return {} if first is None else {"rke": second_order_number(first)}
