"""Rollouts by the sampling strategies and the sampling loop: base, tuned, combined, annealed guidance."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from stages.errors import InputError
from stages.models.diffusion import Denoiser, Predict
from stages.models.noise import GivenNoise
from stages.models.sampler import denoise, finish
from stages.parity.checks import VALUE, Check, compare, same
from stages.parity.parts import rollout_steps
from stages.parity.reference import ParitySet
from stages.parity.rounding import with_rounding
from stages.sample.mixing import Predicting
from stages.sample.networks import Networks, Rows
from stages.sample.resolve import strategy
from stages.sample.settings import SampleSettings
from stages.sample.texts import Texts

CLIPPED = 1e-4  # of all pixels: those that lie on the edge of the range may fall to either side


@dataclass(frozen=True)
class Path:
    """What happened on a rollout: the index, the latents and the prediction of every step."""

    indices: list[int]
    latents: list[Tensor]
    predictions: list[Tensor]

    def watch(self, predict: Predict) -> Predict:
        """The same prediction, noted down."""

        def watched(x: Tensor, i: int) -> Tensor:
            eps = predict(x, i)
            self.indices.append(i)
            self.latents.append(x)
            self.predictions.append(eps)
            return eps

        return watched

    def at(self, index: int) -> tuple[Tensor, Tensor]:
        """Latents and prediction at an index; of its last step where there are two."""
        place = max(n for n, i in enumerate(self.indices) if i == index)
        return self.latents[place], self.predictions[place]


@torch.no_grad()
def checks(reference: ParitySet) -> Iterator[Check]:
    """Every rollout of the set."""
    for tag in reference.expected.tags("rollouts"):
        yield from with_rounding(reference.networks, partial(_rollout, reference, tag))


def _rollout(reference: ParitySet, tag: str) -> Iterator[Check]:
    path = Path([], [], [])
    x0 = _sampled(reference, tag, path)
    yield from _compared(reference, tag, path, x0)


def _sampled(reference: ParitySet, tag: str, path: Path) -> Tensor:
    grid, inputs = reference.schedule.grid(rollout_steps(reference)), reference.inputs
    text, empty = reference.embeddings()
    base, tuned = (Denoiser(network, reference.schedule) for network in (reference.base, reference.tuned))
    networks = Networks(grid, Texts.of(text), empty, base, tuned, Rows.of(len(text)))
    noise = GivenNoise(inputs["x_T"], inputs["z"], {})
    guidance = float(reference.config["guidance"])

    released = re.fullmatch(r"combined_k(\d+)_official_offbyone", tag)
    if released:
        k = int(released[1])
        settings = {"kind": "combined", "k": [k], "base_guidance": guidance, "as_released": {"extra_step": True}}
        first, then = networks.base(guidance), _composed(networks, settings, float(k))
        x = denoise(grid, path.watch(first), noise.initial(), 0, k, noise, extra_step=True)
        return finish(grid, path.watch(then), x, k, noise)
    return finish(grid, path.watch(_predict(networks, tag, guidance)), noise.initial(), 0, noise)


def _predict(networks: Networks, tag: str, guidance: float) -> Predict:
    steps = len(networks.grid)
    if tag == f"base_cfg_k{steps}":
        return networks.base(guidance)
    if tag == "base_nocfg":
        return networks.base(1.0)
    if tag == "tuned_nocfg_k0_clean":
        return _composed(networks, {"kind": "tuned"}, 0.0)
    if found := re.fullmatch(r"combined_k(\d+)", tag):
        return _composed(
            networks, {"kind": "combined", "k": [int(found[1])], "base_guidance": guidance}, float(found[1])
        )
    if found := re.fullmatch(r"aig_p([\d.]+)", tag):
        return _composed(networks, {"kind": "aig", "p": [float(found[1])]}, float(found[1]))
    raise InputError(f"parity set: unknown rollout {tag!r}")


def _composed(networks: Networks, settings: dict[str, object], value: float) -> Predict:
    found = strategy(str(settings["kind"]), settings, SampleSettings(steps=networks.steps), "parity set").settings
    assert isinstance(found, Predicting)
    return found.predict(networks, value)


def _compared(reference: ParitySet, tag: str, path: Path, x0: Tensor) -> Iterator[Check]:
    expected, name = reference.expected, f"rollout.{tag}"
    raw = reference.vae.decode_raw(x0)
    image = reference.vae.decode(x0)
    reward = reference.reward(image, reference.prompts)
    seen = [path.at(i) for i in expected.value("rollouts", tag, "traj_indices")]
    for part, found in (
        ("traj_in", torch.stack([x for x, _ in seen])), ("traj_eps", torch.stack([eps for _, eps in seen])),
        ("x0", x0), ("image", image), ("reward", reward),
    ):  # fmt: skip
        yield compare(f"{name}.{part}", found, expected.array(f"{name}.{part}"), VALUE)
    sequence = expected.value("rollouts", tag, "step_index_sequence")
    yield same(f"{name}.step_index_sequence", path.indices, sequence)
    for what, values in (("image", image), ("x0", x0)):
        moments = [expected.value("rollouts", tag, f"{what}_{moment}") for moment in ("mean", "std")]
        yield compare(f"{name}.{what}_mean, {what}_std", [values.mean(), values.std()], moments, VALUE)
    yield compare(f"{name}.reward (JSON)", reward, expected.value("rollouts", tag, "reward"), VALUE)
    outside = expected.value("rollouts", tag, "raw_clipped_fraction")
    share = (raw.abs() > 1).double().mean()
    yield compare(f"{name}.raw_clipped_fraction", share, outside, CLIPPED, scale=1.0)
