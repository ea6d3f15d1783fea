from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from stages.finetune.batch import Batch
from stages.finetune.families.reward_gradient import RewardGradient, Step, StepOutput
from stages.finetune.methods import alignprop, draft_k, draft_lv, imagerefl, refl
from stages.finetune.networks import Networks
from stages.finetune.settings import FinetuneSettings
from stages.finetune.training import Trainer
from stages.models.policy import Trainable, make_policy
from stages.models.process_noise import NoiseGrid
from tests import tiny
from tests.trajectories import batch as batch_of_trajectories
from tests.trajectories import gradient as moved
from tests.trajectories import trainer

STEPS = 6
Method = Callable[[Networks, Batch], Step]
METHODS: dict[str, Method] = {
    "refl": lambda t, b: refl.step_with(t, b, 4, 0.0),
    "refl with diffusion loss": lambda t, b: refl.step_with(t, b, 4, 0.7),
    "draft 1": lambda t, b: draft_k.step_with(t, b, 1),
    "draft 3": lambda t, b: draft_k.step_with(t, b, 3),
    "draft lv": partial(draft_lv.step, settings=draft_lv.Settings(kind="draft_lv", renoise=2)),
    "imagerefl": lambda t, b: imagerefl.step_with(t, b, 2, 4, 0.7),
    "imagerefl at its start": lambda t, b: imagerefl.step_with(t, b, 2, 2, 0.7),
    "imagerefl without diffusion loss": lambda t, b: imagerefl.step_with(t, b, 2, 4, 0.0),
}


