"""Sample the evaluation prompts: the base over its guidance scales, and one run over its strategies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor, nn

from stages import pictures, tables
from stages.errors import InputError
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser, DiffusionModel, Predict
from stages.models.policy import Policy, unchanged
from stages.models.process import Grid
from stages.models.sampler import Enter, finish, walk
from stages.processes import ALONE, Processes
from stages.resume import State, Unit, packed, unpacked
from stages.runtime import progress
from stages.sample import latents
from stages.sample.networks import Networks
from stages.sample.resolve import Plan, Strategy
from stages.sample.suite import Batch, Suite
from stages.shards import WHOLE, Shard


@dataclass(frozen=True)
class Identity:
    """Whose images: a run of the study with its method and training seed, or the base."""

    run: str
    method: str
    train_seed: int


BASE = Identity("base", "base", 0)
IMAGES = "images"
"""Name of the rows of a batch among what is kept of it; the other names are those of latents."""


@dataclass(frozen=True)
class Images:
    """The images of one batch, as PNG, with what each cost: network evaluations and seconds."""

    png: list[bytes]
    nfe: int
    seconds: float

    def table(self, batch: Batch, whose: Identity, strategy: str, setting: str, value: float) -> pa.Table:
        """Rows of the samples table."""
        shared = {
            "run": whose.run, "method": whose.method, "train_seed": whose.train_seed, "strategy": strategy,
            "setting": setting, "value": value, "nfe": self.nfe, "seconds": self.seconds,
        }  # fmt: skip
        rows = zip(batch.items, batch.samples, self.png, strict=True)
        return tables.table(
            tables.SAMPLES,
            [shared | {"prompt_id": i.item_id, "prompt": i.text, "sample": n, "image": png} for i, n, png in rows],
        )


@dataclass(frozen=True)
class Painter:
    """Makes images with any noise prediction."""

    model: DiffusionModel
    plan: Plan
    suite: Suite
    grid: Grid
    empty: Conditioning

    @classmethod
    def of(cls, model: DiffusionModel, plan: Plan, suite: Suite) -> Painter:
        """The painter of a study's sampling settings."""
        return cls(model, plan, suite, model.process.grid(plan.sample.steps), suite.encodings.empty())

    def denoiser(self, network: nn.Module) -> Denoiser:
        """The network on the schedule, with a count of its own."""
        return Denoiser(network, self.model.process, quick=self.plan.sample.compile)

    def text(self, batch: Batch) -> Conditioning:
        """What a batch is conditioned on."""
        return self.suite.encodings.text(batch.items)

    def paint(
        self,
        batch: Batch,
        predict: Predict,
        counters: list[Denoiser],
        prefix: tuple[int, Tensor] | None = None,
        prefix_nfe: int = 0,
        seen: Callable[[int, Tensor], None] | None = None,
        enter: Enter | None = None,
    ) -> Images:
        """Images of a batch, from noise or from `prefix`, (index, latents entering it); `counters` made the
        evaluations.

        `prefix_nfe` is added to the evaluations: an image is charged as if it had been made alone.
        """
        began = time.monotonic()
        start, x = prefix if prefix is not None else (0, batch.noise.initial())
        clean = finish(self.grid, predict, x, start, batch.noise, self.plan.sample.sampler, seen, enter)
        decoded = self.model.vae.decode(clean)
        if not bool(torch.isfinite(decoded).all()):
            first = next(n for n, image in enumerate(decoded) if not bool(torch.isfinite(image).all()))
            raise InputError(f"sampling: the image of {batch.items[first].text[:60]!r} is not finite; broken weights?")
        png = pictures.png(decoded)
        evaluations = sum(counter.evaluations for counter in counters) // len(batch)
        return Images(png, evaluations + prefix_nfe, (time.monotonic() - began) / len(batch))

    def pass_on(
        self, batch: Batch, predict: Predict, switches: Sequence[int], seen: Callable[[int, Tensor], None]
    ) -> None:
        """Latents entering every switch step short of T, without the steps after the last of them."""
        last = max((k for k in switches if k < len(self.grid)), default=0)
        x = walk(self.grid, predict, batch.noise.initial(), 0, last, batch.noise, self.plan.sample.sampler, seen)
        seen(last, x)

    def released(self, batch: Batch, predict: Predict, k: int) -> Tensor:
        """The base's latents for k = 0 or k = T as the released code makes them: a stray step, or every step."""
        sampler, x = self.plan.sample.sampler, batch.noise.initial()
        return walk(self.grid, predict, x, 0, k, batch.noise, sampler, extra_step=True)


