"""Losses of Diffusion-DPO, DDPO and SQDF on the set's networks, with their gradients."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from stages.finetune.batch import LatentPairs
from stages.finetune.families.pair_errors import pair_errors
from stages.finetune.losses.ddpo import clipped_loss
from stages.finetune.losses.sqdf import soft_q_loss
from stages.finetune.methods import diffusion_dpo
from stages.models.diffusion import Denoiser, posterior_sample
from stages.models.policy import make_policy
from stages.models.process import Gaussian
from stages.models.process_noise import NoiseGrid
from stages.parity.checks import COUNT, EXACT, GRADIENT, STEEP, VALUE, Check, compare, same
from stages.parity.reference import ParitySet
from stages.parity.rounding import with_rounding
from stages.parity.training import given_batch, gradient_checks


def checks(reference: ParitySet) -> Iterator[Check]:
    """Every item of the three methods that the set holds."""
    for tag in ("dpo", "dpo_beta100"):
        if reference.expected.tags(tag):
            yield from with_rounding(reference.networks, partial(_preferences, reference, tag))
    if reference.expected.tags("ddpo"):
        yield from with_rounding(reference.networks, partial(_policy_gradient, reference))
    if reference.expected.tags("sqdf"):
        yield from with_rounding(reference.networks, partial(_soft_q, reference))


def _policy(reference: ParitySet) -> tuple[Denoiser, dict[str, nn.Parameter]]:
    policy = make_policy(reference.tuned, "full")
    return Denoiser(policy.network, reference.schedule), dict(policy.parameters())


def _preferences(reference: ParitySet, tag: str) -> Iterator[Check]:
    expected, inputs = reference.expected, reference.inputs
    text, _ = reference.embeddings()
    images = torch.cat([reference.images("real_images_u8"), reference.images("dpo_loser_images_u8")])
    with torch.no_grad():
        mean, std = reference.vae.posterior(images)
    clean = posterior_sample(mean, std, inputs["dpo_posterior_noise"], reference.vae.scale)
    ones = torch.ones(len(clean) // 2)
    pairs = LatentPairs(*clean.chunk(2), label=ones, weight=ones)
    noise, t = inputs["dpo_forward_noise"], inputs["dpo_timesteps"]
    policy, parameters = _policy(reference)
    found = pair_errors(policy, Denoiser(reference.base, reference.schedule).prediction, pairs, noise, t, text)
    errors = torch.cat([found.winner.policy, found.loser.policy])
    others = torch.cat([found.winner.base, found.loser.base])
    settings = diffusion_dpo.Settings(kind="diffusion_dpo", beta=float(expected.value(tag, "beta")))
    loss = diffusion_dpo.loss(found, settings).root
    loss.backward()
    for name, latents in expected.under(f"{tag}.noisy"):
        noisy = torch.cat([reference.schedule.noised(part, noise, t) for part in (pairs.winner, pairs.loser)])
        yield compare(f"{tag}.noisy{name}", noisy, latents, VALUE)
    yield compare(f"{tag}.model_losses", errors, expected.array(f"{tag}.model_losses"), VALUE)
    yield compare(f"{tag}.ref_losses", others, expected.array(f"{tag}.ref_losses"), VALUE)
    yield compare(
        f"{tag}.inside_term", settings.beta / 2 * found.margin, expected.array(f"{tag}.inside_term"), GRADIENT
    )
    yield compare(f"{tag}.loss", loss, expected.value(tag, "loss"), GRADIENT)
    right, count = int((found.margin > 0).sum()), len(ones)
    yield compare(f"{tag}.implicit_acc", right, count * expected.value(tag, "implicit_acc"), COUNT)
    yield compare(f"{tag}.raw_model_loss", errors.mean(), expected.value(tag, "raw_model_loss"), VALUE)
    yield compare(f"{tag}.raw_ref_loss", others.mean(), expected.value(tag, "raw_ref_loss"), VALUE)
    yield from gradient_checks(reference, tag, (tag,), parameters, STEEP, STEEP)


def _states(reference: ParitySet) -> tuple[Tensor, Tensor, NoiseGrid]:
    """Noised latents [B, 4, h, w], their timesteps [B], and their grid."""
    grid = reference.schedule.grid(len(reference.expected.array("pg.grid50_timesteps")))
    t = grid.timesteps[reference.inputs["pg_timestep_index"]]
    clean = given_batch(reference).clean
    assert clean is not None
    x = reference.schedule.noised(clean, reference.inputs["pg_x"], t)
    return x, t, grid


def _transition(reference: ParitySet, network: Denoiser, scale: float) -> tuple[Gaussian, Tensor]:
    """The guided stochastic step of a network from the set's states, and its noise prediction."""
    x, t, grid = _states(reference)
    text, empty = reference.embeddings()
    eps = network.prediction(x, t, text, empty, scale)
    return grid.transition(x, eps, reference.inputs["pg_timestep_index"]), eps


