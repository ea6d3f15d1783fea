"""DSearch and DSearch-R: every child and every beam that goes on.

The released code searches a batch of several prompts and drops beams whatever their prompt; so the rows of a batch are
the beams of one search here, each with the prompt that it has there.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from stages.parity.checks import Check
from stages.parity.sampling.blocks import prompts_of
from stages.parity.sampling.world import STATES, SamplingSet, Stored, settings
from stages.sample.beams import Choice, evolve
from stages.sample.particles import Populations
from stages.sample.parts import shown
from stages.sample.strategies import dsearch

NO_SCORE, NO_BEAM = -9, -1


@torch.no_grad()
def checks(reference: SamplingSet) -> Iterator[Check]:
    """Every item of the method."""
    for tag in reference.tags("dsearch"):
        yield from _item(reference, tag)


def _item(reference: SamplingSet, tag: str) -> Iterator[Check]:
    given, inputs = reference.params("dsearch", tag, "beam_schedule", "final_prompts"), reference.inputs
    steps, drawn = given["steps"], inputs["candidate_z"]
    search = settings(
        "dsearch", steps, m=[given["candidates"]], wider=given["w"], beams=given["batch"], search=given["search"],
        oversample=given["oversample"] if given["drop"] else 1, drop=given["drop"], replace=given["replace"],
        reward="reward", guidance=given["guidance"],
    )  # fmt: skip
    assert isinstance(search, dsearch.Settings)
    most = search.most
    uniforms = {f"resample {i}": row for i, row in enumerate(inputs["uniforms"])}
    uniforms |= {f"search {i}": coin[None] for i, coin in enumerate(inputs["coins"])}
    noise = Stored(
        inputs["particle_x_T"], drawn.flatten(1, 2), uniforms,
        step_at=lambda _, candidate: candidate // most * drawn.shape[2] + candidate % most,
        images=[0] * most, candidates=range(most),
    )  # fmt: skip
    prompts = prompts_of(given, most)
    wide = reference.context(given["network"], prompts, noise, reference.grid(steps), images=[0] * most)
    wide = wide.place(range(most), range(most))
    told: list[Choice] = []
    populations, final = evolve(Populations(wide.take([0]), wide, most), search, given["candidates"], told.append)
    images = shown(populations.wide, final.found(torch.arange(populations.particles)))
    found = {name: _padded(reference, f"dsearch.{tag}.{name}", values) for name, values in _choices(told).items()}
    winners = {f"winners_step{choice.i}": choice.winners.predicted.x for choice in told}
    found |= winners | {
        "candidates_count": torch.tensor([choice.branched[0].scores.shape[2] for choice in told]),
        "beams_count": torch.tensor([choice.winners.width for choice in told]),
        "x_final": final.x,
        "final_reward": reference.base.reward(images, populations.wide.prompts),
    }
    numbers = dict.fromkeys(["scores", "x_final", "final_reward", *winners], STATES)
    yield from reference.compared(f"dsearch.{tag}", found, numbers)
    yield from reference.stated("dsearch", tag, "beam_schedule", [choice.order.shape[1] for choice in told])
    yield from reference.stated("dsearch", tag, "final_prompts", [int(name) for name in populations.wide.prompts])
    yield from reference.costs("dsearch", tag, wide, "reward_images")


def _choices(told: list[Choice]) -> dict[str, list[Tensor]]:
    """Children, beams that stay and beams that are replaced, of every step."""
    orders = [choice.order[0] for choice in told]
    return {
        "scores": [choice.branched[0].scores[0].T for choice in told],
        "chosen": [choice.branched[0].chosen[0] for choice in told],
        "kept": orders,
        "order": orders,
        "replaced": [_gone(order, choice) for order, choice in zip(orders, told, strict=True)],
    }


def _gone(order: Tensor, choice: Choice) -> Tensor:
    """Slots of the beams that none goes on from, the worst one first."""
    assert choice.winners.scores is not None
    worst = choice.winners.scores[0].sort(dim=0, stable=True).indices.tolist()
    return torch.tensor([slot for slot in worst if slot not in order.tolist()], dtype=torch.int64)


def _padded(reference: SamplingSet, name: str, values: list[Tensor]) -> Tensor:
    """One array of ragged ones, filled up as the set fills them up to its shape."""
    expected = reference.expected.arrays.get(name)
    if expected is None:
        return torch.empty(0)
    fill = NO_SCORE if expected.is_floating_point() else NO_BEAM
    rows = []
    for value in values:
        missing = [n - m for n, m in zip(expected.shape[1:], value.shape, strict=True)]
        rows.append(pad(value, [side for gap in reversed(missing) for side in (0, gap)], value=fill))
    return torch.stack(rows)
