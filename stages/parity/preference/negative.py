"""Diffusion-NPO: the loss of pairs whose images are exchanged."""

from __future__ import annotations

from collections.abc import Iterator

from stages.finetune.methods import diffusion_npo
from stages.parity.checks import Check
from stages.parity.preference.given import LOSS, VALUE, Given, Item, values


def checks(given: Given) -> Iterator[Check]:
    """The items that train; the inputs say which of the two images of a pair is preferred."""
    for item in given.items("npo"):
        if item.has("loss_type"):
            yield from _loss(given, item)


def _loss(given: Given, item: Item) -> Iterator[Check]:
    trained, half, beta = given.trained(), item.setting("half_beta"), float(item.setting("beta"))
    pairs = given.errors(trained)
    beta = beta if half else 2 * beta  # half of it enters the loss here
    settings = diffusion_npo.Settings.model_validate(
        {"kind": "diffusion_npo", "beta": beta, "loss": item.setting("loss_type")}
    )
    loss = diffusion_npo.loss(pairs, settings).root
    loss.backward()
    other = pairs.exchanged()
    yield item.check("model_losses", values(other), VALUE)
    yield item.check("ref_losses", values(other, base=True), VALUE)
    yield item.check("logits", (beta / 2 if half else 1) * other.margin, LOSS)
    yield item.check_loss(loss)
    yield item.check_share("implicit_acc", other.margin > 0)
    yield from given.gradients(item, trained)
