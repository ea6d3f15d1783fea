"""Guidance by a second network, and by density: every rollout, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from stages.models.diffusion import Denoiser
from stages.models.merging import merged
from stages.models.noise import GivenNoise
from stages.models.process import Grid
from stages.models.process_flow import FlowGrid, FlowMatching
from stages.parity.checks import Check, compare, same
from stages.parity.rollouts import Path
from stages.parity.sampling.mixture import Mixture
from stages.parity.sampling.world import DOUBLE, GUIDED, STATES, SamplingSet, settings
from stages.sample.context import Context
from stages.sample.mixing import Predicting
from stages.sample.settings import Merge, StrategySettings
from stages.sample.strategies import density

NUMBERS: dict[str, float] = dict.fromkeys(("traj_in", "traj_eps", "x_final", "image", "reward"), STATES)


@torch.no_grad()
def checks(reference: SamplingSet) -> Iterator[Check]:
    """Every item of RLG, NPO, CHATS and density guidance."""
    for method, item in (("rlg", _rlg), ("npo", _npo), ("chats", _chats)):
        for tag in reference.tags(method):
            yield from item(reference, tag)
    yield from _density(reference)


def _rlg(reference: SamplingSet, tag: str) -> Iterator[Check]:
    given, grid = reference.params("rlg", tag), None
    if given["sampler"] == "flow":
        sigmas = reference.expected.array(f"rlg.{tag}.sigmas")
        process = FlowMatching(1.0, len(reference.base.schedule.alphas_cumprod), torch.device("cpu"))
        grid = FlowGrid.of(process, sigmas[:-1])
        yield compare(f"rlg.{tag}.timesteps", grid.timesteps, reference.expected.array(f"rlg.{tag}.timesteps"), STATES)
        yield compare(f"rlg.{tag}.sigmas", [*grid.sigma.tolist(), grid.following[-1]], sigmas, STATES)
    ctx = _context(reference, given, "tuned", grid)
    search = settings(
        "rlg", given["steps"], w=[given["w"]], guidance=given["guidance"], base_guidance=given["guidance"],
        tuned_steps=given["zero_init_step"],
    )  # fmt: skip
    yield from _rollout(reference, f"rlg.{tag}", ctx, search, given["w"])
    if given["w"] not in (0, 1) and not given["zero_init_step"]:  # where both networks are needed
        yield from reference.costs("rlg", tag, ctx, "network_evaluations", by=_networks(ctx))


def _npo(reference: SamplingSet, tag: str) -> Iterator[Check]:
    given = reference.params("npo", tag, "merged_norm")
    ctx, positive, negative = _context(reference, given, given["positive"]), given["positive"], given["negative"]
    if negative is None:
        search = settings("guidance", given["steps"], scales=[given["scale"]], apply_to=[positive])
        yield from _rollout(reference, f"npo.{tag}", ctx, search, given["scale"])
        yield from reference.costs("npo", tag, ctx, "network_evaluations", by=_networks(ctx, positive))
        return
    values: dict[str, Any] = {"s": [given["scale"]], "rescale": given["guidance_rescale"], "apply_to": [positive]}
    values["negative"] = "npo" if negative == "merged" else negative
    others: dict[str, nn.Module] = {} if negative == "base" else {"npo": reference.network("npo")}
    name = negative
    if negative == "merged":
        values["merge"] = given["merge_weight"]
        name = Merge("npo", given["merge_weight"]).name
        others[name] = merged(others["npo"], reference.base.tuned, reference.base.base, given["merge_weight"])
        yield from _weights(reference, tag, others[name])
    ctx = _with(ctx, others)
    yield from _rollout(reference, f"npo.{tag}", ctx, settings("npo", given["steps"], **values), given["scale"])
    by = _networks(ctx, positive) | ({} if negative == "base" else {negative: ctx.networks.others[name]})
    yield from reference.costs("npo", tag, ctx, "network_evaluations", by=by if negative != "base" else _networks(ctx))


def _weights(reference: SamplingSet, tag: str, network: nn.Module) -> Iterator[Check]:
    """The merged network's weights, as far as the set has them, and their norm."""
    own = dict(network.named_parameters())
    for name, expected in reference.expected.under(f"npo.{tag}.weights."):
        yield compare(f"npo.{tag}.weights.{name}", own[name], expected, STATES)
    norm = sum(float(value.double().square().sum()) for value in own.values()) ** 0.5
    expected = reference.expected.value("items", "npo", tag, "merged_norm")
    yield compare(f"items.npo.{tag}.merged_norm", norm, expected, STATES)


def _chats(reference: SamplingSet, tag: str) -> Iterator[Check]:
    given = reference.params("chats", tag)
    win, lose = given["win"], given["lose"]
    ctx = _with(_context(reference, given, win), {} if lose == "base" else {lose: reference.network(lose)})
    search = settings("chats", given["steps"], s=[given["scale"]], lose=lose, alpha=given["alpha"], apply_to=[win])
    yield from _rollout(reference, f"chats.{tag}", ctx, search, given["scale"])
    by = _networks(ctx) if lose == "base" else _networks(ctx, win) | {lose: ctx.networks.others[lose]}
    yield from reference.costs("chats", tag, ctx, "network_evaluations", by=by)


