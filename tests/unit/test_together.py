"""Micro-batches rolled out together: the numbers of rolling out one by one, as many evaluations, fewer passes."""

from __future__ import annotations

import gc
from dataclasses import replace
from functools import partial
from types import ModuleType

import pytest
import torch
from torch import Tensor

from stages.finetune.batch import Rolled
from stages.finetune.methods import alignprop, draft_k, draft_lv, imagerefl, refl
from stages.finetune.settings import FinetuneSettings
from stages.finetune.together import roll_out
from stages.finetune.trainer import Trainer
from stages.models.policy import make_policy
from tests import tiny

STEPS, MICRO, SIZE = 6, 4, 2
METHODS: dict[str, tuple[ModuleType, dict[str, object]]] = {
    "refl": (refl, {"middle": (2, 6)}),
    "refl with images": (refl, {"middle": (2, 6), "diffusion_weight": 0.5}),
    "imagerefl": (imagerefl, {"start": 1, "middle": (1, 5), "refl_every": 2}),
    "imagerefl without ReFL": (imagerefl, {"start": 1, "middle": (2, 6), "diffusion_weight": 0.5}),
    "imagerefl without diffusion loss": (imagerefl, {"start": 0, "middle": (0, 6), "diffusion_weight": 0}),
    "imagerefl near real images": (imagerefl, {"start": 2, "middle": (3, 6), "refl_every": 4}),
    "draft": (draft_k, {"k": 2}),
    "draft_lv": (draft_lv, {}),
    "alignprop": (alignprop, {"truncate": (1, 5)}),
}


def trainer(name: str, together: bool, **values: object) -> tuple[Trainer, list[int]]:
    """A trainer, and the sizes of the batches that its network is called on."""
    module, own = METHODS[name]
    method = module.Settings(kind=module.__name__.rsplit(".", 1)[-1], **own)
    network = make_policy(tiny.unet(), "norm_affine").network
    made = tiny.trainer(
        network, partial(module.step, settings=method), FinetuneSettings.model_validate(values), steps=STEPS
    )
    if together:
        made.ahead = partial(module.ahead, settings=method)
    sizes: list[int] = []
    network.register_forward_pre_hook(lambda network, args: sizes.append(len(args[0])))
    return made, sizes


def step(made: Trainer) -> tuple[dict[str, float], Tensor]:
    batches = [tiny.batch(SIZE, STEPS, micro=micro, seed=10 * micro) for micro in range(MICRO)]
    terms = made.train_step(batches)
    return terms, torch.cat([p.grad.flatten() for p in made.parameters.values() if p.grad is not None])


@pytest.mark.parametrize("name", METHODS)
def test_a_step_is_the_same_in_fewer_passes(name: str):
    (alone, one_by_one), (joined, together) = trainer(name, False), trainer(name, True)
    (terms, gradient), (other_terms, other_gradient) = step(alone), step(joined)
    assert other_terms == pytest.approx(terms, rel=1e-5)
    torch.testing.assert_close(other_gradient, gradient, rtol=1e-3, atol=1e-6)
    assert sum(together) == sum(one_by_one) == joined.tools.policy.evaluations == alone.tools.policy.evaluations
    assert joined.tools.policy.backward == alone.tools.policy.backward
    assert len(together) < len(one_by_one) and max(together) > SIZE == max(one_by_one)


def test_as_many_images_as_allowed():
    for most, largest in ((1, SIZE), (4, 2 * SIZE), (7, 3 * SIZE), (16, MICRO * SIZE)):
        made, sizes = trainer("draft", True, rollout_batch=most)
        step(made)
        assert max(sizes) == largest


def test_stops_may_differ_and_come_in_any_order():
    network = tiny.unet().double()
    tools = tiny.tools(network, STEPS, dtype=torch.float64)
    batches = [tiny.batch(n, STEPS, seed=n, dtype=torch.float64) for n in (1, 3, 2, 1)]
    stops = [4, 0, 5, 4]
    rollouts = [tools.to_index(batch, stop) for batch, stop in zip(batches, stops, strict=True)]
    for batch, stop, x in zip(batches, stops, roll_out(tools, batches, rollouts), strict=True):
        alone = tools.rollout(batch, batch.noise.initial(), 0, stop)
        torch.testing.assert_close(x, alone, rtol=1e-9, atol=1e-11)


def test_what_is_watched_or_makes_stray_steps_goes_alone():
    watched = refl.Settings(kind="refl", middle=(2, 6), kl_weight=0.1)
    batch = tiny.batch(SIZE, STEPS)
    assert refl.ahead(tiny.tools(tiny.unet(), STEPS), batch, watched) is None
    made, sizes = trainer("refl", True)
    made.tools = replace(made.tools, extra_step=True)
    step(made)
    assert max(sizes) == SIZE


def test_latents_of_another_index_are_not_taken():
    tools = tiny.tools(tiny.unet(), STEPS)
    batch = tiny.batch(SIZE, STEPS)
    given = torch.zeros(SIZE, *tiny.LATENT)
    with_given = replace(batch, rolled=Rolled(3, given))
    assert tools.from_noise(with_given, 3) is given
    assert torch.equal(tools.from_noise(with_given, 2), tools.from_noise(batch, 2))


def test_a_diffusion_loss_is_paid_before_the_reward_needs_memory():
    """Its gradient is there and its graph is gone when the judged prediction is made, and nothing else changes."""
    made, _ = trainer("imagerefl without ReFL", True, guidance=2.0)
    batch = tiny.batch(SIZE, STEPS)
    (ready,) = made.ready([batch])
    assert ready.rolled is not None
    weight, value = ready.rolled.paid["diffusion"]
    assert weight == 0.5 and not value.requires_grad and not ready.rolled.x.requires_grad
    paid = [p.grad.clone() for p in made.parameters.values() if p.grad is not None]
    assert sum(float(gradient.abs().sum()) for gradient in paid) > 0

    alone, _ = trainer("imagerefl without ReFL", False, guidance=2.0)
    found, expected = made.backward(ready), alone.backward(batch)
    assert {name: float(value) for name, value in found.items()} == {n: float(v) for n, v in expected.items()}
    for name, parameter in alone.parameters.items():
        assert parameter.grad is not None and torch.equal(made.parameters[name].grad, parameter.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["imagerefl without ReFL", "refl with images"])
def test_one_graph_of_the_network_at_a_time(name: str):
    """The most that autograd keeps in a step: of one prediction and a decoding, where it would be of two and that."""

    def most(together: bool) -> int:
        now = peak = 0

        class Kept:
            def __init__(self, tensor: Tensor) -> None:
                nonlocal now, peak
                self.tensor = tensor
                now += tensor.nbytes
                peak = max(peak, now)

            def __del__(self) -> None:
                nonlocal now
                now -= self.tensor.nbytes

        made, _ = trainer(name, together)
        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
            made.train_step([tiny.batch(SIZE, STEPS)])
        gc.collect()
        assert now == 0
        return peak

    assert most(True) < 0.65 * most(False)


def test_one_prediction_that_serves_both_losses_is_not_made_twice():
    made, sizes = trainer("imagerefl", True)
    at_the_start = imagerefl.Settings(kind="imagerefl", start=1, middle=(1, 2))
    made.ahead = partial(imagerefl.ahead, settings=at_the_start)
    batch = tiny.batch(SIZE, STEPS)
    (ready,) = made.ready([batch])
    assert ready is batch and not sizes
