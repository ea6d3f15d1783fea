"""ImageReFL (Sorokin et al. 2025, arXiv 2505.22569): reward fine-tuning that starts from noised real images."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from stages.about import MethodAbout
from stages.decided.auto import Auto
from stages.finetune.family import reward_gradient
from stages.finetune.methods import refl
from stages.finetune.needs import Needs
from stages.finetune.settings import FinetuneSettings, check_window
from stages.finetune.window import Window, Windowed

if TYPE_CHECKING:
    from stages.decided.auto import Resolved
    from stages.finetune.batch import Batch
    from stages.finetune.families.reward_gradient import Step
    from stages.finetune.networks import Networks

ABOUT = MethodAbout("ImageReFL", "Sorokin et al. 2025, arXiv 2505.22569", family="reward gradient")


class Settings(Windowed):
    """ImageReFL's own keys, and the window."""

    start: Annotated[int, Field(ge=0)] | Auto = Field(
        default=10,
        description="real images are noised to this index; auto: the first one where the diversity of `decided` is "
        "settled",
    )
    middle: Window = Field(
        default=(10, 20),
        description="the scored index m is drawn from middle[0] <= m < middle[1]; auto: from the index where the "
        "diversity of `decided` is settled, to T",
    )
    diffusion_weight: float = Field(default=0.1, ge=0, description="weight of the diffusion loss at the start index")
    refl_every: int | None = Field(
        default=None, ge=1, description="every n-th micro-batch is a ReFL step; null for none"
    )
    likeness_weight: float = Field(
        default=0.0, ge=0, description="weight of 1 - cosine between the reward's features of scored and real images"
    )

    @property
    def needs(self) -> Needs:
        """Always captioned real images; features for the similarity to them."""
        return Needs(data="images", features=self.likeness_weight > 0)

    @property
    def auto(self) -> bool:
        """Whether start or window is auto."""
        return "auto" in (self.start, self.middle)

    def decided(self, found: Resolved, steps: int) -> Settings:
        """The start and the window [start, T) that `auto` stands for."""
        own = self._with(start=found.start_of(steps)) if self.start == "auto" else self
        return own._with(middle=(found.start_of(steps), steps)) if own.middle == "auto" else own

    @property
    def noised_to(self) -> int:
        """The start; raises ValueError while it is auto."""
        if isinstance(self.start, str):
            raise ValueError("start is auto, which is known when `decided` has run")
        return self.start

    def check(self, train: FinetuneSettings) -> None:
        """The window lies on the grid and begins at or after the start."""
        if self.start == "auto" and self.middle != "auto":
            raise ValueError("start is auto, and so has to be middle: the window begins at or after the start")
        if not self.auto:
            check_window("middle", self.window, train.sampling_steps, low=self.noised_to)


def step(networks: Networks, batch: Batch, settings: Settings) -> Step:
    """One micro-batch: of ReFL when it is its turn, else of ImageReFL.

    The similarity to real images is a term of both, as in ImageReFL's code (image_refl_trainer_v2.py): there the real
    image and the scored one share at least the caption.
    """
    from stages.finetune.reward import Similarity

    m = batch.draw(settings.window)
    if refl_turn(batch.micro, settings.refl_every):
        output = yield from refl.step_with(networks, batch, m, settings.diffusion_weight)
    else:
        output = yield from step_with(networks, batch, settings.noised_to, m, settings.diffusion_weight)
    if settings.likeness_weight:
        return replace(output, similarity=Similarity(settings.likeness_weight, batch.real()))
    return output


def refl_turn(micro: int, every: int | None) -> bool:
    """Whether micro-batch `micro` (from 0) is a ReFL one: with `every` 4 the sequence is I I I R I I I R."""
    return every is not None and (micro + 1) % every == 0


def step_with(networks: Networks, batch: Batch, start: int, m: int, diffusion_weight: float) -> Step:
    """Noise real latents to `start`, roll out to m without gradient, predict x0 there; diffusion loss at `start`.

    The prediction at `start` serves the diffusion loss, the first step of the rollout, and (m = start) the reward: it
    is evaluated once. Never guided. As in ImageReFL's code, image_refl_trainer.py; for m = start that code makes a
    stray step, which is left out unless the study asks for it.
    """
    from stages.finetune.families.reward_gradient import StepOutput
    from stages.finetune.rollouts import Prediction, Rollout

    networks = networks.without_guidance()
    x, target = networks.noised(batch, start)
    if not diffusion_weight:
        x = yield Rollout(x, start, m, guided=False)
        prediction = yield Prediction(x, m, guided=False)
        return StepOutput(networks.grid.x0(x, prediction, m), batch.prompts)
    prediction = yield Prediction(x, start, guided=False)
    penalties = {"diffusion": (diffusion_weight, (prediction - target).square().mean())}
    if m == start and not networks.extra_step:
        return StepOutput(networks.grid.x0(x, prediction, m), batch.prompts, penalties)
    x = yield Rollout(x, start, m, guided=False, first=prediction.detach(), penalties=penalties)
    prediction = yield Prediction(x, m, guided=False)
    return StepOutput(networks.grid.x0(x, prediction, m), batch.prompts)


METHOD = reward_gradient(Settings, step)
