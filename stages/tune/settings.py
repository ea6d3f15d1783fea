"""Settings of the sweep: key `tune` of section `study`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from stages.errors import InputError
from stages.params import Settings, nearest


def _ascending(rates: tuple[float, ...]) -> tuple[float, ...]:
    if list(rates) != sorted(set(rates)):
        raise ValueError("rates are not in ascending order, each once")
    return rates


Rates = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1), AfterValidator(_ascending)]


class TuneSettings(Settings):
    """Which learning rates are tried, and what the choice between them looks at; see docs/tuning.md."""

    rates: Rates = Field(default=(5e-5, 1e-4, 2e-4, 4e-4), description="learning rates, ascending")
    own: Mapping[str, Rates] = Field(
        default_factory=dict, description="learning rates, ascending, of single methods in place of `rates`, by name"
    )
    seed: int = Field(default=1000, ge=0, description="training seed of the sweep; no run of the study should have it")
    steps: int | None = Field(
        default=None, ge=1, description="optimizer steps of the sweep; null: as many as the runs make"
    )
    compute: float | None = Field(
        default=None, gt=0, description="compute of the sweep, as in `finetune.budget`, in place of `steps`"
    )
    prompts: int = Field(
        default=24, ge=1, description="training prompts that are sampled and scored after the last step"
    )
    samples: int = Field(default=4, ge=2, description="images per prompt")
    min_diversity: float = Field(
        default=0.5, ge=0, le=1, description="share of the base's diversity that a rate must leave to be chosen"
    )

    @model_validator(mode="after")
    def _one_length(self) -> TuneSettings:
        if self.steps and self.compute:
            raise ValueError("expected either steps or compute")
        return self

    def rates_of(self, method: str) -> tuple[float, ...]:
        """The rates that a method is trained at."""
        return self.own.get(method, self.rates)


def require_own_seed(tune: TuneSettings, seeds: Mapping[str, int], where: str) -> None:
    """Raise InputError that starts with `where` where the seed of the sweep is that of a run (`seeds` by run): a rate
    would be chosen on what is reported.
    """
    taken = next((run for run, seed in seeds.items() if seed == tune.seed), None)
    if taken is not None:
        raise InputError(f"{where}: {tune.seed} is the training seed of run {taken!r}; take one that no run has")


def require_methods(tune: TuneSettings, methods: Collection[str], where: str) -> None:
    """Raise InputError that starts with `where` where rates are given for a method that the study does not have."""
    for name in tune.own:
        if name not in methods:
            raise InputError(f"{where}.{name}: no such method{nearest(name, methods)}")


class TunedStudy(Settings):
    """The one key that the sweep reads of section `study`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    tune: TuneSettings = Field(default_factory=TuneSettings)
