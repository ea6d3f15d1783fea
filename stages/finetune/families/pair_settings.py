"""Settings that the methods of the preference family share, one section per switch. Torch-free."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, model_validator

from stages.finetune.needs import Needs
from stages.finetune.settings import FinetuneSettings, MethodSettings
from stages.params import Settings as Section

Share = Annotated[float, Field(ge=0, le=1)]


class ReferenceSettings(Section):
    """The network whose denoising errors the policy's are compared with."""

    kind: Literal["frozen", "none", "ema", "hard"] = Field(
        default="frozen",
        description="the base; none (its errors count as 0); an average of the policy's weights; or a copy of the "
        "policy that is renewed every so many steps",
    )
    decay: float | None = Field(default=None, ge=0, lt=1, description="of the average per optimizer step, for kind ema")
    every: int | None = Field(default=None, ge=1, description="optimizer steps between two copies, for kind hard")

    @model_validator(mode="after")
    def _own_key(self) -> ReferenceSettings:
        for key, kind in (("decay", "ema"), ("every", "hard")):
            if (getattr(self, key) is not None) != (self.kind == kind):
                raise ValueError(f"{key} goes with kind {kind} and with no other, found kind {self.kind}")
        return self


class NoisingSettings(Section):
    """How latents of real images become the noisy latents that both networks denoise."""

    kind: Literal["forward", "inversion"] = Field(
        default="forward", description="with random noise, or by DDIM inversion with the policy (noise schedules only)"
    )
    steps: int = Field(default=10, ge=1, description="levels of the inversion's grid over all timesteps")
    noise: float = Field(
        default=0.1, ge=0, description="noise of an inversion step, in standard deviations of the ancestral step"
    )
    average: bool = Field(
        default=False, description="each inversion step takes the mean of two predictions, the second at the step's end"
    )
    convention: Literal["pinned", "new"] = Field(
        default="pinned",
        description="as with diffusers 0.20, which the releases pin: up to the first level at or above t, network at "
        "the level that a step leaves; or as with later versions: last level below t, network at the level it reaches",
    )


class TimestepSettings(Section):
    """Which timesteps are drawn, one per pair, and their weight in the errors."""

    law: Literal["uniform", "window", "sigmoid"] = Field(
        default="uniform",
        description="all alike; those in `window` alike; or in proportion to sigmoid(bias - log SNR)",
    )
    window: tuple[Share, Share] = Field(
        default=(0.0, 1.0), description="for law window: from the first to below the second share of the timesteps"
    )
    bias: float = Field(default=0.0, description="for law sigmoid; larger values draw cleaner images more often")
    weight: Literal["none", "min_snr", "debiased"] = Field(
        default="none", description="of squared errors of the noise: 1, min(SNR, gamma) / SNR, or 1 / sqrt(SNR)"
    )
    gamma: float = Field(default=5.0, gt=0, description="for weight min_snr")

    @model_validator(mode="after")
    def _window(self) -> TimestepSettings:
        if self.window[0] >= self.window[1]:
            raise ValueError(f"window {list(self.window)} is empty, expected its first share below its second")
        return self


class SafeguardSettings(Section):
    """The gradient of the loser's error is scaled so that, to first order, the winner's error does not rise."""

    mu: float = Field(
        default=0.9, ge=0, le=1, description="share of the winner's own decrease that is kept; 1 has no loser gradient"
    )
    per: Literal["micro_batch", "pair"] = Field(
        default="micro_batch", description="one scale for all pairs of a micro-batch, as released, or one per pair"
    )


class LabelSettings(Section):
    """Which image of a pair is the preferred one, and how surely."""

    kind: Literal["curated", "reward"] = Field(
        default="curated", description="as the data says, or the one that the training reward scores higher"
    )
    range: float | None = Field(
        default=None,
        gt=0,
        description="for kind reward: the label is sigmoid of the difference of scores over this; null: 1",
    )

    @model_validator(mode="after")
    def _own_key(self) -> LabelSettings:
        if self.range is not None and self.kind != "reward":
            raise ValueError(f"range goes with kind reward, found kind {self.kind}")
        return self


class PreferenceDataSettings(MethodSettings):
    """What every method that learns from curated pairs may say; `batch_size` counts pairs."""

    reference: ReferenceSettings = Field(default_factory=ReferenceSettings, description="what errors are compared with")
    timesteps: TimestepSettings = Field(default_factory=TimestepSettings, description="law and weight of timesteps")

    @property
    def needs(self) -> Needs:
        """Pairs, and the frozen base where it is the reference; no reward."""
        return Needs(data="pairs", reward="none", reference=self.reference.kind == "frozen")

    def shares(self, train: FinetuneSettings) -> dict[str, int]:
        """Pairs stay together."""
        return {"pairs": train.batch_size // train.accumulate}


class PairSettings(PreferenceDataSettings):
    """What every method that learns from pairs of images with a preference may say."""

    noising: NoisingSettings = Field(default_factory=NoisingSettings, description="how images become noisy latents")
    safeguard: SafeguardSettings | None = Field(
        default=None, description="scale the gradient of the loser's error (Diffusion-SDPO); null: leave it"
    )

    labels: LabelSettings = Field(default_factory=LabelSettings, description="which image is the preferred one")

    @property
    def needs(self) -> Needs:
        """The reward's number where it labels pairs, ties too. One process for an inversion: its evaluations depend on
        the timestep, so that processes would count different numbers of them.
        """
        reward = "value" if self.labels.kind == "reward" else "none"
        return replace(
            super().needs, reward=reward, ties=self.labels.kind == "reward",
            several_processes=self.noising.kind == "forward",
        )  # fmt: skip


class ImagePairSettings(PairSettings):
    """Pairs that are made of captioned real images; `batch_size` counts images."""

    @property
    def needs(self) -> Needs:
        """Captioned images in place of pairs."""
        return replace(super().needs, data="images")

    def check(self, train: FinetuneSettings) -> None:
        """Which side of such a pair is preferred is fixed, so that nothing else may label it."""
        super().check(train)
        if self.labels.kind != "curated":
            raise ValueError("labels: the pairs are made of real images, which are preferred by rule")


class AdaptiveSettings(PairSettings):
    """The averages of Adaptive-DPO."""

    averages: bool = Field(default=True, description="whether the policy is compared with averages of its weights")
    decays: tuple[Share, Share] = Field(
        default=(0.9999, 0.5), description="of the two averages, per optimizer step, and less in the first steps"
    )
    warm_up: int = Field(default=0, ge=0, description="optimizer steps in which every pair counts alike")


class UnpairedSettings(PreferenceDataSettings):
    """What every method that learns from images that are liked or disliked may say; `batch_size` counts images."""

    likes: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="probability that the preferred image of a pair is taken, and not the other one; both kinds are "
        "needed",
    )
