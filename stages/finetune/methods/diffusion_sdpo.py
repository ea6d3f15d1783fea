"""Diffusion-SDPO (2025): Diffusion-DPO whose losers' gradient is scaled so that the winners' errors do not rise."""

from __future__ import annotations

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.pair_settings import SafeguardSettings
from stages.finetune.family import paired_preference
from stages.finetune.methods import diffusion_dpo

ABOUT = MethodAbout("Diffusion-SDPO", "Fu et al. 2025, arXiv 2511.03317", family="preference")


class Settings(diffusion_dpo.Settings):
    """Diffusion-DPO's keys, with the safeguard switched on."""

    safeguard: SafeguardSettings | None = Field(
        default_factory=SafeguardSettings, description="how the gradient of the loser's error is scaled"
    )


METHOD = paired_preference(Settings, diffusion_dpo.loss)