def _density(reference: SamplingSet) -> Iterator[Check]:
    for tag in reference.tags("density"):
        if tag.startswith("rollout_"):
            yield from _density_rollout(reference, tag)
    if "step" not in reference.tags("density"):
        return
    given, inputs = reference.params("density", "step"), reference.inputs
    deviation = reference.expected.value("items", "density", "gmm", "deviation")
    means = inputs["density.gmm.means"]
    mixture = Mixture(inputs["density.gmm.weights"], means, deviation, torch.zeros_like(means[0]))
    scores, scaled = [], []
    for log_snr in given["log_snr"]:
        alpha = torch.tensor(log_snr, dtype=torch.float64).sigmoid()
        eps = mixture.epsilon(inputs["density.x"], alpha)
        score = -eps / (1 - alpha).sqrt()
        scores.append(score)
        scaled.append(torch.stack([density.factor(eps, q) * score for q in given["q"]], 1))
    found = {"score": torch.stack(scores, 1), "scaled_score": torch.stack(scaled, 1)}
    yield from reference.compared("density.step", found, dict.fromkeys(found, DOUBLE))
    if "sampler" not in reference.tags("density"):
        return
    sampler = reference.params("density", "sampler")
    median = density.median_norm(means.shape[1])
    yield compare("items.density.sampler.chi_median", median, sampler["chi_median"], DOUBLE)


def _density_rollout(reference: SamplingSet, tag: str) -> Iterator[Check]:
    given = reference.params("density", tag)
    tuned = given["network"] == "tuned"
    prompts = {"prompts": list(range(len(reference.base.prompts)))}
    ctx = _context(reference, prompts | given | {"sampler": "ddim"}, given["network"])
    own = ctx.networks.tuned_network if tuned else ctx.networks.base_network
    assert own is not None
    eps: list[Tensor] = []
    own.seen = lambda x, t, prediction: eps.append(prediction)
    search = settings(
        "density", given["steps"], q=[given["q"]], guidance=given["guidance"],
        norm=1.0 if given["rescaled_x_T"] else None,
    )  # fmt: skip
    path, made = _path(ctx, search, given["q"])
    found = {
        "factor": torch.stack([density.factor(each, given["q"]).flatten() for each in eps]),
        "x_start": path.latents[0],
        "x_final": made,
        "reward": reference.base.reward(reference.base.vae.decode(made), ctx.prompts),
    }
    yield from reference.compared(f"density.{tag}", found, dict.fromkeys(found, GUIDED))
    yield from reference.costs("density", tag, ctx, "network_evaluations", by={given["network"]: own})


def _context(reference: SamplingSet, given: Mapping[str, Any], own: str, grid: Grid | None = None) -> Context:
    """All prompts of an item; `own` is the network that is sampled: base, or the tuned one beside the base."""
    noise = GivenNoise(reference.inputs["x_T"], reference.inputs["z"], {}).rows(
        given["prompts"], [0] * len(given["prompts"])
    )
    grid = grid or reference.grid(given["steps"])
    ctx = reference.context("base", given["prompts"], noise, grid, tuned="tuned" if own == "tuned" else None)
    return replace(ctx, sampler="ddpm" if given["sampler"] == "ddpm" else "ddim")


def _with(ctx: Context, others: Mapping[str, nn.Module]) -> Context:
    """The context with further networks."""
    made = {name: Denoiser(network, ctx.grid.process) for name, network in others.items()}
    return replace(ctx, networks=replace(ctx.networks, others=made))


def _networks(ctx: Context, *names: str) -> dict[str, Denoiser]:
    """Base and tuned network by name, or those of them that are named."""
    found = {"base": ctx.networks.base_network, "tuned": ctx.networks.tuned_network}
    return {name: made for name, made in found.items() if made is not None and (not names or name in names)}


def _path(ctx: Context, search: StrategySettings, value: float) -> tuple[Path, Tensor]:
    """What a strategy's own sampling does, step by step, and the clean latents that it decodes."""
    assert isinstance(search, Predicting)
    path, decoded = Path([], [], []), list[Tensor]()

    class Recording(type(search)):  # type: ignore[misc]
        def predict(self, networks: Any, value: float) -> Any:
            return path.watch(super().predict(networks, value))

    def decode(latents: Tensor) -> Tensor:
        decoded.append(latents)
        return latents

    Recording.model_construct(**dict(search)).sample(replace(ctx, decoder=decode), value)
    return path, decoded[-1]


def _rollout(
    reference: SamplingSet, name: str, ctx: Context, search: StrategySettings, value: float
) -> Iterator[Check]:
    path, made = _path(ctx, search, value)
    seen = [path.at(i) for i in reference.expected.array(f"{name}.traj_index").tolist()]
    image = reference.base.vae.decode(made)
    found = {
        "traj_in": torch.stack([x for x, _ in seen]), "traj_eps": torch.stack([eps for _, eps in seen]),
        "x_final": made, "image": image, "reward": reference.base.reward(image, ctx.prompts),
    }  # fmt: skip
    yield same(f"{name} (steps)", path.indices, list(range(len(ctx.grid))))
    yield from reference.compared(name, found, NUMBERS)
