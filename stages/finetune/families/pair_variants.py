"""Settings of the preference families that go beyond plain pairs, a section per family. Torch-free."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import Field

from stages.finetune.families.pair_settings import ImagePairSettings, PairSettings, ReferenceSettings, Share
from stages.finetune.needs import Needs
from stages.finetune.settings import FinetuneSettings, MethodSettings
from stages.params import Settings as Section

Captions = Literal["drawn", "curated"]
"""Another training prompt drawn anew for every row, or what the table of pairs says of each image."""


class DualCaptionSettings(PairSettings):
    """Pairs whose images have a caption each."""

    captions: Captions = Field(
        default="drawn",
        description="curated: the captions that the table of pairs has of each image; drawn: the prompt for the "
        "preferred image, another training prompt for the other one",
    )

    @property
    def needs(self) -> Needs:
        """Pairs with captions, where those are taken."""
        return replace(super().needs, captions=self.captions == "curated")

    def check(self, train: FinetuneSettings) -> None:
        """A caption stays with its image."""
        super().check(train)
        if self.captions == "curated" and self.labels.kind != "curated":
            raise ValueError("labels: curated captions go with curated labels, expected labels.kind curated")


class TextPairSettings(ImagePairSettings):
    """One image with its own caption and with another one."""

    captions: Captions = Field(
        default="drawn",
        description="drawn: of captioned images, the other caption is another training prompt; curated: of pairs with "
        "captions, such as those of a source of kind `perturbed`, the preferred image with both",
    )

    @property
    def needs(self) -> Needs:
        """Captioned images, or pairs with captions."""
        found = super().needs
        return found if self.captions == "drawn" else replace(found, data="pairs", captions=True)


class PersonalSettings(PairSettings):
    """Pairs whose annotators the policy is told about."""

    codes: int = Field(
        default=64,
        ge=1,
        description="length of an annotator's code: more annotators than this can hardly be told apart",
    )
    drop: Share = Field(default=0.1, description="share of pairs whose annotator the policy is not told")
    lone: Literal["refuse", "pool"] = Field(
        default="refuse", description="an annotator with one pair: refused, or taken as if nobody were named"
    )

    @property
    def needs(self) -> Needs:
        """Pairs with annotators."""
        return replace(super().needs, annotators=self.lone)


class ExpertAsReleased(Section):
    """What the released code of Diffusion-DRO does; off. See docs/methods.md."""

    one_grid: bool = Field(
        default=False, description="the solver takes the noise levels of the first trajectory's grid for all of them"
    )


class ExpertSettings(ImagePairSettings):
    """Expert images, which are captioned real images (`source`), against the policy's own trajectories."""

    copy_every: int = Field(
        default=1,
        ge=1,
        description="optimizer steps for which the network of the trajectories stays as it is; 1, as released: it is "
        "the policy, whose error there is 0",
    )
    as_released: ExpertAsReleased = Field(default_factory=ExpertAsReleased)

    def check(self, train: FinetuneSettings) -> None:
        """States are made by a solver; timesteps are those of its grid."""
        super().check(train)
        for key, found, only in (
            ("noising.kind", self.noising.kind, "forward"), ("timesteps.law", self.timesteps.law, "uniform"),
        ):  # fmt: skip
            if found != only:
                raise ValueError(f"{key} {found}: states and timesteps are those of trajectories, expected {only}")


class TruncatedSettings(MethodSettings):
    """Truncated denoising of noised real images."""

    reference: ReferenceSettings = Field(
        default_factory=lambda: ReferenceSettings(kind="ema", decay=0.999),
        description="the network that denoises: an average of the policy's weights, as released, or the base",
    )
    extrapolation: float = Field(
        default=-1.0, description="w in p(prompt) + w (p(prompt) - p(no prompt)); released: -1, for SDXL -5"
    )
    levels: int = Field(default=25, ge=2, description="places of the grid over all timesteps")
    steps: int = Field(default=5, ge=1, description="steps of the denoising")

    @property
    def needs(self) -> Needs:
        """Captioned images; the base where it denoises; no reward."""
        return Needs(data="images", reward="none", reference=self.reference.kind == "frozen")

    def check(self, train: FinetuneSettings) -> None:
        """There is a network that denoises."""
        if self.reference.kind == "none":
            raise ValueError("reference.kind none: expected ema, hard or frozen, which denoise the images")


class TwoNetworkSettings(PairSettings):
    """Two networks, one for each side of the pairs."""

    saves: Literal["winner", "loser"] = Field(
        default="winner",
        description="which of the two networks the run saves; a run for each of the same seed trains the same two",
    )
    prompt_drop: Share = Field(
        default=0.5, description="probability, per micro-batch, that the losers' network sees no prompt (zeros)"
    )

    @property
    def needs(self) -> Needs:
        """A second network beside the policy."""
        return replace(super().needs, companion=True)

    def check(self, train: FinetuneSettings) -> None:
        """Both networks fit their side, so there is no loser's gradient to scale and no network to invert with."""
        super().check(train)
        if self.safeguard is not None:
            raise ValueError("safeguard: each network fits its own side, expected null")
        if self.noising.kind != "forward":
            raise ValueError("noising.kind inversion: there are two networks to invert with, expected forward")
        if self.reference.kind in ("ema", "hard"):
            raise ValueError(f"reference.kind {self.reference.kind}: there are two networks, expected frozen or none")


class AnchoredSettings(PairSettings):
    """A penalty beside the reference that keeps the policy near the base."""

    anchor_weight: float = Field(
        default=0.1, ge=0, description="weight of the mean squared difference of predictions from the base's; ours"
    )

    @property
    def needs(self) -> Needs:
        """The base, whatever the reference is."""
        return replace(super().needs, reference=True)


class FeatureSpace(Section):
    """Where errors are measured: features of states that follow from a prediction."""

    features: Literal["middle", "down", "all"] = Field(
        default="middle",
        description="of a UNet: after its middle block, after its way down, or after every block up to the middle one",
    )
    pooled: bool = Field(default=False, description="means over height and width of the features")
    state: Literal["previous", "uniform"] = Field(
        default="previous",
        description="the state one timestep down, or the predicted clean latents and noise at a timestep drawn anew",
    )
    network: Literal["base", "policy"] = Field(
        default="base", description="whose features: the frozen base's, or the policy's, as they are in the step"
    )


class PerceptualSettings(PairSettings):
    """Pairs whose errors are measured in a feature space."""

    space: FeatureSpace = Field(default_factory=FeatureSpace, description="where errors are measured")
    plain_weight: float = Field(
        default=0.0, ge=0, description="weight of the plain error of the prediction, added to that of features"
    )

    @property
    def needs(self) -> Needs:
        """The base for its features too."""
        own = super().needs
        return replace(own, reference=own.reference or self.space.network == "base")

    def check(self, train: FinetuneSettings) -> None:
        """The safeguard knows one kind of error."""
        super().check(train)
        if self.safeguard is not None and self.plain_weight:
            raise ValueError("safeguard does not go with plain_weight, expected errors of features alone")
