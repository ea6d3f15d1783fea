"""Diffusion-DRO: trajectories of the solver, and the hinge between expert images and states of trajectories."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from stages.finetune.families.pair_errors import Errors, Noisy, Outputs, PairErrors
from stages.finetune.families.ranked_experts import OwnStates, expert_errors, grid
from stages.finetune.methods import diffusion_dro
from stages.models.multistep import trajectory
from stages.parity.checks import EXACT, Check, compare, same
from stages.parity.preference.given import LOSS, VALUE, Given, Item

SOLVER = "dro.traj_"


def checks(given: Given) -> Iterator[Check]:
    """The trajectories, with the noise levels of one grid as released and with each one's own, and the items."""
    if f"{SOLVER}t" in given.reference.expected.arrays:
        yield from _trajectories(given)
    for item in given.items("dro"):
        yield from _loss(given, item)


def _trajectories(given: Given) -> Iterator[Check]:
    expected, inputs, process = given.reference.expected, given.inputs, given.reference.schedule
    wanted = expected.array(f"{SOLVER}t")
    count, steps = wanted.shape
    ratio = len(process.alphas_cumprod) // steps
    times = grid(steps, ratio, inputs["dro_perturb"])
    yield compare(f"{SOLVER}t", times.T, wanted, EXACT)
    first, tuned = times[:, :1].expand_as(times), given.denoiser(given.reference.tuned)
    for name, levels in (("xt", first), ("xt_own_sigmas", None)):
        made = trajectory(process, lambda x, t: tuned.prediction(x, t, given.text), inputs["x_T"], times, levels)
        yield compare(f"{SOLVER}{name}", made.states.transpose(0, 1), expected.array(f"{SOLVER}{name}"), VALUE)
        if levels is not None:
            wanted = expected.array(f"{SOLVER}eps")
            yield compare(f"{SOLVER}eps", made.predictions.transpose(0, 1), wanted, VALUE)
    alpha = process.alphas_cumprod[times[:, 0]]
    sigmas = torch.cat([((1 - alpha) / alpha).sqrt(), alpha.new_zeros(1)])  # after the last step there is no noise
    yield compare("dro.solver_sigmas", sigmas, expected.array("dro.solver_sigmas"), VALUE)
    yield same("dro (rows)", count, len(given.text))


def _loss(given: Given, item: Item) -> Iterator[Check]:
    networks = {"tuned": given.reference.tuned, "third": given.third}
    trained, inputs = given.trained(networks[item.setting("trained")]), given.inputs
    own = OwnStates(inputs["dro_xt_policy"], inputs["dro_t"], inputs["dro_eps_policy"])
    expert, noise = given.pairs.winner, inputs["dro_expert_noise"]

    def outputs(noisy: Noisy) -> Outputs:
        return Outputs.of(trained.denoiser.prediction, given.base.prediction, noisy)

    found = expert_errors(given.reference.schedule, outputs, expert, noise, own, given.text)
    ones = torch.ones(len(given.text))
    pairs = PairErrors(*found, ones, ones)
    settings = diffusion_dro.Settings(kind="diffusion_dro", margin=item.setting("margin"))
    loss = diffusion_dro.loss(pairs, settings).root
    loss.backward()
    yield same(f"{item.name}.reference", "base", item.setting("reference"))
    yield from _errors(item, "expert", pairs.winner)
    yield from _errors(item, "policy", pairs.loser)
    yield item.check("diff", -pairs.margin, LOSS)
    yield item.check_loss(loss)
    yield from given.gradients(item, trained)


def _errors(item: Item, side: str, errors: Errors) -> Iterator[Check]:
    yield item.check(f"loss_{side}", errors.policy, VALUE)
    yield item.check(f"loss_{side}_ref", errors.base, VALUE)
