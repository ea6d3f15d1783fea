"""Micro-batches rolled out together: the numbers of rolling out one by one, as many evaluations, fewer passes."""

from __future__ import annotations

import gc
from functools import partial
from types import ModuleType

import pytest
import torch
from torch import Tensor

from stages.finetune.batch import Batch
from stages.finetune.families.reward_gradient import RewardGradient, Step
from stages.finetune.methods import alignprop, draft_k, draft_lv, drtune, imagerefl, leapalign, refl
from stages.finetune.rollouts import JoinedNoise, Rollout, roll_out
from stages.finetune.settings import FinetuneSettings
from stages.finetune.training import Trainer
from stages.models.noise import KeyedNoise
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
    "drtune": (drtune, {"middle": (3, 6)}),
    "leapalign": (leapalign, {}),
    "refl near the base": (refl, {"middle": (2, 6), "kl_weight": 0.3, "diffusion_weight": 0.5}),
    "draft near the base": (draft_k, {"k": 2, "kl_weight": 0.3}),
}


JOINED = {name for name in METHODS if "refl" in name}
"""Methods that ask for predictions, not for whole chains with gradient."""


def trainer(name: str, **values: object) -> tuple[Trainer, list[int]]:
    """A trainer, and the sizes of the batches that its network is called on."""
    module, own = METHODS[name]
    method = module.Settings(kind=module.__name__.rsplit(".", 1)[-1], **own)
    base = tiny.unet()
    network = make_policy(base, "norm_affine").network
    made = tiny.trainer(
        network, partial(module.step, settings=method), FinetuneSettings.model_validate(values), steps=STEPS,
        reference=base,
    )  # fmt: skip
    sizes: list[int] = []
    network.register_forward_pre_hook(lambda network, args: sizes.append(len(args[0])))
    return made, sizes


def step(made: Trainer) -> tuple[dict[str, float], Tensor]:
    batches = [tiny.batch(SIZE, STEPS, micro=micro, seed=10 * micro) for micro in range(MICRO)]
    terms = made.step(batches)
    return terms, torch.cat([p.grad.flatten() for p in made.parameters.values() if p.grad is not None])


@pytest.mark.parametrize("name", METHODS)
def test_a_step_is_the_same_in_fewer_passes(name: str):
    (alone, one_by_one), (joined, together) = trainer(name, rollout_batch=1), trainer(name)
    (terms, gradient), (other_terms, other_gradient) = step(alone), step(joined)
    assert other_terms == pytest.approx(terms, rel=1e-5)
    torch.testing.assert_close(other_gradient, gradient, rtol=1e-3, atol=1e-6)
    policies = [made.run.networks.policy for made in (alone, joined)]
    assert sum(together) == sum(one_by_one) == policies[0].evaluations == policies[1].evaluations
    assert policies[0].backward == policies[1].backward
    assert len(together) < len(one_by_one) and max(together) > SIZE == max(one_by_one)


@pytest.mark.parametrize("name", METHODS)
def test_a_step_is_the_same_with_joined_gradients(name: str):
    (alone, one_by_one), (joined, together) = trainer(name), trainer(name, gradient_batch=MICRO * SIZE)
    (terms, gradient), (other_terms, other_gradient) = step(alone), step(joined)
    assert other_terms == pytest.approx(terms, rel=1e-5)
    torch.testing.assert_close(other_gradient, gradient, rtol=1e-3, atol=1e-6)
    assert sum(together) == sum(one_by_one)
    assert alone.run.networks.policy.backward == joined.run.networks.policy.backward
    if name in JOINED:
        assert len(together) < len(one_by_one)


@pytest.mark.parametrize(("most", "largest"), [(1, SIZE), (4, 2 * SIZE), (7, 3 * SIZE), (100, MICRO * SIZE)])
def test_as_many_images_with_gradient_as_allowed(most: int, largest: int):
    made, sizes = trainer("imagerefl without diffusion loss", rollout_batch=1, gradient_batch=most)
    step(made)
    assert max(sizes) == largest


def test_a_graph_is_gone_before_the_next_is_made_where_gradients_are_not_joined():
    made, _ = trainer("imagerefl without ReFL")
    policy, live = made.run.networks.policy, list[int]()
    for loss in made.objective.losses([tiny.batch(SIZE, STEPS, micro=n, seed=n) for n in range(MICRO)]):
        live.append(policy.backward)
        loss.root.backward()
    assert live == [SIZE * (n + 1) for n in range(2 * MICRO)]


