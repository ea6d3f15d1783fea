"""Guidance by a second network, of Diffusion-NPO and of CHATS: merged weights, and rollouts by the strategies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from stages.models.diffusion import Predict
from stages.models.merging import merged
from stages.models.noise import GivenNoise
from stages.models.sampler import denoise
from stages.parity.checks import EXACT, Check, compare
from stages.parity.preference.given import GRADIENT, VALUE, Given, Item
from stages.sample.mixing import Predicting
from stages.sample.networks import Networks, Rows
from stages.sample.resolve import strategy
from stages.sample.settings import Merge, SampleSettings
from stages.sample.texts import Texts

NEGATIVE = "third"


def checks(given: Given) -> Iterator[Check]:
    """The merged weights and the rollouts."""
    with torch.no_grad():
        for name in given.reference.expected.arrays:
            if name.startswith("npo.merged_m") and name.endswith(".param_norms"):
                yield from _merged(given, name.removesuffix(".param_norms"))
        for item in given.items("npo", "chats"):
            if ".roll_" in item.name:
                yield from _rollout(given, item)


def _merged(given: Given, tag: str) -> Iterator[Check]:
    """The weights of third + (1 - m) (tuned - base)."""
    own = dict(_merge(given, float(tag.partition("_m")[2])).named_parameters())
    names, expected = given.reference.expected.value("param_names"), given.reference.expected
    found = [float(own[name].double().norm()) for name in names]
    yield compare(f"{tag}.param_norms", found, expected.array(f"{tag}.param_norms"), GRADIENT)
    for name, wanted in expected.under(f"{tag}."):
        if name != "param_norms":
            yield compare(f"{tag}.{name}", own[name], wanted, VALUE)


def _merge(given: Given, m: float) -> nn.Module:
    return merged(given.third, given.reference.tuned, given.reference.base, m)


def _strategy(given: Given, item: Item) -> tuple[dict[str, Any], dict[str, nn.Module]]:
    """The settings of the strategy of an item, and the networks beside base and tuned."""
    what, scale = item.name.partition("roll_")[2], float(item.setting("guidance"))
    if item.name.startswith("chats."):
        values = {"kind": "chats", "s": [scale], "alpha": item.setting("alpha"), "lose": NEGATIVE}
        return values, {NEGATIVE: given.third}
    if what == "no_negative_net":
        return {"kind": "guidance", "scales": [scale], "apply_to": ["tuned"]}, {}
    if what == "neg_is_base":
        return {"kind": "npo", "s": [scale], "negative": "base"}, {}
    m = float(what.removeprefix("m"))
    values = {"kind": "npo", "s": [scale], "negative": NEGATIVE, "merge": m}
    return values, {NEGATIVE: given.third, Merge(NEGATIVE, m).name: _merge(given, m)}


@dataclass(frozen=True)
class _Watched:
    """A prediction that keeps what it saw and made."""

    predict: Predict
    seen: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __call__(self, x: Tensor, i: int, /) -> Tensor:
        made = self.predict(x, i)
        self.seen.append((x, made))
        return made


def _rollout(given: Given, item: Item) -> Iterator[Check]:
    reference, inputs, steps = given.reference, given.inputs, item.setting("steps")
    values, others = _strategy(given, item)
    search = strategy(values["kind"], values, SampleSettings(steps=steps), "parity set").settings
    assert isinstance(search, Predicting)
    grid, (text, empty) = reference.schedule.grid(steps), reference.embeddings()
    networks = Networks(
        grid, Texts.of(text), empty, given.base, given.denoiser(reference.tuned), Rows.of(len(text)),
        {name: given.denoiser(network) for name, network in others.items()},
    )  # fmt: skip
    watched = _Watched(search.predict(networks, float(item.setting("guidance"))))
    noise = GivenNoise(inputs["x_T"], inputs["z"], {})
    end = denoise(grid, watched, noise.initial(), 0, steps, noise)
    yield compare(f"{item.name}.timesteps", grid.timesteps, item.setting("timesteps"), EXACT)
    yield item.check("traj_in", torch.stack([x for x, _ in watched.seen]), VALUE)
    yield item.check("traj_eps", torch.stack([made for _, made in watched.seen]), VALUE)
    yield item.check("final", end, VALUE)
