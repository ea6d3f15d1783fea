"""Learning from pairs of images, ours against the plain reference, side by side in one process; and encoding, once.

Both sides make one optimizer step of Diffusion-DPO (the gradient, without the update) on the same pairs, noise and
timesteps, and must come to the same losses and gradients before anything is timed. What ours saves is encoding: each
image and prompt is encoded once, before training. Those seconds are measured too, and how many steps make up for them.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import yaml

from benchmarks import plain
from benchmarks.machine import machine
from benchmarks.networks import WORDS, Place, Shape, build, load
from benchmarks.plain_pairs import PairBatch, PairTrainer
from benchmarks.sides import Made, Side
from benchmarks.steps import GRADIENT, differences, gradient_difference, once, timed
from stages import pictures, tables
from stages.encode.encode import encode
from stages.encode.settings import EncodeSettings
from stages.encode.store import Encodings
from stages.finetune.batch import Batch
from stages.finetune.context import TrainingContext
from stages.finetune.families.pair_settings import TimestepSettings
from stages.finetune.families.timesteps import Timesteps
from stages.finetune.paths import Paths
from stages.finetune.resolve import training_plan
from stages.models.noise import KeyedNoise
from stages.models.policy import Policy
from stages.prepare.import_settings import ImportSettings
from stages.prepare.source import import_model
from stages.rewards.base import load_reward
from stages.runtime import device, threads, whole_file

OUT = Path("benchmarks/results/pairs.json")
BETA = 5000.0
LOSS = 1e-3
"""How far losses may be apart, relative to their size: half of beta multiplies the rounding of errors near 1."""
METHOD = {"dpo": {"kind": "diffusion_dpo", "beta": BETA}}
PAIRS = 32
"""Pairs of the table; an optimizer step takes some of them."""


@dataclass(frozen=True)
class PairRow:
    """One line of the table: pairs of an optimizer step, micro-batches of either side, whether ours evaluates them all
    at once, which parts are trained, seconds of every repetition, differences relative to the size, and the processor's
    seconds of encoding a pair once.
    """

    pairs: int
    plain_micro: int
    micro: int
    joined: bool
    trainable: str
    plain_seconds: list[float]
    seconds: list[float]
    plain_cpu_seconds: list[float]
    cpu_seconds: list[float]
    differences: dict[str, float]
    encode_seconds_per_pair: float

    def as_dict(self) -> dict[str, Any]:
        """For the results file; `repaid` is the number of times a pair is trained on until encoding it has paid."""
        median = statistics.median
        saved = (median(self.plain_cpu_seconds) - median(self.cpu_seconds)) / self.pairs
        ratios = {
            "ratio": median(self.plain_seconds) / median(self.seconds),
            "cpu_ratio": median(self.plain_cpu_seconds) / median(self.cpu_seconds),
            "repaid": self.encode_seconds_per_pair / saved if saved > 0 else None,
        }
        return asdict(self) | ratios


@dataclass(frozen=True)
class PairBench:
    """Networks, pairs and their encodings; `encode_seconds` of the processor is what encoding all of them took."""

    place: Place
    shape: Shape
    encode_seconds: float

    @classmethod
    def of(cls, root: Path, shape: Shape) -> PairBench:
        """Everything anew, below `root`."""
        place = build(root, shape, METHOD)
        _pairs(place, shape)
        model = load(place, ("vae", "text_encoder"))
        began = time.process_time()
        tables_of = place.table("prompts"), place.table("images")
        encode(model, *tables_of, *place.encodings, EncodeSettings(), compared=place.table("pairs"))
        return cls(place, shape, time.process_time() - began)

    def sides(
        self, pairs: int, plain_micro: int, micro: int, joined: bool = False, trainable: str = "full"
    ) -> tuple[Side, Side]:
        """An optimizer step on so many pairs: plain in `plain_micro` micro-batches, ours in `micro`, which `joined` are
        evaluated at once.
        """
        study = yaml.safe_load(self.place.study.read_text())
        study["finetune"] |= {"batch_size": pairs, "accumulate": micro, "trainable": trainable}
        study["finetune"]["gradient_batch"] = 2 * pairs if joined else 1
        params = self.place.root / f"pairs-{pairs}-{micro}-{joined}-{trainable}.yaml"
        params.write_text(yaml.safe_dump(study))
        plan, encodings = training_plan(params, "dpo-s0"), Encodings(*self.place.encodings, device())
        judge = load_reward(import_model("clip", _clip(self.place), "benchmark"))
        paths = Paths(self.place.base, self.place.reward, None, *self.place.encodings)
        context = TrainingContext(paths, load(self.place), encodings, {plan.study.reward: judge})
        policy, data = context.policy(plan), context.data(plan)
        trainer = context.trainer(plan, policy)

        def ours() -> Made:
            return Made([float(np.mean([float(own["loss"]) for own in trainer.backward(data.batches(0))]))])

        whole = replace(data, accumulate=1).batch(0, 0)
        # timesteps as the micro-batches of ours draw them: all others draws belong to a pair, not to a micro-batch
        law = Timesteps(TimestepSettings(), context.model.process)
        t = torch.cat([law.draw(copy.deepcopy(b.rng), len(b.prompts)) for b in data.batches(0)])
        reference = PairTrainer(plain.Pipeline.read(self.place.base), plain.Pipeline.read(self.place.base), BETA)
        _move(policy)  # at the start every margin is 0, so that losses would agree whatever the sides do
        reference.pipeline.unet.load_state_dict(policy.network.state_dict())
        parts = _split(self._plain(whole, encodings, t), plain_micro)

        def theirs() -> Made:
            return Made([float(np.mean(reference.step(parts)))])

        network = reference.pipeline.unet
        return (
            Side(theirs, [network, reference.reference.unet], 2 * pairs, dict(network.named_parameters())),
            Side(ours, [policy.network], 2 * pairs, dict(policy.parameters())),
        )

    def _plain(self, batch: Batch, encodings: Encodings, t: torch.Tensor) -> PairBatch:
        """The same pairs as pixels."""
        rows = tables.read(self.place.table("images"), tables.IMAGES).to_pylist()
        pixels = {row["image_id"]: 2 * pictures.tensor([row["image"]], "benchmark")[0] - 1 for row in rows}
        by_text = {pair.text: pair for pair in encodings.pairs("train")}  # every pair has a prompt of its own
        chosen = [by_text[prompt] for prompt in batch.prompts]
        winner, loser = (
            torch.stack([pixels[getattr(pair, side).item_id] for pair in chosen]) for side in ("winner", "loser")
        )
        return PairBatch(batch.prompts, winner, loser, t, plain.Draws.like(cast(KeyedNoise, batch.noise)))


def _move(policy: Policy) -> None:
    """Change every weight a little, always alike."""
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for _, parameter in policy.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=draw))


def _clip(place: Place) -> ImportSettings:
    return ImportSettings(kind="open_clip", folder=str(place.reward))


def _split(whole: PairBatch, count: int) -> list[PairBatch]:
    size = len(whole.prompts) // count
    found = []
    for first in range(0, size * count, size):
        rows = slice(first, first + size)
        draws = plain.Draws(whole.draws.seed, whole.draws.keys[rows])
        found.append(PairBatch(whole.prompts[rows], whole.winner[rows], whole.loser[rows], whole.t[rows], draws))
    return found


def _pairs(place: Place, shape: Shape) -> None:
    """A table of pairs, each with a prompt and two images of its own, beside the captioned images."""
    draw, side = np.random.default_rng(1), 8 * shape.latent
    images = tables.read(place.table("images"), tables.IMAGES).to_pylist()
    rows = []
    for n in range(PAIRS):
        text = f"{WORDS[n % 4]} {WORDS[4 + n // 4 % 4]} {WORDS[8 + n // 16 % 4]} left"
        for name in (f"a{n}", f"b{n}"):
            smooth = np.kron(draw.uniform(0, 255, (8, 8, 3)), np.ones((side // 8, side // 8, 1)))
            images.append({
                "image_id": name, "caption": text, "image": pictures.encode(smooth.astype(np.uint8)), "width": side,
                "height": side, "split": "pairs", "group": name, "source": "made", "attributes": None,
            })  # fmt: skip
        rows.append({
            "pair_id": f"q{n}", "prompt": text, "image_a": f"a{n}", "image_b": f"b{n}", "preference": float(n % 2),
            "split": "train", "source": "made",
        })  # fmt: skip
    tables.write(place.table("images"), tables.table(tables.IMAGES, images), tables.IMAGES)
    tables.write(place.table("pairs"), tables.table(tables.PAIRS, rows), tables.PAIRS)


CASES = ((16, 4, 4, False), (16, 16, 16, False), (16, 4, 4, True), (16, 16, 16, True))
"""Pairs of an optimizer step, micro-batches of the plain side and of ours, four pairs or one each (as the release is
started), and whether ours evaluates them all at once.
"""
AUTOENCODER = (16, 32, 48, 48)
"""Channels of the autoencoder's blocks: about a tenth of Stable Diffusion 1.5's 128, 256, 512, 512, for a UNet of 32 in
place of 320. What encoding costs beside the UNet depends on it.
"""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pairs", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="timed repetitions of each side (default: 5)")
    parser.add_argument("--width", type=int, default=Shape.width, help="channels of the UNet's first block")
    parser.add_argument("--out", type=Path, default=OUT, help=f"the numbers, as JSON (default: {OUT})")
    args = parser.parse_args()
    torch.set_num_threads(threads())
    shape, load_before = Shape(width=args.width, autoencoder=AUTOENCODER), os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="pairs-") as folder:
        bench = PairBench.of(Path(folder) / "pairs", shape)
        about = machine() | {"threads": threads(), "load_before": load_before, "shape": shape.as_dict()}
        about |= {"encoded_pairs": PAIRS, "encode_seconds": bench.encode_seconds}
        rows = []
        for row in measured(bench, args.repeats):
            print(json.dumps(row.as_dict()), flush=True)
            rows.append(row.as_dict())
            with whole_file(args.out) as partial:
                partial.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


def measured(bench: PairBench, repeats: int) -> Iterator[PairRow]:
    """The rows of `CASES`; raises SystemExit where the two sides disagree."""
    for pairs, plain_micro, micro, joined in CASES:
        reference, ours = bench.sides(pairs, plain_micro, micro, joined)
        found = compared(reference, ours)
        if found["loss"] > LOSS or not 0 <= found["gradient"] <= GRADIENT:
            raise SystemExit(f"error: {pairs} pairs: ours and the plain reference differ: {found}")
        spent: tuple[list[tuple[float, float]], ...] = ([], [])
        for turn in range(repeats):
            for number in (0, 1) if turn % 2 else (1, 0):  # neither always goes first
                spent[number].append(timed((reference, ours)[number]))
        (theirs, theirs_cpu), (mine, mine_cpu) = (map(list, zip(*one, strict=True)) for one in spent)
        cost = (theirs, mine, theirs_cpu, mine_cpu)
        yield PairRow(pairs, plain_micro, micro, joined, "full", *cost, found, bench.encode_seconds / PAIRS)


def compared(reference: Side, ours: Side) -> dict[str, float]:
    """Relative differences of the mean loss and of the gradient."""
    (theirs, _), (made, _) = once(reference), once(ours)
    return differences(theirs, made) | gradient_difference(reference, ours)


if __name__ == "__main__":
    main()
