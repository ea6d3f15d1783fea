"""CHATS (Fu et al. 2025, arXiv 2502.12579): guidance by a network that was trained on the images that lost.

Read in the released code (AIDC-AI/CHATS) too. s is not a guidance scale: with one network for both and alpha = 0 the
result is plain guidance of scale 1 + s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from stages.about import StrategyAbout
from stages.sample.mixing import Predicting
from stages.sample.settings import BASE, SweepPoint, Target

if TYPE_CHECKING:
    from torch import Tensor

    from stages.models.diffusion import Predict
    from stages.sample.networks import Networks

ABOUT = StrategyAbout(
    "CHATS",
    "Fu et al. 2025, arXiv 2502.12579",
    letter="s",
    lines=((0, (2, 1, 6, 1)),),
    markers=("4",),
    caption="CHATS adds s times the difference between the network of the winners and that of the losers.",
)


class Settings(Predicting):
    """Scales, the network of the losers, and what it is told."""

    apply_to: tuple[Target, ...] = Field(default=("tuned",), min_length=1, description="base, tuned, or both")
    s: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        min_length=1, description="weights of the difference; 0 is the network that is sampled, without guidance"
    )
    lose: str = Field(description="the network of the losers: a run, a method (its run of the same seed), or base")
    alpha: float = Field(
        default=0.5,
        description="it is told -alpha (prompt) + (1 + alpha) (no prompt), of text embeddings: 0 is no prompt, -1 the "
        "prompt",
    )

    def points(self) -> list[SweepPoint]:
        """One point per weight."""
        return [SweepPoint(f"s={scale:g}", float(scale)) for scale in self.s]

    def networks(self) -> tuple[str, ...]:
        """That of the losers."""
        return () if self.lose == BASE else (self.lose,)

    def predict(self, networks: Networks, value: float) -> Predict:
        """win(prompt) + s (win(prompt) - lose(mixture))."""
        win, lose = networks.own(1.0), networks.told_mixture(self.lose, -self.alpha, 1 + self.alpha)

        def at(x: Tensor, i: int) -> Tensor:
            wanted = win(x, i)
            return wanted + value * (wanted - lose(x, i)) if value else wanted

        return at
