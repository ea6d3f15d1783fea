"""Training steps by the methods and the trainer: predictions, losses, gradients, accumulation."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from stages.errors import InputError
from stages.finetune.batch import Batch
from stages.finetune.families.reward_gradient import RewardGradient, Step, StepOutput
from stages.finetune.methods import draft_k, imagerefl, refl
from stages.finetune.networks import Networks
from stages.finetune.objective import Run
from stages.finetune.reward import CountedReward, LatentReward
from stages.finetune.settings import FinetuneSettings
from stages.finetune.training import Trainer
from stages.models.diffusion import Denoiser, posterior_sample
from stages.models.noise import GivenNoise
from stages.models.policy import make_policy
from stages.parity.checks import GRADIENT, VALUE, Check, compare, norms, same
from stages.parity.parts import rollout_steps
from stages.parity.reference import ParitySet
from stages.parity.rounding import with_rounding

Method = Callable[[Networks, Batch], Step]
LR, BETAS = 3e-4, (0.9, 0.999)
ACCUMULATED_WEIGHT = 0.01


@dataclass(frozen=True)
class Item:
    """What an item trains with: a method, the weight of its diffusion loss, its grid, guidance and stray step.

    `error_at` is the index of the diffusion loss, None where there is none. Where it has a weight, its prediction comes
    first.
    """

    method: Method
    weight: float
    steps: int
    error_at: int | None
    guidance: float = 1.0
    extra_step: bool = False


@dataclass(frozen=True)
class NetworkCall:
    """One call of the network: its index, input, prediction, and whether gradients were recorded."""

    index: int
    x: Tensor
    eps: Tensor
    gradient: bool


def checks(reference: ParitySet) -> Iterator[Check]:
    """Every training item of the set."""
    for tag in reference.expected.tags("train"):
        yield from with_rounding(reference.networks, partial(_step, reference, tag))
    if reference.expected.tags("accumulation"):
        yield _accumulation(reference)


def item(reference: ParitySet, tag: str) -> Item:
    """The method behind a tag such as `imagerefl_s30_m33_mse0`; its weight stands in expected.json."""
    weight, steps = float(reference.expected.value("train", tag, "mse_loss_scale") or 0.0), rollout_steps(reference)
    if found := re.fullmatch(r"refl_(cfg_)?m(\d+)_mse[\d.e-]+", tag):
        m, guidance = int(found[2]), float(reference.config["guidance"]) if found[1] else 1.0
        return Item(lambda t, b: refl.step_with(t, b, m, weight), weight, steps, m, guidance)
    if found := re.fullmatch(r"imagerefl_s(\d+)_m(\d+)(_official_offbyone|_clean|_mse0)?", tag):
        s, m, extra = int(found[1]), int(found[2]), found[3] == "_official_offbyone"
        return Item(lambda t, b: imagerefl.step_with(t, b, s, m, weight), weight, steps, s, extra_step=extra)
    if found := re.fullmatch(r"draft_first(\d+)_k(\d+)_T(\d+)", tag):
        k, steps = int(found[2]), int(found[3])
        return Item(lambda t, b: draft_k.step_with(t, b, k), 0.0, steps, None)
    raise InputError(f"parity set: unknown training item {tag!r}")


def given_batch(reference: ParitySet, micro: int = 0) -> Batch:
    """The micro-batch of the set: its prompts, its noise, and its real images as latents."""
    inputs = reference.inputs
    named = {"forward": inputs["forward_noise"], "posterior": inputs["posterior_noise"]}
    text, _ = reference.embeddings()
    with torch.no_grad():
        mean, std = reference.vae.posterior(reference.images("real_images_u8"))
    clean = posterior_sample(mean, std, named["posterior"], reference.vae.scale)
    noise = GivenNoise(inputs["x_T"], inputs["z"], named)
    return Batch(reference.prompts, text, noise, random.Random(0), micro, clean)


def trainer(
    reference: ParitySet, given: Item, method: Method, loss_scale: float, changes: Mapping[str, object]
) -> Trainer:
    """A trainer of every weight of the tuned network, as `finetune` starts one, without clipping."""
    base = {"optimizer": {"lr": LR, "betas": BETAS, "clip_norm": None}, "guidance": given.guidance}
    released = {"loss_scale": loss_scale, "extra_step": given.extra_step, "sum_accumulation": True}
    shared = FinetuneSettings.model_validate(base | {"as_released": released})
    settings = FinetuneSettings.model_validate(shared.overridden(changes))
    policy = make_policy(reference.tuned, "full")
    _, empty = reference.embeddings()
    networks = Networks(
        policy=Denoiser(policy.network, reference.schedule), grid=reference.schedule.grid(given.steps), empty=empty,
        guidance=settings.guidance, extra_step=settings.as_released.extra_step,
    )  # fmt: skip
    run = Run(networks, LatentReward(reference.vae.decode, CountedReward(reference.reward), settings), settings)
    return Trainer.start(run, RewardGradient(run, partial(method, networks)), dict(policy.parameters()))


def gradient_norms(parameters: Mapping[str, Tensor]) -> dict[str, float]:
    """L2 norm of each parameter's gradient, in double precision; 0 where there is none."""
    return {n: 0.0 if p.grad is None else float(p.grad.double().norm()) for n, p in parameters.items()}