def _policy_gradient(reference: ParitySet) -> Iterator[Check]:
    expected, inputs, config = reference.expected, reference.inputs, reference.config["ddpo"]
    x, t, _ = _states(reference)
    yield compare(
        "pg.grid50_timesteps", reference.schedule.grid(50).timesteps, expected.array("pg.grid50_timesteps"), EXACT
    )
    yield compare("pg.timesteps", t, expected.array("pg.timesteps"), EXACT)
    yield compare("pg.x_t", x, expected.array("pg.x_t"), VALUE)
    with torch.no_grad():
        old, eps = _transition(reference, Denoiser(reference.base, reference.schedule), float(config["cfg"]))
    after = old.sample(inputs["pg_noise"])
    old_density = old.log_prob(after)
    for name in ("ddpo", "ddpo_logprob_mean"):
        if not expected.tags(name):
            continue
        policy, parameters = _policy(reference)
        density = _transition(reference, policy, float(config["cfg"]))[0].log_prob(after)
        found = clipped_loss(density, old_density, inputs["pg_advantages"], float(config["clip"]), float(config["adv"]))
        loss = found.loss if name == "ddpo" else density.mean()
        loss.backward()
        terms = torch.stack([found.unclipped, found.clipped]) if name == "ddpo" else density
        yield compare(f"{name}.loss", loss, expected.value(name, "loss"), VALUE, float(terms.detach().abs().max()))
        yield from gradient_checks(reference, name, (name,), parameters, GRADIENT, GRADIENT)
        if name == "ddpo":
            for part, values in (
                ("old_eps", eps), ("next_latents", after), ("old_log_prob", old_density), ("new_log_prob", density),
                ("ratio", found.ratio), ("unclipped_loss", found.unclipped), ("clipped_loss", found.clipped),
            ):  # fmt: skip
                yield compare(f"ddpo.{part}", values, expected.array(f"ddpo.{part}"), VALUE)


def _soft_q(reference: ParitySet) -> Iterator[Check]:
    expected, inputs, config = reference.expected, reference.inputs, reference.config["sqdf"]
    scale, shift = float(config["cfg"]), float(expected.value("sqdf", "reward_shift"))
    index = inputs["pg_timestep_index"]
    last = len(expected.array("pg.grid50_timesteps")) - 1
    policy, parameters = _policy(reference)
    base = Denoiser(reference.base, reference.schedule)
    own, _ = _transition(reference, policy, scale)
    with torch.no_grad():
        other, _ = _transition(reference, base, scale)
    x = own.sample(inputs["pg_noise"])
    kl = 2 * own.kl(other)
    clean = _tweedie(reference, base, x, index, last, scale)
    cosine = reference.reward(reference.vae.decode(clean), reference.prompts)
    reward = cosine + shift
    loss = soft_q_loss(reward, kl, last - index, float(config["gamma"]), float(config["alpha"]), reward > 0)
    loss.backward()
    for part, values in (("x_prev", x), ("kl", kl), ("x0_hat", clean), ("cosine", cosine), ("reward", reward)):
        yield compare(f"sqdf.{part}", values, expected.array(f"sqdf.{part}"), GRADIENT)
    yield compare("sqdf.mask", (reward > 0).float(), expected.array("sqdf.mask"), EXACT)
    yield compare("sqdf.gamma_exponent", last - index, expected.array("sqdf.gamma_exponent"), EXACT)
    given = [expected.value("sqdf", key) for key in ("gamma", "alpha", "cfg")]
    yield same("sqdf.gamma, alpha, cfg", given, [config[key] for key in ("gamma", "alpha", "cfg")])
    largest = float(torch.stack([reward, float(config["alpha"]) * kl]).detach().abs().max())
    yield compare("sqdf.loss", loss, expected.value("sqdf", "loss"), GRADIENT, largest)
    yield from gradient_checks(reference, "sqdf", ("sqdf",), parameters, GRADIENT, GRADIENT)


def _tweedie(reference: ParitySet, base: Denoiser, x: Tensor, index: Tensor, last: int, scale: float) -> Tensor:
    """Clean latents that the base predicts at the next index of the grid; x itself after the last."""
    grid = reference.schedule.grid(last + 1)
    following = (index + 1).clamp(max=last)
    text, empty = reference.embeddings()
    eps = base.prediction(x, grid.timesteps[following], text, empty, scale)
    return torch.where((index == last).reshape(-1, 1, 1, 1), x, grid.x0(x, eps, following))
