"""The window of judged indices of reward fine-tuning, which may be taken from what `decided` found. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pydantic import Field

from stages.decided.auto import Auto
from stages.finetune.settings import MethodSettings

if TYPE_CHECKING:
    from stages.decided.auto import Resolved

Window = tuple[int, int] | Auto


class Windowed(MethodSettings):
    """A method that judges the clean image predicted at an index drawn from a window."""

    middle: Window = Field(
        default=(15, 20),
        description="the scored index m is drawn from middle[0] <= m < middle[1]; auto: from the index where the "
        "diversity of `decided` is settled, to T",
    )

    @property
    def auto(self) -> bool:
        """Whether the window is auto."""
        return self.middle == "auto"

    def decided(self, found: Resolved, steps: int) -> Self:
        """The window [start, T) that `auto` stands for."""
        return self._with(middle=(found.start_of(steps), steps)) if self.middle == "auto" else self

    @property
    def window(self) -> tuple[int, int]:
        """The window; raises ValueError while it is auto."""
        if isinstance(self.middle, str):
            raise ValueError("middle is auto, which is known when `decided` has run")
        return self.middle

    def _with(self, **values: Any) -> Self:
        return self.model_copy(update=values)