def total(values: Mapping[str, float]) -> float:
    """Norm of all parameters together."""
    return sum(value**2 for value in values.values()) ** 0.5


def gradient_checks(
    reference: ParitySet,
    name: str,
    section: Sequence[str],
    parameters: Mapping[str, Tensor],
    tolerance: float,
    whole: float,
) -> Iterator[Check]:
    """Norms of the gradients that stand in `parameters`, and the full ones that the set holds."""
    found, expected = gradient_norms(parameters), reference.expected
    norm = expected.value(*section, "grad_norm_total")
    yield compare(f"{name}.grad_norm_total", total(found), norm, whole)
    yield from norms(f"{name}.grad_norms", found, expected.value(*section, "grad_norms"), tolerance)
    for parameter, gradient in expected.under(f"{name}.grad."):
        yield compare(f"{name}.grad.{parameter}", parameters[parameter].grad, gradient, tolerance)


def _step(reference: ParitySet, tag: str) -> Iterator[Check]:
    expected, name, given = reference.expected, f"train.{tag}", item(reference, tag)
    judged: list[StepOutput] = []

    def method(networks: Networks, batch: Batch) -> Step:
        judged.append((yield from given.method(networks, batch)))
        return judged[-1]

    made = trainer(reference, given, method, float(expected.value("train", tag, "loss_scale")), {})
    batch, seen = given_batch(reference), watch(made.run.networks)
    [terms] = made.backward([batch])
    error = terms.get("loss_diffusion")
    if error is None and given.error_at is not None:
        with torch.no_grad():
            error = made.run.networks.diffusion_error(batch, given.error_at)
    yield from _losses(reference, tag, terms, error)
    yield from _evaluations(reference, tag, given, seen)
    yield from _images(reference, tag, judged[-1].x0.detach())
    yield from gradient_checks(reference, name, ("train", tag), made.parameters, GRADIENT, VALUE)
    norm = torch.nn.utils.get_total_norm([p.grad for p in made.parameters.values() if p.grad is not None])
    yield compare(f"{name}.grad_norm_official", norm, expected.value("train", tag, "grad_norm_official"), VALUE)


def watch(networks: Networks) -> list[NetworkCall]:
    """A list that fills with the evaluations of the policy."""
    seen: list[NetworkCall] = []
    indices = {int(t): i for i, t in enumerate(networks.grid.timesteps)}

    def note(x: Tensor, t: Tensor, eps: Tensor) -> None:
        seen.append(NetworkCall(indices[int(t)], x.detach(), eps.detach(), torch.is_grad_enabled()))

    networks.policy.seen = note
    return seen


