"""Strategies that compose the prediction of every step from those of the networks: one candidate, no reward."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from stages.sample.settings import StrategySettings, Target

if TYPE_CHECKING:
    from torch import Tensor

    from stages.models.diffusion import Predict
    from stages.models.noise import Noise
    from stages.models.sampler import Enter
    from stages.sample.context import Context
    from stages.sample.networks import Networks


class Predicting(StrategySettings):
    """A strategy that is a prediction, and perhaps a change of the latents that enter a step."""

    @abstractmethod
    def predict(self, networks: Networks, value: float) -> Predict:
        """The prediction that a step is made from, at one point's value."""

    def renoise(self, networks: Networks, value: float, noise: Noise) -> Enter | None:
        """What the latents entering a step become before the step is made; None where they stay as they are."""
        return None

    def sample(self, ctx: Context, value: float) -> Tensor:
        """All steps by the composed prediction."""
        enter = self.renoise(ctx.networks, value, ctx.noise)
        return ctx.decode(ctx.finish(self.predict(ctx.networks, value), enter))


class Mixing(Predicting):
    """A strategy that mixes base and tuned network.

    Guidance is classifier-free guidance of one network; 1 is none.
    """

    suits: ClassVar[tuple[Target, ...]] = ("tuned",)

    guidance: float = Field(default=1.0, ge=0, description="guidance of the tuned network")
    base_guidance: float = Field(default=1.0, ge=0, description="guidance of the base network")
