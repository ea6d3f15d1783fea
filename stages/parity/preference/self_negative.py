"""Self-NPO: where truncated denoising ends, the states noised again from there, and the loss."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from stages.finetune.families.truncated import denoised, extrapolated, reached_times, renoised, start_times
from stages.finetune.methods import self_npo
from stages.parity.checks import EXACT, Check, compare
from stages.parity.preference.given import GRADIENT, LOSS, VALUE, Given, Item


def checks(given: Given) -> Iterator[Check]:
    """The items."""
    for item in given.items("self_npo"):
        yield from _loss(given, item)


def _loss(given: Given, item: Item) -> Iterator[Check]:
    trained, inputs, process = given.trained(), given.inputs, given.reference.schedule
    settings = self_npo.Settings(
        kind="self_npo", extrapolation=item.setting("w"), loss=item.setting("loss_type"), huber=item.setting("huber_c")
    )
    index, later = inputs["self_index"], inputs["self_sampled_timesteps"]
    t, empty = start_times(process, settings.levels, index), given.reference.embeddings()[1].expand(len(index))

    def worse(x: Tensor, t: Tensor) -> Tensor:
        wanted, plain = (given.base.prediction(x, t, text) for text in (given.text, empty))
        return extrapolated(wanted, plain, settings.extrapolation)

    start = process.noised(given.pairs.winner, inputs["self_noise"], t)
    end = denoised(process, settings, worse, start, index)
    x = renoised(process, end, later, inputs["self_noise2"])
    clean = process.x0(x, trained.denoiser.prediction(x, later, given.text), later)
    loss = self_npo.loss(clean - end.target, settings).root
    loss.backward()
    for name, found in (
        ("start_timesteps", t), ("end_timesteps", end.t), ("sampled_timesteps", later),
    ):  # fmt: skip
        yield compare(f"{item.name}.{name}", found, item.setting(name), EXACT)
    yield compare(f"{item.name} (end)", reached_times(process, settings, t), item.setting("end_timesteps"), EXACT)
    yield item.check("mask", (index >= settings.steps).float(), EXACT)
    for name, found in (("x_prev", end.x), ("target", end.target), ("sampled_x", x), ("model_x0", clean)):
        yield item.check(name, found, VALUE)
    yield item.check_loss(loss, LOSS)
    yield from given.gradients(item, trained, GRADIENT)
