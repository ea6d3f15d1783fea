"""Settings of the report, and the little that it reads of the rest of a study: runs, methods, strategies, metrics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from stages import plugins
from stages.checkpoints.settings import names_checkpoint, with_methods
from stages.params import Settings, nearest, read_study, validate

FIGURES, GROUP = "stages.report.figures", "imagerefl.figures"
"""Where figures stand: a package here, and the group of entry points of installed packages."""
CLIPSCORE = "clipscore"
"""The metric that `measure.text_image` gives."""


class GridSettings(Settings):
    """How many images the sample grid shows."""

    prompts: int = Field(default=6, ge=1, le=24, description="evaluation prompts in the sample grid")
    samples: int = Field(default=4, ge=1, le=16, description="images per prompt in the sample grid")


class ThumbnailSettings(Settings):
    """The small pictures in the interactive part of the page."""

    side: int = Field(default=64, ge=16, le=256, description="longer side of a picture, at most, in pixels")
    samples: int = Field(default=8, ge=1, le=64, description="images per prompt and setting, at most")
    megapixels: float = Field(
        default=12.0,
        gt=0,
        le=200,
        description="pixels of all pictures; where there are more, fewer samples, then fewer prompts",
    )
    quality: int = Field(default=60, ge=1, le=100, description="quality of WebP")


class MainSettings(Settings):
    """The pair that decides whether the candidate is better, named before anything is measured."""

    reward: str = Field(description="one of report.rewards")
    diversity: str = Field(description="one of report.diversities")


class ComparisonSettings(Settings):
    """Two methods that the claims are put to instead of the study's reference and candidate."""

    reference: str = Field(description="the method that differences are taken against")
    candidate: str = Field(description="the method whose frontier is compared with it")


class PublishedSettings(Settings):
    """Means that somebody else published, and the setting in which they were measured."""

    source: str = Field(min_length=1, description="where they stand: paper and table")
    prompts: int | None = Field(None, ge=1, description="evaluation prompts; null: not known")
    samples: int | None = Field(None, ge=1, description="images per prompt; null: not known")
    steps: int | None = Field(None, ge=1, description="sampling steps; null: not known")
    values: Mapping[str, Mapping[str, float]] = Field(
        min_length=1, description="of base and methods of this study, alone: a mean for each of its metrics, by name"
    )


class ReportSettings(Settings):
    """Section `report` of a study."""

    grid: GridSettings = Field(GridSettings(), description="size of the sample grid")
    thumbnails: ThumbnailSettings = Field(
        ThumbnailSettings(), description="pictures in the interactive part of the page"
    )
    figures: tuple[str, ...] = Field(
        (), description="figures beside the standard ones, by file name in report/figures or by installed entry point"
    )
    rewards: tuple[str, ...] = Field(min_length=1, description="measured rewards, one row of panels each")
    diversities: tuple[str, ...] = Field(min_length=1, description="measured diversities, one column of panels each")
    candidate: str = Field("imagerefl", description="the method whose frontier is compared with the reference method's")
    main: MainSettings | None = Field(
        None,
        description="the pair of reward and diversity that the claim about the candidate is judged on alone, the other "
        "pairs together (Holm); null: all of them together",
    )
    long: str | None = Field(None, description="the reference method trained longer, looked at for over-optimisation")
    truth: str | None = Field(
        None, description="the reward that long training must not lower; null: the held-out reward of the study"
    )
    ablations: tuple[str, ...] = Field((), description="variants of the candidate, each compared with the candidate")
    titles: Mapping[str, Annotated[str, Field(min_length=1, max_length=60, pattern=r"^[^\x00-\x1f\x7f]+$")]] = Field(
        default_factory=dict, description="what a method is called in the report, by its name in the study"
    )
    comparisons: Mapping[Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")], ComparisonSettings] = Field(
        default_factory=dict,
        description="the claims put to two other methods, by the name of the folder that `stages.report.results` keeps "
        "them in",
    )
    published: PublishedSettings | None = Field(
        None, description="numbers from elsewhere, which the figure `published` draws beside this study's; null: none"
    )
    budgets: Mapping[Literal["evaluations", "queries", "seconds"], tuple[Annotated[float, Field(gt=0)], ...]] = Field(
        default_factory=dict,
        description="what an image may cost in the panels of the figure `equal_cost`, by the way that it is counted; "
        "empty: what best of N of the base spends",
    )
    votes: str | None = Field(
        None, min_length=1, description="what `python -m stages.votes analyse` wrote, in folder votes; null: none"
    )
    against: str | None = Field(
        None,
        min_length=1,
        description="folder of an earlier report of this study, whose numbers this one is compared with; null: none",
    )
    bootstrap: int = Field(1000, ge=100, le=100_000, description="bootstrap resamples")
    resample: Literal["prompts", "prompts_and_seeds"] = Field(
        "prompts", description="what the resamples of the claims draw anew; a single training seed is always kept"
    )
    interval: float = Field(0.95, gt=0.5, lt=1, description="share of the resamples that an interval covers")

    @model_validator(mode="after")
    def _main_pair_is_shown(self) -> ReportSettings:
        main = self.main
        shown = {"reward": self.rewards, "diversity": self.diversities} if main else {}
        for key, names in shown.items():
            if (name := getattr(main, key)) not in names:
                raise ValueError(f"main.{key}: {name!r} is not shown{nearest(name, names)}")
        return self

    @property
    def main_pair(self) -> tuple[str, str] | None:
        """The pair named beforehand, reward and diversity."""
        return (self.main.reward, self.main.diversity) if self.main else None

    @field_validator("figures")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        known = plugins.names(FIGURES, GROUP)
        for name in names:
            if name not in known:
                raise ValueError(f"unknown figure {name!r}{nearest(name, known)}")
        return names


