"""DDIM-InPO (Lu et al. 2025): Diffusion-DPO on images that are inverted by the policy in place of being noised."""

from __future__ import annotations

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.pair_settings import NoisingSettings
from stages.finetune.family import paired_preference
from stages.finetune.methods import diffusion_dpo

ABOUT = MethodAbout("DDIM-InPO", "Lu et al. 2025, arXiv 2503.18454", family="preference")


class Settings(diffusion_dpo.Settings):
    """Diffusion-DPO's keys, with inversion switched on."""

    noising: NoisingSettings = Field(
        default_factory=lambda: NoisingSettings(kind="inversion"),
        description="inversion on 10 levels, each step with a tenth of the ancestral noise, as released",
    )
    beta: float = Field(
        default=2000.0, gt=0, description="as Diffusion-DPO's, half of it enters the loss; released: 2000, SDXL 5000"
    )


METHOD = paired_preference(Settings, diffusion_dpo.loss)