def _losses(reference: ParitySet, tag: str, terms: Mapping[str, Tensor], error: Tensor | None) -> Iterator[Check]:
    expected, name = reference.expected, f"train.{tag}"
    largest = float(expected.array(f"{name}.reward").abs().max())
    scale = float(expected.value("train", tag, "loss_scale"))
    yield compare(
        f"{name}.loss_total", terms["loss"], expected.value("train", tag, "loss_total"), VALUE, scale * largest
    )
    yield compare(f"{name}.L_R", -terms["reward"], expected.value("train", tag, "L_R"), VALUE, largest)
    wanted = expected.value("train", tag, "L_mse")
    if error is None or wanted is None:
        yield same(f"{name}.L_mse", error, wanted)
    else:
        yield compare(f"{name}.L_mse", error, wanted, VALUE)


def _evaluations(reference: ParitySet, tag: str, given: Item, seen: list[NetworkCall]) -> Iterator[Check]:
    """What went into and came out of the network, at the judged step and for the diffusion loss, and in which order."""
    expected, name = reference.expected, f"train.{tag}"
    recorded = [one for one in seen if one.gradient]
    judged = recorded[-1]
    yield compare(f"{name}.x_m", judged.x, expected.array(f"{name}.x_m"), VALUE)
    yield compare(f"{name}.eps_m", judged.eps, expected.array(f"{name}.eps_m"), VALUE)
    if given.error_at is not None:
        of_error = recorded[0] if given.weight else seen[-1]
        yield compare(f"{name}.mse_x", of_error.x, expected.array(f"{name}.mse_x"), VALUE)
        yield compare(f"{name}.mse_eps", of_error.eps, expected.array(f"{name}.mse_eps"), VALUE)
    middle = expected.value("train", tag, "mid")
    if middle is not None:
        yield same(f"{name}.mid", judged.index, middle)
    indices = expected.value("train", tag, "step_index_sequence")
    recording = expected.value("train", tag, "grad_enabled")
    wanted = list(zip(indices, recording, strict=True))
    if given.weight:
        wanted = reused(wanted)
    yield same(f"{name}.step_index_sequence, grad_enabled", [(one.index, one.gradient) for one in seen], wanted)


def reused(sequence: list[tuple[int, bool]]) -> list[tuple[int, bool]]:
    """The released order of evaluations as it is here, where the one for the diffusion loss comes first, not last.

    In ImageReFL the first step of the rollout (or the judged one) asks for the same prediction and goes without.
    """
    *others, error = sequence
    return [error, *others[1:]] if others[0][0] == error[0] else [error, *others]


@torch.no_grad()
def _images(reference: ParitySet, tag: str, x0: Tensor) -> Iterator[Check]:
    expected, name = reference.expected, f"train.{tag}"
    raw = reference.vae.decode_raw(x0)
    reward = reference.reward(reference.vae.decode(x0), reference.prompts)
    yield compare(f"{name}.x0", x0, expected.array(f"{name}.x0"), VALUE)
    yield compare(f"{name}.reward", reward, expected.array(f"{name}.reward"), VALUE)
    yield compare(f"{name}.reward (JSON)", reward, expected.value("train", tag, "reward"), VALUE)
    crop = raw[:, :, 28:36, 28:36]
    yield compare(f"{name}.image_raw_crop", crop, expected.array(f"{name}.image_raw_crop"), VALUE)
    moments = [expected.value("train", tag, f"image_raw_{moment}") for moment in ("mean", "std")]
    yield compare(f"{name}.image_raw_mean, image_raw_std", [raw.mean(), raw.std()], moments, VALUE)


def _accumulation(reference: ParitySet) -> Check:
    """The norm of the summed gradients of two ImageReFL micro-batches with different m."""
    mids, start = reference.expected.value("accumulation", "mids"), int(reference.config["start"])

    def method(networks: Networks, batch: Batch) -> Step:
        return imagerefl.step_with(networks, batch, start, mids[batch.micro], ACCUMULATED_WEIGHT)

    given = Item(method, ACCUMULATED_WEIGHT, rollout_steps(reference), start)
    made = trainer(reference, given, method, 1e-3, {})
    first = given_batch(reference)
    terms = made.step([replace(first, micro=micro) for micro in range(len(mids))])
    norm = reference.expected.value("accumulation", "grad_norm_total")
    return compare("accumulation.grad_norm_total", terms["grad_norm"], norm, VALUE)
