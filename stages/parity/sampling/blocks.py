"""CoDe, best of N as its release makes it, and SVDD-PM: every choice among candidates, and where they end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from stages.parity.checks import Check
from stages.parity.sampling.world import STATES, SamplingSet, Stored, settings
from stages.sample.blocks import Choice, best_of_blocks
from stages.sample.context import Context
from stages.sample.parts import shown
from stages.sample.search import Search

NUMBERS: dict[str, float] = dict.fromkeys(
    ("rewards", "candidates", "x0hat", "final_reward", "x_final", "scores"), STATES
)


@torch.no_grad()
def checks(reference: SamplingSet) -> Iterator[Check]:
    """Every item of both methods."""
    for tag in reference.tags("code"):
        yield from _code(reference, tag)
    for tag in reference.tags("svdd"):
        yield from _svdd(reference, tag)


def _code(reference: SamplingSet, tag: str) -> Iterator[Check]:
    given, inputs = reference.params("code", tag), reference.inputs
    steps, count, images = given["steps"], given["candidates"], given["images"]
    noise = Stored(
        inputs["particle_x_T"], inputs["particle_z"], start_at=lambda image, _: image,
        step_at=lambda image, candidate: candidate * images + image, images=range(images), candidates=[0] * images,
    )  # fmt: skip
    values = {"n": [count], "block": given["block"], "start": "shared", "guidance": given["guidance"]}
    ctx = reference.context(
        given["network"], [given["prompt"]] * images, noise, reference.grid(steps, given["spacing"])
    )
    told, found = _run(reference, ctx, settings("code", steps, reward="reward", **values), count, given["block"])

    def by_row(latents: Tensor) -> Tensor:
        return latents.unflatten(0, (images, count)).transpose(0, 1)

    found |= {
        "event_index": torch.tensor([choice.i - 1 for choice in told]),
        "rewards": torch.stack([choice.scores.T for choice in told]),
        "chosen": torch.stack([choice.chosen for choice in told]),
        "candidates": torch.stack([by_row(choice.x) for choice in told]),
        "x0hat": torch.stack([by_row(choice.x0) for choice in told]),
    }
    for event in given["undetermined_events"]:
        reference.expected.left.setdefault(
            f"code.{tag}, event {event}", "the candidates are the same latents; the product makes no choice"
        )
    yield from reference.compared(
        f"code.{tag}", found, NUMBERS, events=len(told) if given["undetermined_events"] else None
    )
    if not given["undetermined_events"]:
        yield from reference.costs("code", tag, ctx, "reward_images")


def _svdd(reference: SamplingSet, tag: str) -> Iterator[Check]:
    given, inputs = reference.params("svdd", tag), reference.inputs
    steps, count, images = given["steps"], given["candidates"], given["batch"]
    drawn = inputs["candidate_z"]
    noise = Stored(
        inputs["particle_x_T"], drawn.flatten(1, 2), start_at=lambda image, _: image,
        step_at=lambda image, candidate: candidate * drawn.shape[2] + image, images=range(images),
        candidates=[0] * images,
    )  # fmt: skip
    ctx = reference.context(given["network"], prompts_of(given, images), noise, reference.grid(steps))
    search = settings("svdd", steps, m=[count], reward="reward", guidance=given["guidance"])
    told, found = _run(reference, ctx, search, count, 1)
    found |= {
        "scores": torch.stack([choice.scores.T for choice in told]),
        "chosen": torch.stack([choice.chosen for choice in told]),
        "candidates_count": torch.full((len(told),), count),
        "beams_count": torch.full((len(told),), images),
    }
    winners = {
        f"winners_step{n}": choice.x.unflatten(0, (images, count))[torch.arange(images), choice.chosen]
        for n, choice in enumerate(told)
    }
    yield from reference.compared(f"svdd.{tag}", found | winners, NUMBERS | dict.fromkeys(winners, STATES))
    yield from reference.costs("svdd", tag, ctx, "reward_images")


def prompts_of(given: dict[str, Any], count: int) -> list[int]:
    """The prompt of every row: given one by one, or one for all."""
    return given["prompt"] if isinstance(given["prompt"], list) else [given["prompt"]] * count


def _run(
    reference: SamplingSet, ctx: Context, search: object, count: int, block: int
) -> tuple[list[Choice], dict[str, Tensor]]:
    """The choices of the product, its final latents and the reward of its images.

    After a last block of one step the clean latents are those that the best candidate was judged by.
    """
    assert isinstance(search, Search)
    told: list[Choice] = []
    images = shown(ctx, best_of_blocks(ctx, search, count, block, shared=True, told=told.append))
    last = told[-1]
    made = last.x0.unflatten(0, (-1, count))[torch.arange(len(ctx)), last.chosen]
    return told, {"x_final": made, "final_reward": reference.base.reward(images, ctx.prompts)}
