"""The true utility of the shapes world: what its annotators prefer, read off the pixels, without a gradient.

`options: {taste: large}` judges as annotators of that taste do (`stages.world.tastes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor

from stages.gives import Gives
from stages.models.record import ModelRecord
from stages.pictures import levels
from stages.rewards.networks.options import KindOptions, options
from stages.world import criticism, oracle, tastes

if TYPE_CHECKING:
    from stages.world.oracle import Parsed

GIVES = Gives(files="none", gradient=False, sees="stages.world.oracle:Parsed", criticises=True)


class ShapesOracleOptions(KindOptions):
    """What a study may say under `options`."""

    taste: Literal["large", "small", "light", "dark"] | None = Field(
        None, description="judge as annotators of this taste do; null: by the utility that all of them share"
    )


OPTIONS = ShapesOracleOptions


class ShapesOracle:
    """`stages.world.oracle.utility` as a reward, and the parse that it rests on; with a taste, its term is added."""

    differentiable = False
    kind = "shapes_oracle"

    def __init__(self, name: str, taste: str | None = None) -> None:
        self.name = name
        self.taste = taste

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Utility [B] float32 of images [B, 3, H, W] in [0, 1], each with its own prompt."""
        return self.utility(self.see(images, prompts), prompts).to(images.device)

    def see(self, images: Tensor, prompts: Sequence[str] = ()) -> Parsed:
        """What is seen in images [B, 3, H, W] in [0, 1] after rounding to 8 bits as in a file, whatever the prompts."""
        return oracle.parse(levels(images))

    def criticise(self, images: Tensor, prompts: Sequence[str]) -> list[list[int]]:
        """For each image [3, H, W] in [0, 1] the numbers of the words of its prompt that it does not show."""
        return criticism.wrong_words(self.see(images), prompts)

    def utility(self, seen: Parsed, prompts: Sequence[str]) -> Tensor:
        """Utility [B] float32 of parsed images."""
        found = oracle.utility(seen, list(prompts))
        if self.taste is not None:
            found = found + tastes.term(seen, self.taste)
        return torch.from_numpy(found).float()


def load(record: ModelRecord, device: torch.device | str = "cpu") -> ShapesOracle:
    """The oracle; it has no files, and works on the CPU whatever the device."""
    return ShapesOracle(record.name, options(record, ShapesOracleOptions).taste)
