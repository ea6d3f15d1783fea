"""Diffusion-NPO (Wang et al. 2025): a network of what people do not like, by pairs whose images are exchanged. It takes
the place of the unconditional prediction in guidance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.pair_settings import PairSettings
from stages.finetune.family import paired_preference

if TYPE_CHECKING:
    from stages.finetune.families.pair_errors import PairErrors
    from stages.finetune.objective import Loss

ABOUT = MethodAbout("Diffusion-NPO", "Wang et al. 2025, arXiv 2505.11245", family="preference")


class Settings(PairSettings):
    """Diffusion-NPO's own keys."""

    beta: float = Field(
        default=1000.0,
        gt=0,
        description="as Diffusion-DPO's, half of it enters the loss; the release for Stable Diffusion 1.5 has no half, "
        "so that its 500 is 1000 here, that for SDXL has it (2000)",
    )
    loss: Literal["sigmoid", "hinge", "ipo"] = Field(
        default="sigmoid", description="-log sigmoid(z), max(0, 1 - z), or (m - 1 / beta)^2, z = beta m / 2"
    )


def loss(pairs: PairErrors, settings: Settings) -> Loss:
    """The chosen loss of the margin m of the other image over the preferred one."""
    from stages.finetune.losses.pairs import hinge, logistic, regression
    from stages.finetune.objective import Loss

    margin = pairs.exchanged().margin
    if settings.loss == "ipo":
        each = regression(margin, 1 / settings.beta)
    else:
        each = (logistic if settings.loss == "sigmoid" else hinge)(margin, settings.beta)
    return Loss.of(pairs.mean(each))


METHOD = paired_preference(Settings, loss)
