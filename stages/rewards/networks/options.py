"""Options of a model in the study file (`prepare.import.<name>.options`): one settings model a kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeVar

from pydantic import Field

from stages.params import Settings, validate

if TYPE_CHECKING:
    import torch

    from stages.models.record import ModelRecord
    from stages.rewards.preprocess import Preprocess


class Options(Settings):
    """What every network takes."""

    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of the weights and the network; features are normalised and multiplied in float32"
    )
    normalise: Literal["clip", "imagenet", "half"] | None = Field(
        None, description="mean and deviation of the pixels; null: those that the model was trained with"
    )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of `precision`."""
        import torch

        return getattr(torch, self.precision)

    def normalised(self, preprocess: Preprocess) -> Preprocess:
        """`preprocess` with the mean and deviation that were asked for."""
        return preprocess if self.normalise is None else preprocess.normalised(self.normalise, "options.normalise")


S = TypeVar("S", bound=Settings)


def options(record: ModelRecord, model: type[S]) -> S:
    """The options of `record`; raises InputError, one line, for a key or value that this kind does not take."""
    return validate(model, dict(record.options), f"model {record.name!r}: options")