def test_as_many_images_as_allowed():
    for most, largest in ((1, SIZE), (4, 2 * SIZE), (7, 3 * SIZE), (16, MICRO * SIZE)):
        made, sizes = trainer("draft", rollout_batch=most)
        step(made)
        assert max(sizes) == largest


@pytest.mark.parametrize("starts", [[0, 0, 0, 0], [2, 0, 3, 4]])
def test_starts_and_stops_may_differ_and_come_in_any_order(starts: list[int]):
    networks = tiny.networks(tiny.unet().double(), STEPS, dtype=torch.float64)
    batches = dict(enumerate(tiny.batch(n, STEPS, seed=n, dtype=torch.float64) for n in (1, 3, 2, 1)))
    stops = [4, 0, 5, 4]
    rollouts = {
        n: Rollout(batches[n].noise.initial(), start, stop)
        for n, (start, stop) in enumerate(zip(starts, stops, strict=True))
    }
    found = roll_out(networks, batches, rollouts, 100)
    for n, rollout in rollouts.items():
        alone = networks.rollout(batches[n], rollout.x, rollout.start, rollout.stop)
        torch.testing.assert_close(found[n], alone, rtol=1e-9, atol=1e-11)


def test_rollouts_with_stray_steps_go_alone():
    made, sizes = trainer("refl", as_released={"extra_step": True})
    step(made)
    assert max(sizes) == SIZE


def test_penalties_are_taken_before_the_rollout_and_the_reward_need_memory():
    """The gradient of the diffusion loss is there, and its graph gone, when the judged prediction is made."""
    made, _ = trainer("imagerefl without ReFL", guidance=2.0)
    losses = made.objective.losses([tiny.batch(SIZE, STEPS)])
    first = next(losses)
    assert set(first.terms) == {"loss", "loss_diffusion"}
    assert float(first.terms["loss"]) == 0.5 * float(first.terms["loss_diffusion"])
    before = made.run.networks.policy.evaluations
    first.root.backward()
    second = next(losses)
    assert made.run.networks.policy.evaluations > before  # the rollout came after it
    assert set(second.terms) == {"loss", "reward"}
    assert next(losses, None) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["imagerefl without ReFL", "refl with images", "refl near the base"])
def test_one_graph_of_the_network_at_a_time(name: str):
    """The most that autograd keeps in a step: of one prediction and a decoding, where it would be of two and that."""

    def most(at_once: bool) -> int:
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

        made, _ = trainer(name)
        objective = made.objective
        assert isinstance(objective, RewardGradient)
        start = objective.start

        def whole(batch: Batch) -> Step:
            """The same with every penalty left to the end."""
            yield from ()
            return tiny.judged(made.run.networks, batch, start(batch))

        objective.start = whole if at_once else start
        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
            made.step([tiny.batch(SIZE, STEPS), tiny.batch(SIZE, STEPS, micro=1)])
        gc.collect()
        assert now == 0
        return peak

    assert most(False) < 0.65 * most(True)


def test_one_prediction_that_serves_both_losses_is_not_made_twice():
    settings = imagerefl.Settings(kind="imagerefl", start=1, middle=(1, 2))
    made = tiny.trainer(make_policy(tiny.unet(), "norm_affine").network, partial(imagerefl.step, settings=settings))
    made.step([tiny.batch(SIZE, STEPS)])
    assert made.run.networks.policy.evaluations == made.run.networks.policy.backward == SIZE


def test_joined_noise_is_that_of_its_parts():
    parts = [KeyedNoise(0, [("a", n) for n in range(size)], tiny.LATENT, tiny.CPU) for size in (2, 3)]
    joined, whole = JoinedNoise(parts, [2, 3]), KeyedNoise(0, [*parts[0].keys, *parts[1].keys], tiny.LATENT, tiny.CPU)
    assert torch.equal(joined.step(3), whole.step(3))
    assert torch.equal(joined.uniform("u", 2), whole.uniform("u", 2))
    assert torch.equal(joined.rows([4, 0], [1, 0]).extra("x"), whole.rows([4, 0], [1, 0]).extra("x"))
