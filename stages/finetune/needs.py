"""What a method needs, declared in its settings: planning, budget, doctor, encode and the check of several processes
read it. Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Data = Literal["prompts", "images", "pairs", "labelled"]
"""Training prompts; captioned real images; pairs of images with a preference; images with a label each."""
RewardUse = Literal["none", "value", "gradient"]
"""No reward; a number per image; a number and its gradient by the image."""


@dataclass(frozen=True)
class Needs:
    """What a method needs with the settings that it has.

    `features`, `texts`: the reward must have features of images, of texts. `latents`: it must judge noisy latents.
    `reference`: the frozen base is evaluated.
    `captions`: pairs whose images have captions of their own. `annotators`: pairs that say who judged, where annotators
    with one pair are refused, or taken for nobody. `ties`: pairs without a preference (label 1/2) are learnt
    from, otherwise they are left out. `student`: entry of `prepare.train.consistency` whose distilled network is
    evaluated. `starts_as_student`: policy and reference start as that network and not as the base. `companion`: a
    second network, equal to the base at the start too, is trained beside the policy and not saved. `group`: images of
    one prompt that stand side by side in a batch. `several_processes`: whether training can be shared out among
    processes.
    """

    data: Data = "prompts"
    reward: RewardUse = "gradient"
    features: bool = False
    texts: bool = False
    latents: bool = False
    reference: bool = False
    captions: bool = False
    annotators: Literal["", "refuse", "pool"] = ""
    ties: bool = False
    student: str | None = None
    starts_as_student: bool = False
    companion: bool = False
    group: int = 1
    several_processes: bool = True
