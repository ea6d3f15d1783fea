"""Section `sample` of a study file, and the interface of a sampling strategy. Torch-free."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import ConfigDict, Field, field_validator, model_validator

from stages.checkpoints.settings import with_methods
from stages.params import Settings, read_study, section

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor

    from stages.decided.auto import Resolved
    from stages.sample.context import Context

Target = Literal["base", "tuned"]
"""What a strategy is applied to: the base model alone, or every trained run."""
GUIDANCE = "guidance"
"""The strategy that `sample.guidance` stands for."""
BASE = "base"
"""What strategies call the base where they name a further network."""


class SweepPoint(NamedTuple):
    """One setting that a strategy samples at: its label (`k=10`) and the value of its free setting (10.0)."""

    label: str
    value: float


class Prefix(NamedTuple):
    """First `steps` sampling steps of the base alone at a guidance scale; its latents are shared among runs."""

    guidance: float
    steps: int


class Merge(NamedTuple):
    """A further network made of two: network + (1 - weight) (tuned - base), of weights. `name` is what strategies call
    it.
    """

    network: str
    weight: float

    @property
    def name(self) -> str:
        """Among further networks."""
        return f"{self.network} merged with weight {self.weight:g}"


def student(name: str) -> str:
    """What strategies call the consistency model `name` among further networks."""
    return f"consistency model {name}"


class StrategySettings(Settings, ABC):
    """A sampling strategy: an entry of `sample.strategies`, and how its images are made.

    A strategy's module defines a subclass called `Settings`, which adds its own keys. Most derive from one of the
    families: `Mixing` (`stages/sample/mixing.py`) changes the prediction of each step, `Search`
    (`stages/sample/search.py`) holds several candidates per image and asks a reward about them.
    """

    suits: ClassVar[tuple[Target, ...]] = ("base", "tuned")
    """What the strategy can be applied to at all."""

    kind: str = Field(description="module of stages/sample/strategies, or an installed strategy's name")
    apply_to: tuple[Target, ...] = Field(
        default=("tuned",), min_length=1, description="base: the base model alone; tuned: every trained run"
    )

    @field_validator("apply_to")
    @classmethod
    def _once(cls, apply_to: tuple[Target, ...]) -> tuple[Target, ...]:
        if len(set(apply_to)) < len(apply_to):
            raise ValueError(f"{apply_to[0]} stands twice, expected each once")
        return apply_to

    @property
    def auto(self) -> bool:
        """Whether the points are taken from what `decided` found, and are not known yet."""
        return False

    def decided(self, found: Resolved, steps: int) -> Self:
        """These settings with what `auto` stands for on a grid of `steps`; raises ValueError where that is nothing."""
        return self

    @abstractmethod
    def points(self) -> list[SweepPoint]:
        """The settings to sample at; not asked for where `auto` is not resolved."""

    @abstractmethod
    def sample(self, ctx: Context, value: float) -> Tensor:
        """Images [B, 3, H, W] in [0, 1], one per row of `ctx`, at one point's value. Called without gradient."""

    def check(self, sample: SampleSettings) -> None:
        """Raise ValueError when these settings do not fit the section `sample`."""

    def shared_prefix(self, value: float) -> Prefix | None:
        """First steps that are the base's own and that `Context.start` may therefore begin after; None for none."""
        return None

    def base_pass(self, value: float) -> float | None:
        """The guidance scale of the base if `sample`, applied to the base, is its plain sampling; else None.

        The latents that other strategies share are then taken from this pass.
        """
        return None

    def rewards(self) -> tuple[str, ...]:
        """Models of the study that `sample` asks about images."""
        return ()

    def needs_gradient(self) -> bool:
        """Whether the rewards have to be differentiable with respect to the image."""
        return False

    def networks(self) -> tuple[str, ...]:
        """Further trained networks that `sample` evaluates: names of runs, or of methods for their run of the same
        training seed.
        """
        return ()

    def critics(self) -> tuple[str, ...]:
        """Those of `rewards` that are asked which words of a prompt an image does not show, and not for a score."""
        return ()

    def aligners(self) -> tuple[str, ...]:
        """Those of `rewards` that change the condition of an image, and give no score."""
        return ()

    def students(self, target: Target) -> Mapping[str, str]:
        """Consistency models of the study that `sample` evaluates for the base, or for a trained run: the name in
        prepare.train.consistency by the setting that says it. Asked for the targets of `apply_to` alone.
        """
        return {}

    def grids(self) -> tuple[int, ...]:
        """Numbers of steps of the grids that `sample` lays on a noise schedule itself, in place of that of
        `sample.steps`; () where it takes that one.
        """
        return ()

    def annotators(self) -> tuple[str, ...]:
        """Annotators of the pairs for whom `sample` draws."""
        return ()

    def encodes(self) -> bool:
        """Whether `sample` embeds texts other than the prompts; the base's text encoders are loaded then."""
        return False

    def merges(self) -> tuple[Merge, ...]:
        """Networks that are made of one of `networks` and the tuned one."""
        return ()


class SampleSettings(Settings):
    """What is sampled, and how."""

    steps: int = Field(default=20, ge=1, description="T, sampling steps")
    sampler: Literal["ddpm", "ddim"] = Field(default="ddpm", description="ancestral or deterministic steps")
    samples_per_prompt: int = Field(default=8, ge=2, description="images per prompt; diversity needs at least two")
    batch_size: int = Field(default=96, ge=1, description="images, or candidates of images, per network call")
    compile: bool = Field(default=False, description="torch.compile for the networks; pays in jobs of many minutes")
    shards: int = Field(
        default=1, ge=1, le=1000, description="jobs that share out the images of a run, under Snakemake; same images"
    )
    guidance: tuple[Annotated[float, Field(ge=0)], ...] = Field(
        default=(1.0,),
        min_length=1,
        description="guidance scales of the base alone: short for a strategy `guidance` of kind guidance",
    )
    strategies: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="how images are made, of the base and of the runs"
    )

    @model_validator(mode="after")
    def _base_alone(self) -> SampleSettings:
        if 1.0 not in self.guidance:
            raise ValueError("guidance has no 1.0; the base without guidance is what every method is compared with")
        if GUIDANCE in self.strategies:
            raise ValueError(
                f"strategies.{GUIDANCE}: sample.guidance has this name already; call the strategy something else"
            )
        return self

    def entries(self) -> dict[str, dict[str, Any]]:
        """Every strategy by name, the one that `guidance` stands for included."""
        own = {"kind": "guidance", "scales": list(self.guidance), "apply_to": ["base"]}
        return {GUIDANCE: own, **self.strategies}


class StudySeed(Settings):
    """What sampling reads of section `study`: the seed of the evaluation noise."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    seed: int = Field(default=0, ge=0)


class RunIdentity(Settings):
    """What sampling reads of an entry of `runs`; a checkpoint is a method of the run's name."""

    method: str
    seed: int = Field(ge=0)

    @classmethod
    def read(cls, path: Path, run: str) -> RunIdentity:
        """That of `run` in the study at `path`; raises InputError where there is no such run."""
        raw = read_study(path)
        runs = raw.get("runs")
        return section(path, f"runs.{run}", cls, raw | {"runs": with_methods(runs)} if isinstance(runs, dict) else raw)
