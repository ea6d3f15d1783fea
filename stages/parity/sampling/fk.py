"""FK steering: every event of the particles, and where they end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stages.parity.checks import Check
from stages.parity.sampling.world import ROUNDED, STATES, WEIGHTS, SamplingSet, Stored, settings
from stages.sample.particles import Populations, evolve
from stages.sample.parts import shown
from stages.sample.stepping import Steps
from stages.sample.strategies import fk

EXPONENTIALS = ("weights", "ess", "product_of_potentials")
NUMBERS = ("raw_rewards", "candidate_rewards", "population_reward", "x0hat", "states", "x_final", "images")


@dataclass
class Recording(fk.FK):
    """FK steering that notes down its events, and the latents entering every index."""

    seen: dict[str, list[Any]] = field(default_factory=dict)

    def note(self, **values: Any) -> None:
        """One entry more of each."""
        for name, value in values.items():
            self.seen.setdefault(name, []).append(value)

    def propose(self, steps: Steps, x: Tensor, i: int) -> tuple[Tensor, Tensor]:
        """A plain step."""
        found = super().propose(steps, x, i)
        self.note(entering=x, predicted=found[1])
        return found

    def select(self, i: int, scores: Tensor, uniforms: Tensor) -> Tensor:
        """The ancestors, noted down with everything that they follow from."""
        found = self.weigh(i, scores)
        ancestors = super().select(i, scores, uniforms)
        assert self.memory is not None and self.product is not None
        self.note(
            event_index=torch.tensor(i), raw_rewards=scores[0], candidate_rewards=found.kept[0],
            weights=found.weights[0].exp(), ess=found.size[0], resampled=found.due[0].long(), ancestors=ancestors[0],
            population_reward=self.memory[0], product_of_potentials=self.product[0].exp(),
            x0hat=self.seen["predicted"][-1],
        )  # fmt: skip
        return ancestors


@torch.no_grad()
def checks(reference: SamplingSet) -> Iterator[Check]:
    """Every item of the method."""
    for tag in reference.tags("fk"):
        yield from _item(reference, tag)


def _item(reference: SamplingSet, tag: str) -> Iterator[Check]:
    given, inputs = reference.params("fk", tag), reference.inputs
    steps, count, rounded = given["steps"], given["particles"], given["image_path"] == "pil"
    uniforms = {f"resample {i}": row for i, row in enumerate(inputs["uniforms"])}
    noise = Stored(inputs["particle_x_T"], inputs["particle_z"], uniforms)
    search = settings(
        "fk", steps, n=[count], reward="reward", guidance=given["guidance"], potential=given["potential"],
        strength=given["lmbda"], window=[given["t_start"], given["t_end"]], every=given["frequency"],
        adaptive=given["adaptive"], memory=given["reward_min_value"],
        end="clean" if given["end"] == "clean" else "noisy",
        as_released={"drop_weights": True, "last_potential": True, "clamp": True, "eight_bit": rounded},
    )  # fmt: skip
    assert isinstance(search, fk.Settings)
    ctx = reference.context(given["network"], [given["prompt"]], noise, reference.grid(steps))
    events = search.events(range(steps))
    steering = Recording(search, last=events[-1])
    populations = Populations.of(ctx, count)
    final = evolve(populations, search, events, steering)
    yield from reference.costs(
        "fk", tag, ctx, "network_evaluations", "reward_images", by={given["network"]: ctx.networks.base_network}
    )
    noted = {name: torch.stack(values) for name, values in steering.seen.items()}
    found = {name: values for name, values in noted.items() if name not in ("entering", "predicted")}
    found |= {
        "states": torch.stack([*steering.seen["entering"][1:], final.x]), "x_final": final.x,
        "images": shown(populations.wide, final.found(torch.arange(count))),
    }  # fmt: skip
    numbers: dict[str, float] = dict.fromkeys(NUMBERS, ROUNDED if rounded else STATES)
    powers: dict[str, float] = dict.fromkeys(EXPONENTIALS, ROUNDED if rounded else WEIGHTS)
    yield from reference.compared(f"fk.{tag}", found, numbers | powers)
