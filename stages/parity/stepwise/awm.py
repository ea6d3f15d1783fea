"""AWM: likenesses of own images noised again, advantages and the loss as released, on noise prediction and on flows.

The items take several noisings of each image, which are rows of one batch here. Two parts of their loss are no settings
of the method: guided predictions, and the divergence from a moving copy of the policy; the comparison evaluates both
with the method's functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stages.finetune.families.matching import Matched, denoising_error
from stages.finetune.families.policy_gradient import Collected
from stages.finetune.methods import awm
from stages.finetune.trajectories.advantages import History
from stages.models.diffusion import Denoiser
from stages.models.process import DiffusionProcess
from stages.models.process_flow import FlowMatching
from stages.models.process_noise import NoiseSchedule
from stages.parity.checks import EXACT, Check
from stages.parity.stepwise.given import VALUE, Given, Item, guidance, of_terms

LIKENESS = {"Uniform": "error", "t": "t", "t**2": "t2", "huber": "huber", "ghuber": "ghuber"}
EACH = "exp_first"  # a ratio for every noising
SUMMED = "a ratio of means over several noisings of an image is not here"


class Velocity(nn.Module):
    """A noise network as the velocity e - x0 of the flow at time s / (a + s): its states are x / (a + s)."""

    def __init__(self, network: nn.Module, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.network, self.schedule = network, schedule
        alpha = schedule.alphas_cumprod
        self.signal, self.noise = alpha.sqrt(), (1 - alpha).sqrt()

    def times(self, t: Tensor) -> Tensor:
        """The flow time of timesteps t of the schedule."""
        return self.noise[t] / (self.signal[t] + self.noise[t])

    def forward(self, z: Tensor, t: Tensor, encoder_hidden_states: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        """The velocity [B, C, h, w] at z of timesteps that are `train steps` times a flow time of the schedule."""
        every = self.times(torch.arange(len(self.signal))) * len(self.signal)
        near = (every - t[:, None]).abs().argmin(1)
        scale = (self.signal + self.noise)[near].reshape(-1, 1, 1, 1)
        found = self.network(z * scale, near, encoder_hidden_states=encoder_hidden_states, return_dict=False)[0]
        return (found - self.schedule.x0(z * scale, found, near),)


@dataclass(frozen=True)
class World:
    """The process of an item: the noise schedule of the set, or a flow."""

    process: DiffusionProcess
    flow: bool

    def denoiser(self, network: nn.Module, schedule: NoiseSchedule) -> Denoiser:
        """The network in this process."""
        return Denoiser(Velocity(network, schedule) if self.flow else network, self.process)


def checks(given: Given) -> Iterator[Check]:
    """Every item of both forms."""
    schedule = given.reference.schedule
    flow = FlowMatching(1.0, len(schedule.alphas_cumprod), torch.device("cpu"))
    for item in [*given.items("awm"), *given.items("awm_flow")]:
        flows = item.setting("form") == "flow"
        yield from _item(given, item, World(flow if flows else schedule, flows))


def settings_of(item: Item) -> awm.Settings:
    """The method's settings of an item."""
    deviation = "batch" if item.setting("global_std") else "prompt"
    return awm.Settings.model_validate({
        "kind": "parity", "clip": item.setting("clip_range"), "likeness": LIKENESS[item.setting("weighting")],
        "power": item.setting("ghuber_power"), "largest_advantage": item.setting("adv_clip_max"), "least_history": 1,
        "as_released": {"deviation": deviation, "advantage_max": item.setting("advantage_max")},
    })  # fmt: skip