class _View(Settings):
    """A part of the study that another stage owns and checks: read here without refusing its other keys."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class StudyView(_View):
    """What the page says about the study as a whole."""

    name: str
    description: str = ""
    seed: int = 0
    reward: str
    heldout: str | None = None
    reference: str


class RunView(_View):
    """One run; a checkpoint is a method of the run's name, and has no training log."""

    method: str
    seed: int = 0
    checkpoint: str | None = None


class MethodView(Settings):
    """One fine-tuning method: its kind, and its other settings for its label."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str


class StrategyView(_View):
    """One sampling strategy: guidance of the network that is sampled, and of the base part, so of the base as its end.

    `prediction` is the mixing strategy whose steps candidates make, for a strategy that searches.
    """

    kind: str
    guidance: float = 1.0
    base_guidance: float = 1.0
    prediction: Mapping[str, Any] | None = None


class _Scored(_View):
    rewards: tuple[str, ...] = ()


class _Measured(_View):
    rewards: tuple[str, ...] = ()
    text_image: str | None = None
    set_metrics: tuple[str, ...] = ()
    interval: float = 0.95


class _Trained(_View):
    sampling_steps: int = Field(default=20, ge=1)


class _Sampling(_View):
    steps: int = Field(ge=1)
    strategies: Mapping[str, StrategyView] = {}


class ReportStudy(_View):
    """Everything of a study file that the report reads."""

    study: StudyView
    report: ReportSettings
    runs: Mapping[str, RunView]
    methods_by_name: Mapping[str, MethodView] = Field(default_factory=dict, alias="methods")
    prepare: Mapping[str, Any] = Field(default_factory=dict)
    score: _Scored = _Scored()
    sample: _Sampling
    measure: _Measured = _Measured()
    finetune: _Trained = _Trained()
    decided: Mapping[str, Any] | None = None
    select: Mapping[str, Any] | None = None

    @field_validator("runs", mode="before")
    @classmethod
    def _checkpoints_are_methods(cls, runs: Any) -> Any:
        if not isinstance(runs, Mapping):
            return runs
        places = {name: {"checkpoint": run["checkpoint"]} for name, run in runs.items() if names_checkpoint(run)}
        return {name: run | places.get(name, {}) if name in places else run for name, run in with_methods(runs).items()}

    @model_validator(mode="after")
    def _methods_exist(self) -> ReportStudy:
        methods = {run.method for run in self.runs.values()}
        if methods and self.study.reference not in methods:
            name = self.study.reference
            raise ValueError(f"study.reference {name!r} is not a method that has a run{nearest(name, methods)}")
        for key, names in (("long", (self.report.long,)), ("ablations", self.report.ablations)):
            for name in names:
                if name and methods and name not in methods:
                    raise ValueError(f"report.{key} {name!r} is not a method that has a run{nearest(name, methods)}")
        titles = list(self.report.titles.values())
        for name, title in self.report.titles.items():
            if methods and name not in methods:
                raise ValueError(f"report.titles: {name!r} is not a method that has a run{nearest(name, methods)}")
            if titles.count(title) > 1 or title == "base":
                raise ValueError(f"report.titles.{name} {title!r} is what another is called, expected one of its own")
        for key, pair in self.report.comparisons.items():
            for name in (pair.reference, pair.candidate):
                if methods and name not in methods:
                    known = nearest(name, methods)
                    raise ValueError(f"report.comparisons.{key} {name!r} is not a method that has a run{known}")
        for name in self.report.published.values if self.report.published else ():
            if name not in (*methods, "base"):
                known = nearest(name, methods)
                raise ValueError(f"report.published.values {name!r} is neither base nor a method that has a run{known}")
        candidate = self.report.candidate
        if "candidate" in self.report.model_fields_set and methods and candidate not in methods:
            raise ValueError(
                f"report.candidate {candidate!r} is not a method that has a run{nearest(candidate, methods)}"
            )
        if self.report.long == self.study.reference:
            raise ValueError(f"report.long {self.report.long!r} is study.reference itself, expected it trained longer")
        if candidate in self.report.ablations:
            raise ValueError(f"report.ablations {candidate!r} is report.candidate itself, expected variants of it")
        truth = self.report.truth or self.truth
        if truth and truth not in self.report.rewards:
            raise ValueError(f"report.truth {truth!r} is none of report.rewards{nearest(truth, self.report.rewards)}")
        return self

    @property
    def truth(self) -> str | None:
        """The reward that stands for the truth where over-optimisation is looked for; None where none is."""
        return (self.report.truth or self.study.heldout) if self.report.long else None

    @property
    def trained_runs(self) -> tuple[str, ...]:
        """The runs that were trained here, and so have a training log."""
        return tuple(name for name, run in self.runs.items() if run.checkpoint is None)

    @property
    def judges(self) -> dict[str, str]:
        """Every metric that scores single images by a model, and the name of the model."""
        found = {name: name for name in (*self.report.rewards, *self.measure.rewards)}
        return found | ({CLIPSCORE: self.measure.text_image} if self.measure.text_image else {})

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that have a run, in the order of the study file."""
        return tuple(dict.fromkeys(run.method for run in self.runs.values()))

    def runs_of(self, method: str) -> list[str]:
        """The runs of a method, training seeds ascending; `base` is the only one of `base`."""
        mine = (run for run, view in self.runs.items() if view.method == method)
        return ["base"] if method == "base" else sorted(mine, key=lambda run: self.runs[run].seed)


def read(path: str | Path) -> ReportStudy:
    """The report's view of the study at `path`; raises InputError for anything that is wrong in it."""
    return validate(ReportStudy, read_study(path), str(path))
