"""DAS: every weighing of the particles, and which of them is the result."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from stages.parity.checks import Check
from stages.parity.sampling.world import DIFFERENCES, SHIFTED, SamplingSet, Stored, settings
from stages.sample.particles import Populations, best
from stages.sample.strategies import das
from stages.sample.twisted import Weighed, twisted

NUMBERS: dict[str, float] = dict.fromkeys(
    ("rewards", "guidance", "x0hat", "states_after_resampling", "x_final", "scale"), SHIFTED
)
EDGE = 5e-6  # pixels so near to 0 or 1 may be clamped or not, and the gradient of the reward jumps there
LOGS = ("log_twist", "log_weight_increment", "log_weight_after", "ess", "final_log_weight")


@torch.no_grad()
def checks(reference: SamplingSet) -> Iterator[Check]:
    """Every item of the method."""
    for tag in reference.tags("das"):
        yield from _item(reference, tag)


def _item(reference: SamplingSet, tag: str) -> Iterator[Check]:
    given, inputs = reference.params("das", tag), reference.inputs
    steps, count, schedule = given["steps"], given["particles"], given["schedule"]
    search = settings(
        "das", steps, n=[count], reward="reward", guidance=given["guidance"], strength=1 / given["kl_coeff"],
        gamma=given["gamma"], schedule=schedule, threshold=given["ess_threshold"], resampler=given["strategy"],
        end="noisy" if given["end"].startswith("abar0") else "clean", as_released={"stay": True, "straight": True},
    )  # fmt: skip
    assert isinstance(search, das.Settings)
    uniforms = {f"resample {i}": row for i, row in enumerate(inputs["uniforms"])}
    noise = Stored(inputs["particle_x_T"], inputs["particle_z"], uniforms)
    ctx = reference.context(given["network"], [given["prompt"]], noise, reference.grid(steps))
    told: list[Weighed] = []
    start = Populations.of(ctx, count)
    final, weights = twisted(start, search, told.append)
    chosen, name = best(weights.logs), f"das.{tag}"
    seen = reference.expected.array(f"{name}.traj_index").tolist()
    found = {
        "rewards": torch.stack([each.rewards[0] for each in told]),
        "log_twist": torch.stack([each.twist[0] for each in told]),
        "log_weight_increment": torch.stack([each.growth[0] for each in told]),
        "log_weight_after": torch.stack([each.after[0] for each in told]),
        "ess": torch.stack([*(each.size[0] for each in told), weights.size[0]]),
        "resampled": torch.stack([each.due[0].long() for each in told]),
        "ancestors": torch.stack([each.ancestors[0] for each in told]),
        "scale": [*(search.tempered(i) for i in range(steps)), 1.0],
        "guidance": torch.stack([told[i].guidance for i in seen]),
        "x0hat": torch.stack([told[i].x0 for i in seen]),
        "states_after_resampling": torch.stack([told[i].x for i in seen]),
        "final_log_weight": weights.logs[0],
        "final_weight": weights.logs[0].softmax(0),
        "chosen": chosen[0],
        "x_final": final.x[chosen],
    }
    found["guidance"] = _off_the_edge(reference, name, seen, found["guidance"], found["x0hat"])
    # the tolerance of logarithms, carried over to their exponentials
    logs = DIFFERENCES * max(1.0, float(weights.logs.abs().max()))
    tolerances = NUMBERS | dict.fromkeys(LOGS, DIFFERENCES) | {"final_weight": logs}
    yield from reference.compared(name, found, tolerances)
    counts = ("network_evaluations", "reward_images", "with_gradient")
    yield from reference.costs("das", tag, ctx, *counts, by={given["network"]: ctx.networks.base_network})


def _off_the_edge(reference: SamplingSet, name: str, seen: list[int], found: Tensor, x0: Tensor) -> Tensor:
    """Gradients [events, P, C, h, w] with the expected ones in place of those of images with a pixel on the edge of the
    range, which are then not compared.
    """
    expected, found = reference.expected.array(f"{name}.guidance"), found.clone()
    for n, i in enumerate(seen):
        raw = reference.base.vae.decode_raw(x0[n]) / 2 + 0.5
        near = torch.minimum(raw.abs(), (raw - 1).abs()).flatten(1).amin(1) < EDGE
        for slot in near.nonzero().flatten().tolist():
            where = f"{name}.guidance of particle {slot} at index {i}"
            reference.expected.left[where] = "a pixel lies on the edge of the range, where the gradient jumps"
            found[n, slot] = expected[n, slot]
    return found
