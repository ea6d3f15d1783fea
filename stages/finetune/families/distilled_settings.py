"""Settings of methods that fine-tune a distilled model in few steps. Torch-free."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field

from stages.finetune.families.settings import PreferenceSettings
from stages.finetune.needs import Needs
from stages.finetune.settings import FinetuneSettings


class DistilledSettings(PreferenceSettings):
    """The distilled model, and how it is sampled in training."""

    model: str = Field(default="student", description="entry of prepare.train.consistency: what is fine-tuned")
    few_steps: int = Field(
        default=4, ge=2, description="sampling steps of a rollout, in place of finetune.sampling_steps"
    )
    rule: Literal["renoise", "ancestral"] = Field(
        default="renoise",
        description="the next state: the predicted clean latents noised anew (released for DMD2), or the posterior of "
        "the noise schedule (released for SDXL-Turbo)",
    )

    @property
    def needs(self) -> Needs:
        """The distilled model, which policy and reference start as; pairs of images of a prompt."""
        return replace(super().needs, student=self.model, starts_as_student=True, group=2)

    def grids(self) -> tuple[int, ...]:
        """That of the few steps."""
        return (self.few_steps,)

    def learnt(self, train: FinetuneSettings) -> int:
        """All steps but the last."""
        return self.steps_per_trajectory or self.few_steps - 1

    def shares(self, train: FinetuneSettings) -> dict[str, int]:
        """Pairs stay together, in the rollouts and in the loss."""
        own = super().shares(train)
        return {"pairs of images": own["images"] // 2, "pairs of states of an update": own["states of an update"] // 2}

    def check(self, train: FinetuneSettings) -> None:
        """The weights of a distilled model are saved whole; pairs are not torn apart."""
        super().check(train)
        if train.trainable != "full":
            raise ValueError(f"trainable {train.trainable}: the policy starts as the distilled model, expected full")
        if self.steps_per_trajectory and self.steps_per_trajectory > self.few_steps - 1:
            raise ValueError(
                f"steps_per_trajectory {self.steps_per_trajectory} is more than the {self.few_steps - 1} of few_steps "
                "that have noise"
            )
        if self.eta != 1.0:
            raise ValueError(f"eta {self.eta:g}: the noise of a few-step sampler is given by its rule, expected 1")
        if self.state_batch % 2:
            raise ValueError(f"state_batch {self.state_batch} is odd, expected whole pairs")
