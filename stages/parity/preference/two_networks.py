"""CHATS: the joint loss of two networks, and the gradient of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from stages.finetune.families.pair_errors import Noisy, PairErrors, both
from stages.finetune.families.two_networks import both_errors
from stages.finetune.methods import chats
from stages.parity.checks import Check
from stages.parity.preference.given import LOSS, VALUE, Given, Item


def checks(given: Given) -> Iterator[Check]:
    """The items that train."""
    for item in given.items("chats"):
        if item.has("lose_prompt_zeroed"):
            yield from _loss(given, item)


def _loss(given: Given, item: Item) -> Iterator[Check]:
    win, lose = given.trained(), given.trained(given.third)
    clean, text = both(given.pairs, given.text)
    t, noise = (torch.cat([given.inputs[name]] * 2) for name in ("pair_timesteps", "pair_noise"))
    noisy = Noisy(given.reference.schedule.noised(clean, noise, t), t, text, noise)
    predictions = win.denoiser.prediction, lose.denoiser.prediction, given.base.prediction
    ones = torch.ones(len(given.text))
    pairs = PairErrors(*both_errors(*predictions, noisy, item.setting("lose_prompt_zeroed")), ones, ones)
    settings = chats.Settings(kind="chats", beta=2 * item.setting("beta"))  # half of it enters the loss here
    loss = chats.loss(pairs, settings).root
    loss.backward()
    yield item.check("model_losses_w", pairs.winner.policy, VALUE)
    yield item.check("model_losses_l", pairs.loser.policy, VALUE)
    yield item.check("ref_losses", torch.cat([pairs.winner.base, pairs.loser.base]), VALUE)
    yield item.check("inside_term", settings.beta / 2 * (pairs.winner.log_ratio + pairs.loser.log_ratio), LOSS)
    yield item.check_loss(loss)
    for side, trained in (("win", win), ("lose", lose)):
        yield from given.gradients(replace(item, name=f"{item.name}.{side}"), trained)
