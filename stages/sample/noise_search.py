"""Strategies that optimise the noise x_T of an image by the gradients of rewards: their settings. Torch-free.

`stages/sample/ascent.py` has the loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from stages.sample.search import numbered, require_counts
from stages.sample.settings import SampleSettings, SweepPoint
from stages.sample.stepping import Stepping

if TYPE_CHECKING:
    from torch import Tensor

    from stages.sample.context import Context

Weights = Annotated[dict[str, Annotated[float, Field(ge=0)]], Field(min_length=1)]
"""Models of a study with the factor of each, at least one of them above 0."""


class NoiseSearch(Stepping):
    """N iterations: the image of a noise is made by all steps and judged, then the noise moves along the gradient.

    The loss of reward R is `top` - `slope` R; the result is the image of the iteration with the lowest loss.
    """

    top: ClassVar[float] = 1.0
    slope: ClassVar[float] = 1.0
    clip_each: ClassVar[bool] = False
    """Whether the gradient of each reward is clipped by itself, before their sum is."""

    weights: Weights = Field(description="models of the study that the images are judged by, and the factor of each")
    n: tuple[int, ...] = Field(min_length=1, description="numbers N of iterations, each an image; 1 is plain sampling")
    rate: float = Field(default=5.0, ge=0, description="learning rate")
    optimiser: Literal["sgd", "adam"] = Field(default="sgd", description="SGD with Nesterov momentum, or Adam")
    momentum: float = Field(default=0.9, gt=0, lt=1, description="momentum of SGD")
    regularise: float = Field(
        default=0.01, ge=0, description="factor of the regulariser, |x_T|^2 / 2 - (d - 1) log |x_T| with d numbers"
    )
    clip: float = Field(default=0.1, gt=0, description="largest norm of the gradient of an image's noise")

    def points(self) -> list[SweepPoint]:
        """One point per N."""
        return numbered("n", self.n)

    def check(self, sample: SampleSettings) -> None:
        """At least one iteration, by at least one reward."""
        super().check(sample)
        require_counts("n", self.n)
        require_weights("weights", self.weights)

    def rewards(self) -> tuple[str, ...]:
        """Those with a weight above 0 for some prompt."""
        return weighted(self.weights)

    def needs_gradient(self) -> bool:
        """Of the rewards, with respect to the images."""
        return True

    def weights_for(self, prompt: str) -> Weights:
        """The factor of each reward for the images of a prompt; those left out have 0."""
        return self.weights

    def summed(self, weight: float) -> float:
        """The factor of a reward of this weight in the loss by which iterations are compared."""
        return weight

    def sample(self, ctx: Context, value: float) -> Tensor:
        """The images of the best iterations."""
        from stages.sample.ascent import optimised

        return optimised(ctx, self, int(value)).images


def weighted(*weights: Weights) -> tuple[str, ...]:
    """Names with a weight above 0 in some of `weights`, each once."""
    return tuple(dict.fromkeys(name for each in weights for name, weight in each.items() if weight > 0))


def require_weights(key: str, weights: Weights) -> None:
    """Raise ValueError where no weight is above 0."""
    if not weighted(weights):
        raise ValueError(f"{key}: every weight is 0, expected one above it")