class Small(nn.Module):
    """A denoiser of 52 parameters with the call of a UNet: a small network a pixel, with time and text."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)

        def weights(*shape: int) -> nn.Parameter:
            return nn.Parameter(0.5 * torch.randn(*shape, generator=draw))

        self.first, self.time, self.words, self.second = weights(4, 4), weights(4), weights(4, 4), weights(4, 4)

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        text = encoder_hidden_states[..., :4].mean(1) @ self.words.T
        time = (t / 1000).to(x.dtype).reshape(-1, 1) * self.time
        hidden = torch.einsum("oc,bchw->bohw", self.first, x) + (text + time)[:, :, None, None]
        return (torch.einsum("oc,bchw->bohw", self.second, torch.tanh(hidden)),)


def smooth(latents: Tensor) -> Tensor:
    """A decoder to images of 16x16 without a clamp, over which differences would stumble."""
    images = torch.sigmoid(latents[:, :3] + 0.3 * latents[:, 3:])
    return images.repeat_interleave(2, 2).repeat_interleave(2, 3)


@dataclass
class Memory:
    """Tensors that a method takes without gradient: kept on the first pass, given back on every later one."""

    kept: list[Tensor] = field(default_factory=list)
    replay: bool = False
    place: int = 0

    def again(self, make: Callable[[], Tensor]) -> Tensor:
        if not self.replay:
            self.kept.append(make().detach())
        self.place += 1
        return self.kept[self.place - 1]


@dataclass(frozen=True)
class ReplayedGrid(NoiseGrid):
    memory: Memory = field(default_factory=Memory)

    def noised(self, clean: Tensor, noise: Tensor, i: int) -> Tensor:
        return self.memory.again(lambda: NoiseGrid.noised(self, clean, noise, i))


@dataclass(frozen=True)
class ReplayedNetworks(Networks):
    memory: Memory = field(default_factory=Memory)

    def rollout(self, batch: Batch, x: Tensor, start: int, stop: int, first: Tensor | None = None) -> Tensor:
        return self.memory.again(lambda: Networks.rollout(self, batch, x, start, stop, first))


def replayed(tools: Networks, memory: Memory) -> Networks:
    def values(of: object) -> dict[str, object]:
        return {f.name: getattr(of, f.name) for f in fields(of)}  # type: ignore[arg-type]

    grid = ReplayedGrid(**values(tools.grid), memory=memory)  # type: ignore[arg-type]
    return ReplayedNetworks(**values(tools) | {"grid": grid}, memory=memory)  # type: ignore[arg-type]


def double_trainer(network: nn.Module, method: Method, guidance: float) -> Trainer:
    settings = FinetuneSettings(guidance=guidance)
    return tiny.trainer(network, method, settings, STEPS, torch.float64, decode=smooth)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("name", METHODS)
def test_gradients_equal_finite_differences(name: str, guidance: float):
    network, memory = Small().double(), Memory()
    made = double_trainer(network, METHODS[name], guidance)
    tools = replayed(made.run.networks, memory)
    run = replace(made.run, networks=tools)
    made = Trainer.start(run, RewardGradient(run, partial(METHODS[name], tools)), made.parameters)
    batch = tiny.batch(steps=STEPS, dtype=torch.float64)

    def loss() -> float:
        memory.place = 0
        return float(made.backward([batch])[0]["loss"])

    loss()
    memory.replay = True
    gradients = {p: p.grad.clone() for p in network.parameters() if p.grad is not None}
    assert len(gradients) == 4
    draw = torch.Generator().manual_seed(4)
    for parameter, gradient in gradients.items():
        direction = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * 1e-4 * direction)
            values.append(loss())
            with torch.no_grad():
                parameter.sub_(sign * 1e-4 * direction)
        expected = (values[0] - values[1]) / 2e-4
        assert abs(expected) > 1e-7
        assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["norm_affine", "lora", "full"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["refl with diffusion loss", "draft 3", "draft lv", "imagerefl"])
def test_gradient_reaches_what_is_trained_and_nothing_else(name: str, precision: str, kind: Trainable):
    base = tiny.unet()
    policy = make_policy(base, kind)
    with torch.no_grad():  # LoRA's A has no gradient while B is zero
        for parameter_name, parameter in policy.parameters():
            if "lora_B" in parameter_name:
                parameter.add_(0.1)
    made = tiny.trainer(
        policy.network, METHODS[name], FinetuneSettings.model_validate({"precision": precision}), steps=STEPS
    )
    made.backward([tiny.batch(steps=STEPS)])
    without = [n for n, p in policy.parameters() if p.grad is None or not p.grad.abs().max() > 0]
    # A key's bias moves all scores of a softmax alike; this UNet has none, so every trained weight counts.
    assert not without
    assert all(p.grad is None for p in policy.network.parameters() if not p.requires_grad)
    assert all(p.grad is None for p in base.parameters())


def by_trainer(network: nn.Module, method: Method, guidance: float = 1.0) -> tuple[dict[str, float], Tensor]:
    made = double_trainer(network, method, guidance)
    [terms] = made.backward([tiny.batch(steps=STEPS, dtype=torch.float64)])
    gradient = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    for parameter in network.parameters():
        parameter.grad = None
    return {name: float(value) for name, value in terms.items()}, gradient


@pytest.mark.parametrize("m", [2, 3, 5])
def test_imagerefl_with_one_evaluation_at_its_start_equals_separate_ones(m: int):
    """The plain computation: rollout without gradient, reward at m, and a second evaluation for the diffusion loss."""

    def plain(tools: Networks, batch: Batch) -> Step:
        yield from ()
        x, _ = tools.noised(batch, 2)
        x0 = tools.x0(batch, tools.rollout(batch, x, 2, m), m)
        return StepOutput(x0, batch.prompts, {"diffusion": (0.7, tools.diffusion_error(batch, 2))})

    network = Small().double()
    found = by_trainer(network, lambda t, b: imagerefl.step_with(t, b, 2, m, 0.7))
    expected = by_trainer(network, plain)
    assert found[0] == pytest.approx(expected[0], rel=1e-12)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-10, atol=1e-14)


def test_imagerefl_is_never_guided():
    network = Small().double()
    method = METHODS["imagerefl"]
    torch.testing.assert_close(by_trainer(network, method, 3.0)[1], by_trainer(network, method)[1], rtol=0, atol=0)


def test_diffusion_loss_of_refl_is_not_guided():
    network = Small().double()
    plain = by_trainer(network, METHODS["refl with diffusion loss"])[0]
    guided = by_trainer(network, METHODS["refl with diffusion loss"], 3.0)[0]
    assert guided["reward"] != pytest.approx(plain["reward"], rel=1e-6)
    assert guided["loss_diffusion"] == plain["loss_diffusion"]


def test_imagerefl_makes_a_stray_step_at_its_start_only_as_released():
    batch, network = tiny.batch(steps=STEPS), Small()
    indices: list[int] = []

    def judged(m: int, extra: bool) -> Tensor:
        tools = tiny.networks(network, STEPS)
        tools.policy.seen = lambda x, t, eps: indices.append(tools.grid.timesteps.tolist().index(int(t)))
        tools = replace(tools, extra_step=extra)
        indices.clear()
        return tiny.judged(tools, batch, imagerefl.step_with(tools, batch, 2, m, 0.7)).x0

    clean = judged(2, False)
    assert indices == [2]
    stray = judged(2, True)
    assert indices == [2, 1, 2]
    assert not torch.allclose(clean, stray, atol=1e-3)
    tools = tiny.networks(network, STEPS)
    x, _ = tools.noised(batch, 2)
    x = tools.grid.ancestral(x, tools.unguided(batch, x, 1), 1).sample(batch.noise.step(1))
    torch.testing.assert_close(stray, tools.x0(batch, x, 2))
    for m in (3, 4):
        assert torch.equal(judged(m, True), judged(m, False))
        assert indices == [2, *range(3, m + 1)]


def test_evaluations_of_the_methods():
    counts = {}
    for name, method in METHODS.items():
        tools = tiny.networks(Small(), STEPS)
        batch = tiny.batch(count=1, steps=STEPS)
        tiny.judged(tools, batch, method(tools, batch))
        counts[name] = tools.policy.evaluations
    assert counts == {
        "refl": 5, "refl with diffusion loss": 6, "draft 1": 6, "draft 3": 6, "draft lv": 8,
        "imagerefl": 3, "imagerefl at its start": 1, "imagerefl without diffusion loss": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("every", "expected"),
    [(None, "IIIIIIII"), (1, "RRRRRRRR"), (2, "IRIRIRIR"), (3, "IIRIIRII"), (4, "IIIRIIIR")],
)
def test_turns_of_refl(every: int | None, expected: str):
    assert "".join("R" if imagerefl.refl_turn(micro, every) else "I" for micro in range(8)) == expected


def test_imagerefl_takes_refl_steps_in_turn():
    settings = imagerefl.Settings(kind="imagerefl", start=2, middle=(3, 4), diffusion_weight=0.5, refl_every=2)
    tools = tiny.networks(Small(), STEPS)
    for micro, expected in ((0, METHODS_OF_TURNS["I"]), (1, METHODS_OF_TURNS["R"])):
        batch = tiny.batch(steps=STEPS, micro=micro)
        found = tiny.judged(tools, batch, imagerefl.step(tools, batch, settings))
        wanted = tiny.judged(tools, batch, expected(tools, batch))
        assert torch.equal(found.x0, wanted.x0)
        assert torch.equal(found.penalties["diffusion"][1], wanted.penalties["diffusion"][1])


METHODS_OF_TURNS: dict[str, Method] = {
    "I": lambda t, b: imagerefl.step_with(t, b, 2, 3, 0.5),
    "R": lambda t, b: refl.step_with(t, b, 3, 0.5),
}


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_alignprop_with_one_step_is_draft_1(sampler: str):
    network = Small()
    tools = tiny.networks(network, STEPS)
    tools = replace(tools, sampler=sampler)  # type: ignore[arg-type]
    settings, batch = alignprop.Settings(kind="alignprop", truncate=(1, 2)), tiny.batch(steps=STEPS)
    found = tiny.judged(tools, batch, alignprop.step(tools, batch, settings)).x0
    assert torch.equal(found, tiny.judged(tools, batch, draft_k.step_with(tools, batch, 1)).x0)


@pytest.mark.parametrize("k", [1, 3])
def test_alignprop_as_released_judges_the_last_state_with_its_noise(k: int):
    """Its mean and deviation are those of a step to the abar of timestep 0, from where the last step begins."""
    tools, batch = tiny.networks(Small(), STEPS), tiny.batch(steps=STEPS)
    settings = alignprop.Settings.model_validate(
        {"kind": "alignprop", "truncate": (k, k + 1), "as_released": {"noisy_end": True}}
    )
    found = tiny.judged(tools, batch, alignprop.step(tools, batch, settings)).x0
    x = tools.rollout(batch, batch.noise.initial(), 0, STEPS - 1)
    alphas, last = tiny.schedule().alphas_cumprod, STEPS - 1
    before, after = alphas[tools.grid.timesteps[last]], alphas[0]
    eps = tools.prediction(batch, x, last)
    x0 = (x - (1 - before).sqrt() * eps) / before.sqrt()
    variance = (1 - after) / (1 - before) * (1 - before / after)
    expected = after.sqrt() * x0 + (1 - after - variance).sqrt() * eps + variance.sqrt() * batch.noise.step(last)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    plain = tiny.judged(tools, batch, draft_k.step_with(tools, batch, k)).x0
    assert float((found - plain).detach().abs().max()) > 1e-3


def test_alignprop_as_released_moves_images_to_the_upper_half():
    """Of a reward that is the mean of the images: half of it more, and half the gradient."""
    found = []
    for twice in (False, True):
        made = trainer(alignprop, {"truncate": [1, 2], "as_released": {"denormalise_twice": twice}}, decode=smooth,
                       judge=lambda images, prompts: images.mean((1, 2, 3)), optimizer={"clip_norm": None})  # fmt: skip
        found.append((made.step([batch_of_trajectories()])["reward"], moved(made)))
    (once, slope), (again, half) = found
    assert again == pytest.approx(once / 2 + 0.5, rel=1e-5)
    torch.testing.assert_close(half, slope / 2, rtol=1e-4, atol=1e-9)


def test_draft_is_the_sampler():
    """What DRaFT judges is what sampling without gradient gives, for every K."""
    from stages.models.sampler import finish

    tools, batch = tiny.networks(Small(), STEPS, guidance=2.0), tiny.batch(steps=STEPS)
    expected = finish(tools.grid, tools.predict(batch), batch.noise.initial(), 0, batch.noise)
    for k in range(1, STEPS + 1):
        torch.testing.assert_close(tiny.judged(tools, batch, draft_k.step_with(tools, batch, k)).x0, expected)


def test_draft_lv_judges_the_end_and_fresh_noise_on_it():
    tools, batch = tiny.networks(Small(), STEPS), tiny.batch(steps=STEPS)
    judged = tiny.judged(tools, batch, METHODS["draft lv"](tools, batch))
    first = tiny.judged(tools, batch, draft_k.step_with(tools, batch, 1)).x0
    assert judged.x0.shape[0] == 6
    assert list(judged.prompts) == [*batch.prompts] * 3
    torch.testing.assert_close(judged.x0[:2], first)
    again = tools.grid.noised(first, batch.noise.extra("renoise 1"), STEPS - 1)
    torch.testing.assert_close(judged.x0[4:], tools.x0(batch, again, STEPS - 1))


def test_windows_are_drawn_evenly_and_stay_inside():
    batch = tiny.batch()
    drawn = [batch.draw((3, 7)) for _ in range(4000)]
    assert set(drawn) == {3, 4, 5, 6}
    assert all(abs(drawn.count(i) - 1000) < 4 * (4000 * 0.25 * 0.75) ** 0.5 for i in (3, 4, 5, 6))


@pytest.mark.parametrize(
    ("module", "values"),
    [
        (refl, {"middle": [4, 7]}),
        (refl, {"middle": [4, 4]}),
        (imagerefl, {"start": 3, "middle": [2, 5]}),
        (draft_k, {"k": 7}),
        (alignprop, {"truncate": [0, 3]}),
        (alignprop, {"truncate": [1, 8]}),
    ],
)
def test_refuses_windows_that_are_not_on_the_grid(module: SimpleNamespace, values: dict[str, object]):
    settings = module.Settings.model_validate({"kind": "any", **values})
    with pytest.raises(ValueError, match="sampling_steps"):
        settings.check(FinetuneSettings(sampling_steps=6))


def test_a_method_without_images_says_so():
    with pytest.raises(ValueError, match="no real images"):
        next(imagerefl.step_with(tiny.networks(Small(), STEPS), tiny.batch(steps=STEPS, images=False), 2, 3, 0.1))
