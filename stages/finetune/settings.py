"""Sections `finetune`, `methods` and `runs` of a study file, as far as all methods share them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from stages.finetune.needs import Needs
from stages.params import Settings

if TYPE_CHECKING:
    from stages.decided.auto import Resolved

Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSettings(Settings):
    """AdamW on the mean loss of a step."""

    lr: float = Field(default=5e-5, gt=0, description="learning rate, constant")
    betas: tuple[Decay, Decay] = Field(default=(0.9, 0.999), description="decay of the two moments")
    eps: float = Field(default=1e-8, gt=0, description="Adam's epsilon")
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled weight decay")
    clip_norm: float | None = Field(default=1.0, gt=0, description="largest norm of the whole gradient; null for none")


class LoraSettings(Settings):
    """Low-rank updates, used when `trainable` is lora."""

    rank: int = Field(default=8, ge=1, description="rank of the updates")
    alpha: float = Field(default=8.0, gt=0, description="updates are scaled by alpha / rank")
    targets: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=("to_q", "to_k", "to_v", "to_out.0"), min_length=1, description="ends of the names of updated layers"
    )


class ProbeSettings(Settings):
    """A small fixed set of training prompts that is sampled and scored while training goes on."""

    every: int = Field(default=20, ge=1, description="optimizer steps between two probes")
    prompts: int = Field(default=8, ge=1, description="training prompts in the probe")
    samples: int = Field(default=4, ge=2, description="images per prompt")
    oracle: str | None = Field(
        default=None,
        description="oracle, a model that says what images show, whose attribute diversity is probed too; null: none",
    )


class BudgetSettings(Settings):
    """How long to train, the same for every method: in optimizer steps, or in compute."""

    steps: int | None = Field(default=None, ge=1, description="optimizer steps, in place of `finetune.steps`")
    compute: float | None = Field(
        default=None,
        gt=0,
        description="network evaluations of one image, one with gradient counted as three; steps follow from it",
    )

    @model_validator(mode="after")
    def _one(self) -> BudgetSettings:
        if (self.steps is None) == (self.compute is None):
            raise ValueError("expected either steps or compute")
        return self


class AsReleased(Settings):
    """What the released ImageReFL code does and its paper does not say; all off. See docs/reproduction.md."""

    double_step: bool = Field(
        default=False, description="two optimizer steps per gradient, the first on the gradient times 65536"
    )
    extra_step: bool = Field(
        default=False, description="a rollout that starts where it stops makes one step, at the index before"
    )
    sum_accumulation: bool = Field(default=False, description="losses of micro-batches are summed instead of averaged")
    loss_scale: float = Field(
        default=1.0, gt=0, description="factor of the whole loss (0.001 there); with Adam it makes eps larger"
    )


class FinetuneSettings(Settings):
    """How a policy is trained; a method may override any of it under `methods.<name>.train`."""

    steps: int = Field(default=100, ge=1, description="optimizer steps")
    budget: BudgetSettings | None = Field(
        default=None, description="steps, or compute from which the steps of each method follow; null: `steps`"
    )
    batch_size: int = Field(default=16, ge=1, description="images per optimizer step, over accumulation")
    accumulate: int = Field(default=1, ge=1, description="micro-batches per optimizer step; divides batch_size")
    sampling_steps: int = Field(default=20, ge=1, description="T of the rollouts")
    sampler: Literal["ddpm", "ddim"] = Field(
        default="ddpm", description="ancestral or deterministic steps in the rollouts"
    )
    guidance: float = Field(default=1.0, ge=0, description="classifier-free guidance in the rollouts; 1 is none")
    trainable: Literal["norm_affine", "lora", "full"] = Field(
        default="full", description="what is trained of the network"
    )
    lora: LoraSettings = Field(default_factory=LoraSettings)
    optimizer: OptimizerSettings = Field(default_factory=OptimizerSettings)
    reward_scale: float = Field(default=1.0, gt=0, description="factor of the reward in the loss")
    reward_offset: float = Field(
        default=0.0, description="added to the reward before scaling; no gradient depends on it"
    )
    ema: float | None = Field(
        default=None, gt=0, lt=1, description="decay of averaged weights, which are then the ones saved"
    )
    precision: Literal["float32", "bfloat16"] = Field(default="float32", description="autocast of the networks")
    compile: bool = Field(
        default=False, description="torch.compile for evaluations without gradient; pays in long rollouts"
    )
    gradient_checkpointing: bool = Field(default=False, description="recompute activations in the backward pass")
    judge_batch: int = Field(default=16, ge=1, description="images decoded and scored at a time; bounds memory")
    rollout_batch: int = Field(
        default=16,
        ge=1,
        description="images rolled out at a time where an optimizer step has several micro-batches; bounds memory",
    )
    gradient_batch: int = Field(
        default=1,
        ge=1,
        description="images of one or more whole micro-batches whose predictions with gradient are made at once, where "
        "the method allows it: faster, and more activations in memory",
    )
    probe: ProbeSettings = Field(default_factory=ProbeSettings)
    nonfinite: Literal["stop", "skip"] = Field(
        default="stop", description="a step whose loss or gradient is NaN or infinite ends the run, or is left out"
    )
    as_released: AsReleased = Field(default_factory=AsReleased)

    @model_validator(mode="after")
    def _micro_batches(self) -> FinetuneSettings:
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of accumulate {self.accumulate}")
        return self

    def overridden(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """These settings as a dictionary with `changes` laid over them, sections merged key by key; a budget, which is
        either in steps or in compute, is replaced.
        """
        own = self.model_dump(exclude={"budget"} if "budget" in changes else None)
        return _merged(own, changes)


class MethodSettings(Settings):
    """What every entry of `methods` may say; a method's module adds its own keys."""

    kind: str = Field(description="module of stages/finetune/methods, or an installed method's name")
    train: dict[str, Any] = Field(default_factory=dict, description="keys of `finetune` that differ for this method")
    source: str | None = Field(
        default=None, description="name of the one source of `curate.images` whose images are trained on; null for all"
    )

    @property
    def auto(self) -> bool:
        """Whether a key is taken from what `decided` found, and is not known yet."""
        return False

    def decided(self, found: Resolved, steps: int) -> Self:
        """These settings with what `auto` stands for on a grid of `steps`; raises ValueError where that is nothing."""
        return self

    @property
    def needs(self) -> Needs:
        """What the method needs with these settings: prompts and the reward's gradient, if nothing else is said."""
        return Needs()

    def check(self, train: FinetuneSettings) -> None:
        """Raise ValueError when these settings do not go with `train`."""

    def grids(self) -> tuple[int, ...]:
        """Numbers of steps of the grids that the method lays on a noise schedule itself, in place of that of
        `finetune.sampling_steps`; () where it takes that one.
        """
        return ()

    def shares(self, train: FinetuneSettings) -> dict[str, int]:
        """What of a micro-batch has to divide evenly among several processes: the count of each, by name."""
        return {"images": train.batch_size // train.accumulate}


class RunSettings(Settings):
    """One entry of `runs`: a method and a training seed; its key is `<method>-s<seed>`."""

    TAG: ClassVar[str] = "<trained>"

    method: str
    seed: int = Field(ge=0)


class StudySettings(Settings):
    """What fine-tuning reads of section `study`: names of the rewards, and the seed of the probe's noise."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    seed: int = Field(default=0, ge=0)
    reward: str
    heldout: str


def check_stochastic(kl_weight: float, train: FinetuneSettings) -> None:
    """Raise ValueError where a divergence of sampling steps is asked for, but they are deterministic, or some of them
    are made twice as in the released code, which has no such term.
    """
    if kl_weight and train.sampler != "ddpm":
        raise ValueError(f"kl_weight needs stochastic steps, expected finetune.sampler ddpm, found {train.sampler}")
    if kl_weight and train.as_released.extra_step:
        raise ValueError("kl_weight does not go with as_released.extra_step, expected one of them")


def check_window(name: str, window: tuple[int, int], steps: int, low: int = 0) -> None:
    """Raise ValueError unless `low` <= window[0] < window[1] <= steps."""
    first, last = window
    if not low <= first < last <= steps:
        raise ValueError(f"{name} [{first}, {last}) is not a range of indices within {low} and sampling_steps {steps}")


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if nested else value
    return merged
