"""Options of a model in the study file (`prepare.import.<name>.options`): one settings model per kind.

A kind says which: `OPTIONS = HpsOptions`. The planner reads that class off the source file (`stages/model_options.py`),
so it refers to nothing but `typing`, `pydantic`, `stages.params`, this module and constants of its own module.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from pydantic import Field

from stages.errors import InputError
from stages.params import Settings, validate

if TYPE_CHECKING:
    import torch

    from stages.models.record import ModelRecord
    from stages.rewards.preprocess import Preprocess


class KindOptions(Settings):
    """What a kind takes; base of all classes that an `OPTIONS` names."""

    def check(self, parts: Collection[str], files: bool) -> None:
        """Raise ValueError where they do not go with what else a study says of the model: the names of the models that
        it is made of, and whether it has `files`.
        """

    def check_files(self, files: Sequence[Path]) -> None:
        """Raise InputError where the model's files on this machine lack what the options name, by what is read at
        once: a header, the names of columns. The planner asks before any job; what it imports is torch-free.
        """


class NoOptions(KindOptions):
    """Of a kind that takes none."""


class Options(KindOptions):
    """What every network takes."""

    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of the weights and the network; features are normalised and multiplied in float32"
    )
    normalise: Literal["clip", "imagenet", "half"] | None = Field(
        None, description="mean and standard deviation of the pixels; null: those that the model was trained with"
    )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of `precision`."""
        import torch

        return getattr(torch, self.precision)

    def normalised(self, preprocess: Preprocess) -> Preprocess:
        """`preprocess` with the mean and standard deviation that the study gives."""
        return preprocess if self.normalise is None else preprocess.normalised(self.normalise, "options.normalise")


S = TypeVar("S", bound=KindOptions)


def options(record: ModelRecord, model: type[S]) -> S:
    """The options of `record`; raises InputError, one line, for a key or value that this kind does not take."""
    values = {**record.options, **record.access}
    return checked(model, values, record.parts, bool(record.files), f"model {record.name!r}: options")


def checked(model: type[S], values: Mapping[str, object], parts: Collection[str], files: bool, where: str) -> S:
    """The options of a model of the study; raises InputError that starts with `where`."""
    found = validate(model, dict(values), where)
    try:
        found.check(parts, files)
    except ValueError as error:
        raise InputError(f"{where}.{error}") from None
    return found
