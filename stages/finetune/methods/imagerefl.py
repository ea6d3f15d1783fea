"""ImageReFL (Sorokin et al. 2025, arXiv 2505.22569): reward fine-tuning that starts from noised real images."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.methods import refl
from stages.finetune.settings import FinetuneSettings, MethodSettings, check_window

if TYPE_CHECKING:
    from torch import Tensor

    from stages.finetune.batch import Batch, Judged, Rollout
    from stages.finetune.tools import Tools

ABOUT = MethodAbout("ImageReFL", "Sorokin et al. 2025, arXiv 2505.22569", family="reward gradient")


class Settings(MethodSettings):
    """ImageReFL's own keys."""

    start: int = Field(default=10, ge=0, description="real images are noised to this index")
    middle: tuple[int, int] = Field(
        default=(10, 20), description="the judged index m is drawn from middle[0] <= m < middle[1]"
    )
    diffusion_weight: float = Field(default=0.1, ge=0, description="weight of the diffusion loss at the start index")
    refl_every: int | None = Field(
        default=None, ge=1, description="every n-th micro-batch is a ReFL step; null for none"
    )
    likeness_weight: float = Field(
        default=0.0, ge=0, description="weight of 1 - cosine between the reward's features of judged and real images"
    )

    @property
    def data(self) -> Literal["prompts", "images"]:
        """Always captioned real images."""
        return "images"

    def check(self, train: FinetuneSettings) -> None:
        """The window lies on the grid and begins at or after the start."""
        check_window("middle", self.middle, train.sampling_steps, low=self.start)


def ahead(tools: Tools, batch: Batch, settings: Settings) -> Rollout | None:
    """From noise when it is ReFL's turn, else from noised real latents."""
    m = batch.draw(settings.middle)
    if refl_turn(batch.micro, settings.refl_every):
        return refl.begin(tools, batch, m, settings.diffusion_weight)
    return begin(tools, batch, settings.start, m, settings.diffusion_weight)


def step(tools: Tools, batch: Batch, settings: Settings) -> Judged:
    """One micro-batch: of ReFL when it is its turn, else of ImageReFL.

    A likeness is asked of both, as in ImageReFL's code (image_refl_trainer_v2.py): there the real image and the
    judged one share at least the caption.
    """
    from stages.finetune.batch import Likeness

    m = batch.draw(settings.middle)
    if refl_turn(batch.micro, settings.refl_every):
        found = refl.judge(tools, batch, m, settings.diffusion_weight)
    else:
        found = judge(tools, batch, settings.start, m, settings.diffusion_weight)
    if settings.likeness_weight and batch.clean is not None:
        return replace(found, likeness=Likeness(settings.likeness_weight, batch.clean))
    return found


def refl_turn(micro: int, every: int | None) -> bool:
    """Whether micro-batch `micro` (from 0) is a ReFL one: with `every` 4 the sequence is I I I R I I I R."""
    return every is not None and (micro + 1) % every == 0


def judge(tools: Tools, batch: Batch, start: int, m: int, diffusion_weight: float) -> Judged:
    """Noise real latents to `start`, roll out to m without gradient, predict x0 there; diffusion loss at `start`.

    The prediction at `start` serves the diffusion loss, the first step of the rollout, and (m = start) the reward: it
    is evaluated once. Never guided. As in ImageReFL's code, image_refl_trainer.py; for m = start that code makes a
    stray step, which is left out unless the study asks for it.
    """
    from stages.finetune.batch import Judged

    tools = tools.without_guidance()
    if batch.rolled is not None:
        return Judged(tools.x0(batch, batch.rolled.x, m), batch.prompts)
    x, target = tools.noised(batch, start)
    if not diffusion_weight:
        x = tools.rollout(batch, x, start, m)
        return Judged(tools.x0(batch, x, m), batch.prompts)
    first, penalties = first_prediction(tools, batch, x, target, start, diffusion_weight)
    if m == start and not tools.extra_step:
        return Judged(tools.grid.x0(x, first, m), batch.prompts, penalties)
    x = tools.rollout(batch, x, start, m, first=first.detach())
    return Judged(tools.x0(batch, x, m), batch.prompts, penalties)


def begin(tools: Tools, batch: Batch, start: int, m: int, diffusion_weight: float) -> Rollout | None:
    """The part of `judge` before its last prediction; None for m = start, where one prediction serves everything."""
    from stages.finetune.batch import Rollout

    tools = tools.without_guidance()
    if m == start and diffusion_weight:
        return None
    x, target = tools.noised(batch, start)
    if not diffusion_weight:
        return Rollout(x, start, m, guided=False)
    first, penalties = first_prediction(tools, batch, x, target, start, diffusion_weight)
    x = tools.rollout(batch, x, start, start + 1, first=first.detach())
    return Rollout(x, start + 1, m, guided=False, penalties=penalties)


def first_prediction(
    tools: Tools, batch: Batch, x: Tensor, target: Tensor, start: int, diffusion_weight: float
) -> tuple[Tensor, dict[str, tuple[float, Tensor]]]:
    """The prediction from noised real latents x, which enter index `start`, and the diffusion loss that it makes."""
    first = tools.unguided(batch, x, start)
    return first, {"diffusion": (diffusion_weight, (first - target).square().mean())}
