"""BalancedDPO (2025): Diffusion-DPO on labels of rewards, against a copy of the policy that is renewed regularly."""

from __future__ import annotations

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.pair_settings import LabelSettings, ReferenceSettings
from stages.finetune.family import paired_preference
from stages.finetune.methods import diffusion_dpo

ABOUT = MethodAbout("BalancedDPO", "Tamboli et al. 2025, arXiv 2503.12575", family="preference")


class Settings(diffusion_dpo.Settings):
    """Diffusion-DPO's keys, with another reference and other labels."""

    reference: ReferenceSettings = Field(
        default_factory=lambda: ReferenceSettings(kind="hard", every=20),
        description="a copy of the policy, renewed every 20 steps (our number: the paper's is not available)",
    )
    labels: LabelSettings = Field(
        default_factory=lambda: LabelSettings(kind="reward"),
        description="the image that the training reward scores higher is preferred",
    )


METHOD = paired_preference(Settings, diffusion_dpo.loss)
