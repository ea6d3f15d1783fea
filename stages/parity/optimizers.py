"""Optimizer steps: how far each of them moves the weights, within what the error of the gradient allows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from stages.errors import InputError
from stages.finetune.settings import FinetuneSettings
from stages.parity.adam import Adam, Reach
from stages.parity.checks import GRADIENT, STEEP, VALUE, Check, compare, same, within
from stages.parity.reference import ParitySet
from stages.parity.training import Item, given_batch, item, total, trainer

FIRST_FACTOR = 65536.0  # of the gradient in the first of two steps; the start value of torch's GradScaler
OPTIMIZERS: dict[str, dict[str, object]] = {
    "adam_plain": {},
    "adam_scaler_only": {},  # a scaler alone changes nothing: it multiplies and divides by a power of two
    "adam_official_double_step": {"as_released": {"double_step": True}},
    "adamw_official_double_step": {"as_released": {"double_step": True}, "optimizer": {"weight_decay": 0.01}},
    "adam_plain_eps1e_6": {"optimizer": {"eps": 1e-6}},
}


def checks(reference: ParitySet) -> Iterator[Check]:
    """Every item of one optimizer step; all of them take the gradient of the same ImageReFL step."""
    if not reference.expected.tags("optim"):
        return
    start, m = int(reference.config["start"]), int(reference.config["opt_m"])
    given = item(reference, f"imagerefl_s{start}_m{m}")
    made = trainer(reference, given, given.method, 1e-3, {})
    made.backward([given_batch(reference)])
    gradient = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in made.parameters.items()}
    for tag in reference.expected.tags("optim"):
        if tag == "grad_abs_quantiles":
            yield _quantiles(reference, gradient)
        elif tag in OPTIMIZERS:
            yield from _optimizer(reference, tag, given, m, gradient)
        else:
            raise InputError(f"parity set: unknown optimizer item {tag!r}")


def _optimizer(reference: ParitySet, tag: str, given: Item, m: int, gradient: Mapping[str, Tensor]) -> Iterator[Check]:
    expected, name = reference.expected, f"optim.{tag}"
    made = trainer(reference, given, given.method, 1e-3, OPTIMIZERS[tag])
    before = {n: p.detach().clone() for n, p in made.parameters.items()}
    terms = made.step([given_batch(reference)])
    moved = {n: p.detach() - before[n] for n, p in made.parameters.items()}
    lengths = {n: float(value.double().norm()) for n, value in moved.items()}
    adam = _adam(made.run.settings)
    reach = {n: Reach.of(adam, gradient[n], weights, GRADIENT) for n, weights in before.items()}
    yield same(f"{name}.mid", m, expected.value("optim", tag, "mid"))
    norm = expected.value("optim", tag, "delta_norm_total")
    yield compare(f"{name}.delta_norm_total", total(lengths), norm, VALUE)
    yield from _lengths(f"{name}.delta_norms", lengths, expected.value("optim", tag, "delta_norms"), reach)
    for parameter, delta in expected.under(f"{name}.delta."):
        yield within(f"{name}.delta.{parameter}", moved[parameter], delta, reach[parameter].elements)
    counts = {int(state["step"]) for state in made.optimizer.state.values()}
    yield same(f"{name}.adam_step_count", counts, {expected.value("optim", tag, "adam_step_count")})
    after = expected.value("optim", tag, "grad_norm_after")
    yield compare(f"{name}.grad_norm_after", terms["grad_norm"], after, VALUE)


def _adam(settings: FinetuneSettings) -> Adam:
    """The optimizer of some settings as a function of the gradient."""
    used = settings.optimizer
    factors = (FIRST_FACTOR, 1.0) if settings.as_released.double_step else (1.0,)
    return Adam(used.lr, used.betas, used.eps, used.weight_decay, factors)


def _lengths(
    name: str, found: Mapping[str, float], expected: Mapping[str, float], reach: Mapping[str, Reach]
) -> Iterator[Check]:
    """Two checks of a step's length by parameter: against the longest, and each within what its gradient allows."""
    if found.keys() != expected.keys():
        yield same(f"{name} (names)", sorted(found), sorted(expected))
        return
    apart = {n: abs(found[n] - expected[n]) for n in expected}
    allowed = {n: reach[n].length(found[n], expected[n]) for n in expected}
    longest = max(expected.values())
    yield within(name, list(apart.values()), [0.0] * len(apart), [max(STEEP * longest, a) for a in allowed.values()])
    yield within(f"{name} (each by itself)", list(apart.values()), [0.0] * len(apart), list(allowed.values()))


def _quantiles(reference: ParitySet, gradient: Mapping[str, Tensor]) -> Check:
    sizes = torch.cat([g.flatten().double().abs() for g in gradient.values()])
    wanted = reference.expected.value("optim", "grad_abs_quantiles")
    found = torch.quantile(sizes, torch.tensor([float(q) for q in wanted], dtype=torch.float64))
    return compare("optim.grad_abs_quantiles", found, list(wanted.values()), GRADIENT)