@torch.no_grad()
def sample_base(
    painter: Painter, samples: Path, kept: Path, state: State | None = None, processes: Processes = ALONE
) -> int:
    """Images of the base at every guidance scale, and its latents at every switch step; returns the number of
    images. Batches that `state` holds are not made again; the others are shared out among `processes`, of which the
    first one writes.
    """
    asked, switches = painter.plan.sample.guidance, painter.plan.switches()
    work = [(scale, batch) for scale in dict.fromkeys([*asked, *switches]) for batch in painter.suite.batches()]
    store: dict[str, list[Tensor]] = {}

    def make(item: tuple[float, Batch]) -> Unit:
        scale, batch = item
        unit: Unit = {}

        def keep(i: int, x: Tensor) -> None:
            if i > 0 and i in switches.get(scale, ()):
                unit[latents.key(scale, i)] = x.cpu()

        base = painter.denoiser(painter.model.unet)
        predict = base.predict(painter.grid, painter.text(batch), painter.empty, scale)
        if scale in asked:
            images = painter.paint(batch, predict, [base], seen=keep)
            unit[IMAGES] = packed(images.table(batch, BASE, "guidance", f"g={scale:g}", scale))
        else:
            painter.pass_on(batch, predict, switches[scale], keep)
        for k in {0, len(painter.grid)}.intersection(switches.get(scale, ())):
            unit[latents.key(scale, k)] = painter.released(batch, predict, k).cpu()
        return unit

    def parts() -> Iterator[pa.Table]:
        units = (state or State()).results("base", range(len(work)), processes.turns(work, make))
        for unit in progress(units, len(work), "sample base"):
            for name, x in unit.items():
                if name == IMAGES:
                    yield unpacked(x)
                else:
                    store.setdefault(name, []).append(x)

    count = _written(samples, parts(), processes)
    if processes.first:
        latents.save(kept, {name: torch.cat(pieces) for name, pieces in store.items()})
    processes.wait()
    return count


@torch.no_grad()
def sample_run(
    painter: Painter, policy: Policy, whose: Identity, kept: Path, samples: Path, state: State | None = None,
    processes: Processes = ALONE, shard: Shard = WHOLE,
) -> int:  # fmt: skip
    """Images of one run by every strategy at every setting; returns the number of images. Batches that `state` holds
    are not made again; the others are shared out among `processes`, of which the first one writes. Batches of other
    shards are left out.
    """
    points = [(s, label, value) for s in painter.plan.strategies for label, value in s.settings.points()]
    work = shard.of([(*point, batch) for point in points for batch in painter.suite.batches()])
    policy.network.eval()

    def make(item: tuple[Strategy, str, float, Batch]) -> Unit:
        strategy, label, value, batch = item
        base, tuned = painter.denoiser(painter.model.unet), painter.denoiser(policy.network)
        networks = Networks(painter.grid, painter.text(batch), painter.empty, base, tuned)
        predict = strategy.module.predict(networks, strategy.settings, value)
        enter = None
        if hasattr(strategy.module, "renoise"):
            enter = strategy.module.renoise(networks, strategy.settings, value, batch.noise)
        prefix, prefix_nfe = shared_prefix(strategy, value, batch, kept, painter.suite.device)
        with unchanged():
            images = painter.paint(batch, predict, [base, tuned], prefix, prefix_nfe, enter=enter)
        return {IMAGES: packed(images.table(batch, whose, strategy.name, label, value))}

    def parts() -> Iterator[pa.Table]:
        units = (state or State()).results("run", range(len(work)), processes.turns(work, make))
        for unit in progress(units, len(work), f"sample {whose.run}"):
            if IMAGES in unit:
                yield unpacked(unit[IMAGES])

    count = _written(samples, parts(), processes, shard)
    processes.wait()
    return count


def _written(samples: Path, parts: Iterator[pa.Table], processes: Processes, shard: Shard = WHOLE) -> int:
    """The number of images written: all of them by the first process, which gets the batches of the others."""
    if processes.first:
        return tables.write(samples, parts, shard.marked(tables.SAMPLES))
    return sum(part.num_rows for part in parts)


def shared_prefix(
    strategy: Strategy, value: float, batch: Batch, kept: Path, device: torch.device
) -> tuple[tuple[int, Tensor] | None, int]:
    """Where the strategy goes on from the base's shared pass, as (index, latents), and the evaluations that it cost."""
    settings = strategy.settings
    start = settings.shared_steps(value)
    if start is None:
        return None, 0
    x = latents.load(kept, latents.key(settings.base_guidance, start), batch.first, len(batch), device)
    return (start, x), max(start, 1) * (1 if settings.base_guidance == 1.0 else 2)
