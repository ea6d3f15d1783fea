"""The tuned network for a chosen annotator, of a run that was told who judged (PPD)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, StringConstraints

from stages.about import StrategyAbout
from stages.sample.mixing import Mixing
from stages.sample.settings import SweepPoint

if TYPE_CHECKING:
    from stages.models.diffusion import Predict
    from stages.sample.networks import Networks

ABOUT = StrategyAbout(
    "for an annotator",
    "Dang et al. 2025, arXiv 2501.06655",
    letter="annotator",
    lines=((0, (5, 2, 1, 2)),),
    markers=("*",),
    caption="The tuned network is told for whom it draws.",
)


class Settings(Mixing):
    """Whose taste is followed, one setting each. `guidance` is by the prompt, with the annotator in it."""

    names: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = Field(
        min_length=1, description="annotators, as the table of pairs calls them"
    )

    def points(self) -> list[SweepPoint]:
        """One point per annotator, numbered from 0."""
        return [SweepPoint(f"annotator={name}", float(number)) for number, name in enumerate(self.names)]

    def annotators(self) -> tuple[str, ...]:
        """All of them."""
        return self.names

    def predict(self, networks: Networks, value: float) -> Predict:
        """The tuned network's prediction for the annotator; of a network that knows none, its plain prediction."""
        from stages.models.annotators import of

        known = of(networks.own_network.network)
        if known is None:
            return networks.tuned(self.guidance)
        name = self.names[int(value)]
        told = networks.texts.changed(lambda own: known.told(own, [name] * len(own)))
        return replace(networks, texts=told).tuned(self.guidance)
