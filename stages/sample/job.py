"""One sampling job: its networks, prompts and settings, and the images of one group of prompts."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import torch
from torch import Tensor, nn

from stages import pictures, tables
from stages.errors import InputError
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser, DiffusionModel, Predict
from stages.models.merging import merged
from stages.models.process import Grid
from stages.models.sampler import OnStep, denoise
from stages.rewards.base import Reward
from stages.runtime import lacks_memory, memory_wanted
from stages.sample.attention import CrossAttention
from stages.sample.context import Context
from stages.sample.further_texts import FurtherTexts
from stages.sample.meter import Cost
from stages.sample.networks import Networks, Rows
from stages.sample.resolve import SamplingPlan, Strategy
from stages.sample.settings import SweepPoint
from stages.sample.suite import Group, Suite
from stages.sample.texts import Texts

TOO_LARGE = "cannot be converted to type float without overflow"
"""What torch says of a factor that is too large for float32."""


@dataclass(frozen=True)
class Identity:
    """Whose images: a run of the study with its method and training seed, or the base."""

    run: str
    method: str
    train_seed: int


@dataclass(frozen=True)
class RecordedReward:
    """A reward that strategies may ask, and the digest of its record."""

    reward: Reward
    digest: str


@dataclass(frozen=True)
class Images:
    """The images of one group, as PNG, with the cost of each and the seconds that all of them took."""

    png: list[bytes]
    costs: list[Cost]
    seconds: float

    def rows(self) -> Iterator[dict[str, object]]:
        """Columns of the samples table; the seconds are shared out by network evaluations."""
        total = sum(cost.nfe for cost in self.costs)
        for png, cost in zip(self.png, self.costs, strict=True):
            share = cost.nfe / total if total else 1 / len(self.costs)
            yield {"image": png, "seconds": self.seconds * share, **cost._asdict()}


@dataclass(frozen=True)
class Task:
    """Images of one group at one point of a strategy."""

    group: Group
    strategy: Strategy
    point: SweepPoint


@dataclass(frozen=True)
class Sampling:
    """The networks, prompts and settings of one sampling job.

    `tuned` is the network of the run, None where the base is sampled; `others` are further trained networks and
    `rewards` those that strategies may use, by name.
    """

    model: DiffusionModel
    plan: SamplingPlan
    suite: Suite
    grid: Grid
    empty: Conditioning
    tuned: nn.Module | None = None
    others: Mapping[str, nn.Module] = field(default_factory=dict)
    rewards: Mapping[str, RecordedReward] = field(default_factory=dict)
    embed: FurtherTexts | None = None

    @classmethod
    def of(
        cls,
        model: DiffusionModel,
        plan: SamplingPlan,
        suite: Suite,
        tuned: nn.Module | None = None,
        others: Mapping[str, nn.Module] | None = None,
        rewards: Mapping[str, RecordedReward] | None = None,
    ) -> Sampling:
        """A job with a study's sampling settings; freezes trained networks and makes those that strategies merge."""
        others = dict(others or {})
        for network in (tuned, *others.values()):
            if network is not None:  # strategies follow gradients in latents, never in weights
                network.eval().requires_grad_(False)
        for merge in {merge for strategy in plan.of("tuned") for merge in strategy.settings.merges()}:
            if tuned is not None:
                others[merge.name] = merged(others[merge.network], tuned, model.unet, merge.weight)
        grid, empty = model.process.grid(plan.sample.steps), suite.encodings.empty()
        embed = FurtherTexts(model) if "text_encoder" in model.parts else None
        return cls(model, plan, suite, grid, empty, tuned, others, rewards or {}, embed)

    def context(self, group: Group, start: tuple[int, Tensor] | None = None, on_step: OnStep | None = None) -> Context:
        """What a strategy works with for a group, with counts of its own."""
        networks = Networks(
            self.grid,
            Texts.of(self.suite.encodings.text(group.items)),
            self.empty,
            self.denoiser(self.model.unet),
            None if self.tuned is None else self.denoiser(self.tuned),
            Rows.of(len(group), self.plan.sample.batch_size),
            {name: self.denoiser(network) for name, network in self.others.items()},
        )
        return Context(
            networks,
            group.noise,
            [item.text for item in group.items],
            [0] * len(group),
            self.plan.sample.sampler,
            self.model.vae.decode,
            {name: given.reward for name, given in self.rewards.items()},
            start,
            on_step,
            CrossAttention(self.model),
            embed=self.embed,
        )

    @property
    def identity(self) -> str:
        """Identifies what decides the base's latents: the base, the prompts, their noise, steps and sampler."""
        items = [(item.item_id, item.text) for item in self.suite.encodings.prompts("eval")]
        sample, each = self.plan.sample, self.suite.samples_per_prompt
        parts = [self.model.record.digest, self.suite.seed, sample.steps, sample.sampler, each, items]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    @property
    def networks(self) -> list[nn.Module]:
        """Every network that is evaluated as it is; compiled ones are not."""
        if self.plan.sample.compile:
            return []
        return [self.model.unet, *([] if self.tuned is None else [self.tuned]), *self.others.values()]

    def denoiser(self, network: nn.Module) -> Denoiser:
        """The network, with a count of its own."""
        return Denoiser(network, self.model.process, quick=self.plan.sample.compile)

    def images(self, ctx: Context, task: Task) -> Images:
        """The images of a context, which are charged for a shared prefix as if they had been made alone."""
        began = time.monotonic()
        settings, value = task.strategy.settings, task.point.value
        prefix = settings.shared_prefix(value)
        if ctx.start is not None and prefix is not None:
            # a prefix of no steps is the stray step that the released code makes there
            ctx.rows.meter.add("nfe", ctx.rows.images, max(prefix.steps, 1) * (1 if prefix.guidance == 1.0 else 2))
        try:
            made = settings.sample(ctx, value)
        except (MemoryError, RuntimeError) as error:
            where = f"sampling: strategies.{task.strategy.name} at {task.point.label}"
            if TOO_LARGE in str(error):
                raise InputError(f"{where}: a number of its settings is too large for float32") from error
            if not lacks_memory(error):
                raise
            raise InputError(f"{where}: not enough memory: {memory_wanted(error)}") from error
        if not bool(torch.isfinite(made).all()):
            first = next(n for n, image in enumerate(made) if not bool(torch.isfinite(image).all()))
            raise InputError(f"sampling: the image of {ctx.prompts[first][:60]!r} is not finite; broken weights?")
        return Images(pictures.png(made), ctx.rows.meter.costs(), time.monotonic() - began)

    def table(self, images: Images, task: Task, whose: Identity) -> pa.Table:
        """Rows of the samples table."""
        rewards = task.strategy.settings.rewards()
        shared = {
            "run": whose.run, "method": whose.method, "train_seed": whose.train_seed, "strategy": task.strategy.name,
            "setting": task.point.label, "value": task.point.value, "rewards": list(rewards),
            "reward_digests": [self.rewards[name].digest for name in rewards],
        }  # fmt: skip
        rows = zip(task.group.items, task.group.samples, images.rows(), strict=True)
        return tables.table(
            tables.SAMPLES,
            [shared | {"prompt_id": i.item_id, "prompt": i.text, "sample": n} | columns for i, n, columns in rows],
        )

    def base_latents(self, ctx: Context, scale: float, keep: Sequence[int], on_step: OnStep) -> None:
        """Latents of the base entering each of the steps `keep` short of T, without the steps after the last."""
        last = max((k for k in keep if k < len(self.grid)), default=0)
        x = denoise(self.grid, ctx.networks.base(scale), ctx.noise.initial(), 0, last, ctx.noise, ctx.sampler, on_step)
        on_step(last, x)

    def released(self, group: Group, scale: float, k: int) -> Tensor:
        """The base's latents for k = 0 or k = T as the released code makes them: a stray step, or every step."""
        ctx = self.context(group)
        predict: Predict = ctx.networks.base(scale)
        return denoise(self.grid, predict, ctx.noise.initial(), 0, k, ctx.noise, ctx.sampler, extra_step=True)
