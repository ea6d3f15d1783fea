"""Base and tuned network for one batch of prompts, as noise predictions that strategies compose."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser, Predict
from stages.models.process import Grid


@dataclass(frozen=True)
class Networks:
    """The two networks on one grid; `text` [B] and `empty` [1] are what the batch is conditioned on."""

    grid: Grid
    text: Conditioning
    empty: Conditioning
    base_network: Denoiser
    tuned_network: Denoiser

    @property
    def steps(self) -> int:
        """T, the number of steps of the grid."""
        return len(self.grid)

    def base(self, guidance: float) -> Predict:
        """The base's prediction at a guidance scale."""
        return self.base_network.predict(self.grid, self.text, self.empty, guidance)

    def base_direction(self, x: Tensor, i: int) -> Tensor:
        """The base's prediction with the prompt less that without, [B, C, h, w]: where guidance goes."""
        t, empty = self.grid.timesteps[i], self.empty.expand(len(self.text))
        return self.base_network.prediction(x, t, self.text) - self.base_network.prediction(x, t, empty)

    def tuned(self, guidance: float) -> Predict:
        """The tuned network's prediction at a guidance scale."""
        return self.tuned_network.predict(self.grid, self.text, self.empty, guidance)
