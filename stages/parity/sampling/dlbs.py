"""Diffusion latent beam search: every look-ahead and every beam that goes on."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from stages.parity.checks import Check
from stages.parity.sampling.world import ROUNDED, STATES, SamplingSet, Stored, settings
from stages.sample.particles import rows
from stages.sample.parts import shown
from stages.sample.strategies import dlbs

FIELDS = ("scores", "kept_latents", "lookahead_x0_kept", "x_final", "image", "final_reward")


@torch.no_grad()
def checks(reference: SamplingSet) -> Iterator[Check]:
    """Every item of the method."""
    for tag in reference.tags("dlbs"):
        yield from _item(reference, tag)


def _item(reference: SamplingSet, tag: str) -> Iterator[Check]:
    given, inputs = reference.params("dlbs", tag), reference.inputs
    steps, beams, children, rounded = given["steps"], given["beams"], given["candidates"], given["eight_bit"]
    drawn = inputs["beam_z"]
    noise = Stored(
        inputs["particle_x_T"], drawn.flatten(1, 2),
        step_at=lambda _, candidate: candidate // children * drawn.shape[2] + candidate % children,
    )  # fmt: skip
    search = settings(
        "dlbs", steps, b=[beams], children=children, lookahead=given["lookahead"], reward="reward",
        guidance=given["guidance"], as_released={"eight_bit": rounded},
    )  # fmt: skip
    assert isinstance(search, dlbs.Settings)
    ctx = reference.context(given["network"], [given["prompt"]], noise, reference.grid(steps))
    told: list[dlbs.Choice] = []
    image = shown(ctx, dlbs.beam_search(ctx, search, beams, told.append))
    *choices, end = told
    latents = [(choice.x[(kept := rows(choice.kept, choice.scores.shape[1]))], choice.x0[kept]) for choice in choices]
    ends = rows(end.kept, beams)
    best = end.x[ends[:1]]
    found = {
        # the released code judges the last beams as often as they have children, with equal rewards
        "scores": torch.stack([
            *(choice.scores.view(beams, children) for choice in choices), end.scores.T.expand(beams, children),
        ]),
        "kept": torch.stack([*(choice.kept[0] for choice in choices), _repeated(end.kept[0], children)]),
        "kept_latents": torch.stack([*(x for x, _ in latents), end.x[_repeated(end.kept[0], children) // children]]),
        "lookahead_x0_kept": torch.stack(
            [*(x0 for _, x0 in latents), end.x[_repeated(end.kept[0], children) // children]]
        ),
        "x_final": best, "image": image, "final_reward": reference.base.reward(image, ctx.prompts),
    }  # fmt: skip
    yield from reference.compared(f"dlbs.{tag}", found, dict.fromkeys(FIELDS, ROUNDED if rounded else STATES))


def _repeated(order: torch.Tensor, children: int) -> torch.Tensor:
    """The first places of [beam * children + child], best beam first, where every child of a beam is the same."""
    places = [int(beam) * children + child for beam in order for child in range(children)]
    return torch.tensor(places[: len(order)])
