"""MaPO, as released (in single precision, whose digits it loses) and exactly."""

from __future__ import annotations

from collections.abc import Iterator

from stages.finetune.methods import mapo
from stages.parity.checks import Check, compare
from stages.parity.preference.given import LOSS, VALUE, Given, Item, values

EXACT_GRADIENT = 4e-4
RELEASED, RELEASED_GRADIENT = 1e-2, 5e-2
"""The release computes exp(x) - 1 in single precision and multiplies differences of it by 1000."""


def checks(given: Given) -> Iterator[Check]:
    """The items."""
    for item in given.items("mapo"):
        yield from _loss(given, item)


def _loss(given: Given, item: Item) -> Iterator[Check]:
    exact, trained = item.has("exact") and item.setting("exact"), given.trained()
    tolerance, steep = (LOSS, EXACT_GRADIENT) if exact else (RELEASED, RELEASED_GRADIENT)
    settings = mapo.Settings(
        kind="mapo", beta=item.setting("beta"), snr=item.setting("snr_value"), factor=item.setting("factor")
    )
    pairs = given.errors(trained)
    loss = mapo.loss(pairs, settings)
    loss.root.backward()
    scores = [mapo.score(side.policy, settings.snr) for side in (pairs.winner, pairs.loser)]
    yield item.check("model_losses", values(pairs), VALUE)
    yield item.check("win_score", scores[0], tolerance)
    yield item.check("lose_score", scores[1], tolerance)
    ratio = settings.beta * (settings.factor * (scores[0] - scores[1])).sigmoid().log()
    yield item.check("ratio_losses", ratio, tolerance)
    yield item.check_loss(loss.root, tolerance)
    if item.has("mean_winner_error"):
        wanted = item.setting("mean_winner_error")
        yield compare(f"{item.name}.mean_winner_error", loss.terms["loss_diffusion"], wanted, VALUE)
    yield from given.gradients(item, trained, steep)
