"""The same work twice, on the same networks and numbers: by the stages' own code, and by the plain reference."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks import plain
from benchmarks.networks import GUIDANCE, STEPS, SWITCHES, Place, Shape, build, load
from stages import pictures, tables
from stages.encode.store import Encodings
from stages.finetune.batch import Batch
from stages.finetune.context import TrainingContext
from stages.finetune.paths import Paths
from stages.finetune.resolve import training_plan
from stages.models.diffusion import DiffusionModel
from stages.models.noise import KeyedNoise
from stages.models.policy import Policy, make_policy
from stages.prepare.import_settings import ImportSettings
from stages.prepare.source import import_model
from stages.rewards.base import load_reward
from stages.rewards.open_clip import OpenClip, tokenizer
from stages.runtime import device
from stages.sample.job import Identity, Sampling
from stages.sample.resolve import sampling_plan
from stages.sample.run import sample_base, sample_run
from stages.sample.suite import Suite

WEIGHT = 0.01
METHODS: dict[str, dict[str, Any]] = {
    "refl": {"kind": "refl", "middle": [30, 40]},
    "imagerefl": {"kind": "imagerefl", "start": 30, "middle": [30, 40], "diffusion_weight": WEIGHT},
    "draft1": {"kind": "draft_k", "k": 1, "train": {"sampling_steps": 31}},
}
"""Grids, windows and weight of the released configuration."""
MIDDLES = (31, 33, 36, 38)
"""Judged indices of one measurement, a micro-step each, together an optimizer step of four as in the released
configuration; their mean is that of the window 30 to 39.
"""


@dataclass(frozen=True)
class Made:
    """What one side made: the loss of each micro-step, or PNGs by switch step."""

    losses: list[float] = field(default_factory=list)
    images: dict[str, list[bytes]] = field(default_factory=dict)


@dataclass(frozen=True)
class Side:
    """Work to measure: `networks` are those whose evaluations count, `units` the images (times micro-steps) they are
    shared out over, `parameters` those that gather a gradient, `called` the networks whose calls are all of the work.
    """

    work: Callable[[], Any]
    networks: list[nn.Module]
    units: int
    parameters: dict[str, nn.Parameter] = field(default_factory=dict)
    called: dict[str, nn.Module] = field(default_factory=dict)

    def clear(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None


class Chosen(random.Random):
    """Draws nothing at random: always one index."""

    def __init__(self, index: int) -> None:
        super().__init__(0)
        self.index = index

    def randrange(self, *args: Any, **more: Any) -> int:
        """That index."""
        return self.index


@dataclass(frozen=True)
class Bench:
    """Networks, tables and encodings that everything is measured on; the sweep has `steps` steps, and k is 0 or one of
    `switches`.
    """

    place: Place
    shape: Shape
    model: DiffusionModel
    judge: OpenClip
    steps: int
    switches: tuple[int, ...]

    @classmethod
    def of(cls, root: Path, shape: Shape, steps: int = STEPS, switches: tuple[int, ...] = SWITCHES) -> Bench:
        """Everything anew, below `root`."""
        place = build(root, shape, METHODS, steps, switches)
        settings = ImportSettings(kind="open_clip", folder=str(place.reward))
        judge = load_reward(import_model("clip", settings, "benchmark"))
        return cls(place, shape, load(place), cast(OpenClip, judge), steps, switches)

    @property
    def latent(self) -> tuple[int, int, int]:
        """[C, h, w]."""
        return 4, self.shape.latent, self.shape.latent

    def training(
        self, name: str, middles: Sequence[int] = MIDDLES, compiled: bool = False, joined: bool = False
    ) -> tuple[Side, Side]:
        """Micro-steps of a method, one for each of `middles`: plain, and ours. With `joined`, ours makes the
        predictions with gradient of all micro-steps at once.
        """
        plan, encodings = training_plan(self.place.study, f"{name}-s0"), self.encodings()
        summed = plan.train.as_released.model_copy(update={"sum_accumulation": True})
        changes: dict[str, Any] = {"compile": compiled, "as_released": summed}
        if joined:
            changes["gradient_batch"] = len(middles) * self.shape.batch
        plan = replace(plan, train=plan.train.model_copy(update=changes))
        paths = Paths(self.place.base, self.place.reward, None, *self.place.encodings)
        context = TrainingContext(paths, self.model, encodings, {plan.study.reward: self.judge})
        policy, data = context.policy(plan), context.data(plan)
        trainer = context.trainer(plan, policy)

        def ours() -> Made:
            batches = [replace(data.batch(number, 0), rng=Chosen(m)) for number, m in enumerate(middles)]
            return Made([float(own["loss"]) for own in trainer.backward(batches)])

        reference, known = self._reference(plan.train.sampling_steps), self.pixels()
        batches = [data.batch(number, 0) for number in range(len(middles))]

        def theirs() -> Made:
            steps = zip(batches, middles, strict=True)
            return Made([_plain_step(reference, name, batch, known, m)["loss"] for batch, m in steps])

        units, network = len(middles) * self.shape.batch, reference.pipeline.unet
        return (
            Side(theirs, [network], units, dict(network.named_parameters())),
            Side(ours, [policy.network], units, dict(policy.parameters()), self._called(policy)),
        )

    def _called(self, policy: Policy) -> dict[str, nn.Module]:
        """The networks whose calls are the work of a training step, with nothing around them."""
        return {"policy": policy.network, "decoder": self.model.vae.network.decoder, "reward": self.judge.model.visual}

    def sampling(self, compiled: bool = False) -> tuple[Side, Side]:
        """The sweep of combined generation for one tuned network: plain, and ours."""
        policy = self.tuned()
        base, tuned = plain.Pipeline.read(self.place.base), plain.Pipeline.read(self.place.base)
        tuned.unet.load_state_dict(policy.network.state_dict())
        job, folder = self.job(policy, compiled), self.place.root / "samples"
        batches = job.suite.groups()

        def theirs() -> Made:
            found: dict[str, list[bytes]] = {}
            for batch in batches:
                prompts, draws = [item.text for item in batch.items], plain.Draws.like(batch.noise)
                made = plain.sweep(base, tuned, prompts, draws, self.latent, (0, *self.switches), self.steps, GUIDANCE)
                for k, files in made.items():
                    found.setdefault(f"k={k}", []).extend(files)
            return Made(images=found)

        def ours() -> Made:
            kept, samples = folder / "latents.safetensors", folder / "run.parquet"
            sample_base(job, folder / "base.parquet", kept)
            sample_run(job, Identity("tuned-s0", "tuned", 0), kept, samples)
            found: dict[str, list[bytes]] = {}
            for row in tables.read(samples, tables.SAMPLES).to_pylist():
                found.setdefault("k=0" if row["setting"] == "tuned" else row["setting"], []).append(row["image"])
            return Made(images=found)

        count = sum(len(batch) for batch in batches)
        return (
            Side(theirs, [base.unet, tuned.unet], count),
            Side(ours, [self.model.unet, policy.network], count),
        )

    def tuned(self, seed: int = 2) -> Policy:
        """A policy that differs from the base in every weight."""
        policy, draw = make_policy(self.model.unet, "full"), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for _, parameter in policy.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=draw))
        return policy

    def job(self, policy: Policy, compiled: bool = False) -> Sampling:
        """The sampling of the study, of whose base nothing but the shared steps is wanted."""
        plan = sampling_plan(self.place.study)
        settings = plan.sample.model_copy(update={"compile": compiled})
        plan = replace(plan, sample=settings, strategies=plan.of("tuned"))
        sample = plan.sample
        suite = Suite(self.encodings(), plan.seed, sample.samples_per_prompt, sample.batch_size, device())
        return Sampling.of(self.model, plan, suite, policy.network)

    def encodings(self) -> Encodings:
        """What the encode stage wrote."""
        return Encodings(*self.place.encodings, device())

    def pixels(self) -> dict[str, Tensor]:
        """Training pictures [3, H, W] in [-1, 1] by caption."""
        rows = tables.read(self.place.table("images"), tables.IMAGES).to_pylist()
        return {row["caption"]: 2 * pictures.tensor([row["image"]], "benchmark")[0] - 1 for row in rows}

    def _reference(self, steps: int) -> plain.Trainer:
        words = tokenizer(self.place.reward, self.judge.model)
        assert words is not None
        return plain.Trainer(plain.Pipeline.read(self.place.base), self.judge, words, self.latent, steps)


def _plain_step(
    reference: plain.Trainer, name: str, batch: Batch, known: dict[str, Tensor], m: int
) -> dict[str, float]:
    draws, some = plain.Draws.like(cast(KeyedNoise, batch.noise)), next(iter(known.values()))
    pixels = torch.stack([known.get(prompt, some) for prompt in batch.prompts])  # ReFL's pictures weigh nothing
    if name == "refl":
        return reference.refl(batch.prompts, pixels, draws, m, 0.0)
    if name == "imagerefl":
        return reference.imagerefl(batch.prompts, pixels, draws, METHODS[name]["start"], m, WEIGHT)
    return reference.draft(batch.prompts, draws)
