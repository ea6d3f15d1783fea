"""SPIN-Diffusion, TDPO and TKTO, whose numbers come from formulas in double precision."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from stages.finetune.batch import LatentPairs
from stages.finetune.methods import spin, tdpo, tkto
from stages.models.conditioning import Conditioning
from stages.models.diffusion import posterior_sample
from stages.parity.checks import Check, compare
from stages.parity.preference.given import LOSS, VALUE, Given, Item, values

SAMPLED = "rollout.base_nocfg.x0"
"""The losers of self-play: an expected array of the set that has the networks."""


def checks(given: Given) -> Iterator[Check]:
    """The items."""
    for item in given.items("spin"):
        yield from _paired(given, item, _played(given))
    for item in given.items("tdpo"):
        yield from _paired(given, item, _texts(given))
    for item in given.items("tkto"):
        yield from _unpaired(given, item)


def _real(given: Given) -> Tensor:
    """Latents of the real images."""
    with torch.no_grad():
        mean, std = given.reference.vae.posterior(given.reference.images("real_images_u8"))
    return posterior_sample(mean, std, given.inputs["posterior_noise"], given.reference.vae.scale)


def _played(given: Given) -> LatentPairs:
    """Real images, and those that the base sampled for the same prompts."""
    real = _real(given)
    ones = torch.ones(len(real))
    return LatentPairs(real, given.reference.of_networks(SAMPLED), ones, ones)


def _texts(given: Given) -> LatentPairs:
    """Real images with their own captions and with others."""
    with torch.no_grad():
        other = Conditioning(given.reference.text.hidden(given.inputs["tpo_negative_ids"]))
    real = _real(given)
    ones = torch.ones(len(real))
    return LatentPairs(real, real, ones, ones, other)


def _paired(given: Given, item: Item, pairs: LatentPairs) -> Iterator[Check]:
    module, trained = spin if item.name.startswith("spin.") else tdpo, given.trained()
    errors = given.errors(trained, pairs)
    settings = module.Settings(kind="x", beta=item.setting("beta"))
    loss = module.loss(errors, settings).root  # type: ignore[arg-type]
    loss.backward()
    yield item.check("model_losses", values(errors), VALUE)
    yield item.check("ref_losses", values(errors, base=True), VALUE)
    yield item.check("inside_term", settings.beta / 2 * errors.margin, LOSS)
    yield item.check_loss(loss)
    yield from given.gradients(item, trained)


def _unpaired(given: Given, item: Item) -> Iterator[Check]:
    trained = given.trained()
    errors = given.errors(trained, _texts(given))
    loss = tkto.loss(errors, tkto.Settings(kind="tkto", beta=item.setting("beta")))
    loss.root.backward()
    gains = torch.cat([errors.winner.log_ratio, errors.loser.log_ratio])
    yield item.check("g", gains, LOSS)
    yield compare(f"{item.name}.z0", loss.terms["point"], item.setting("z0"), VALUE)
    yield item.check_loss(loss.root)
    yield from given.gradients(item, trained)