def _item(given: Given, item: Item, world: World) -> Iterator[Check]:
    settings, schedule, trained = settings_of(item), given.reference.schedule, given.trained()
    t = item.input("timesteps")
    count, images = t.shape
    noise = given.reference.inputs[f"awm.noise{count}"]
    policy = world.denoiser(trained.denoiser.network, schedule)
    share = 1 - item.setting("ema_decay")
    others = {
        "policy": world.denoiser(given.reference.tuned, schedule), "base": world.denoiser(given.base.network, schedule),
        "average": world.denoiser(given.between(share), schedule),
    }  # fmt: skip
    times = Velocity(given.base.network, schedule).times(t) * len(schedule.alphas_cumprod) if world.flow else t
    rows = Rows(given, policy.process, noise.flatten(0, 1), times.flatten(), guidance(item))

    prediction, error = rows.seen(policy)
    with torch.no_grad():
        found = {name: rows.seen(other) for name, other in others.items()}
    old = found["average" if item.setting("off_policy") else "policy"][1]
    time = policy.process.time(rows.t)
    advantages, raw = _advantages(item, settings)
    yield item.check("flow_time", time.reshape(count, images), VALUE)
    yield item.check("noised", rows.x.reshape(noise.shape), VALUE)
    yield item.check("prediction", prediction.reshape(noise.shape), VALUE)
    new, before = (awm.likeness(e, time, settings).reshape(count, images) for e in (error, old))
    yield item.check("log_prob", new, VALUE)
    yield item.check("old_log_prob", before, VALUE)
    yield item.check("advantages_raw", raw, VALUE)

    item.leave("the deviation of a sampler with noise, which weighs a divergence that is not here", "std")
    if item.setting("loss_type") != EACH:
        item.leave(SUMMED, "ratio", "clipped", "advantages", "policy_loss")
    else:
        yield from _policy(item, settings, Matched(error, old, advantages.repeat(count), time))
    weights = item.setting("beta"), item.setting("ema_beta")
    divergences = {name: (prediction - found[other][0]).square().mean()
                   for name, other in (("kl_loss", "base"), ("ema_kl_loss", "average"))}  # fmt: skip
    if item.setting("kl_weight") != "Uniform":
        item.leave("a divergence weighed by a deviation is not here", *divergences)
    else:
        for name, value in divergences.items():
            yield item.check(name, value, VALUE)
    if item.setting("loss_type") != EACH or item.setting("kl_weight") != "Uniform":
        item.leave("has parts that are not here", "loss", "grad_norms", "grad_norm_total", *whole_gradients(item))
        return
    policy_loss = awm.loss(Matched(error, old, advantages.repeat(count), time), settings).root
    loss = policy_loss + sum(w * value for w, value in zip(weights, divergences.values(), strict=True))
    loss.backward()
    yield item.check("loss", loss, VALUE, of_terms(advantages))
    yield from given.gradients(item, trained)


def whole_gradients(item: Item) -> list[str]:
    """The names of the item's whole gradients."""
    start = f"{item.name}."
    return [name.removeprefix(start) for name in item.expected.arrays if name.startswith(f"{start}grad.")]


def _policy(item: Item, settings: awm.Settings, matched: Matched) -> Iterator[Check]:
    new, old = (awm.likeness(e.detach(), matched.time, settings) for e in (matched.error, matched.old_error))
    ratio = torch.exp(new - old)
    yield item.check("advantages", matched.advantage, VALUE)
    yield item.check("ratio", ratio, VALUE)
    yield item.check("clipped", (ratio - 1).abs() > settings.clip, EXACT)
    yield item.check("policy_loss", awm.loss(matched, settings).root, VALUE, of_terms(matched.advantage))


@dataclass(frozen=True)
class Rows:
    """The images noised to t [N] by noise [N, C, h, w]."""

    given: Given
    process: DiffusionProcess
    noise: Tensor
    t: Tensor
    guidance: float

    @property
    def clean(self) -> Tensor:
        """Clean latents [N, C, h, w]."""
        return self.given.clean.repeat(len(self.t) // len(self.given.clean), 1, 1, 1)

    @property
    def x(self) -> Tensor:
        """The noised states [N, C, h, w]."""
        return self.process.noised(self.clean, self.noise, self.t)

    def seen(self, denoiser: Denoiser) -> tuple[Tensor, Tensor]:
        """A network's predictions [N, C, h, w] and their errors [N]."""
        text, empty = self.given.texts
        every = text[list(range(len(text))) * (len(self.t) // len(text))]
        found = denoiser.prediction(self.x, self.t, every, empty, self.guidance)
        return found, denoising_error(denoiser, found, self.clean, self.noise)


def _advantages(item: Item, settings: awm.Settings) -> tuple[Tensor, Tensor]:
    """Advantages [B], scaled and not."""
    rewards, prompts = item.input("rewards").double(), item.setting("prompts")
    plain = settings.model_copy(update={"as_released": settings.as_released.model_copy(update={"advantage_max": None})})
    scaled, raw = (
        awm.advantages(Collected(rewards, rewards, prompts, History(len(prompts), 1)), own) for own in (settings, plain)
    )
    return scaled, raw
