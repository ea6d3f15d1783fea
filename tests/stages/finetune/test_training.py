from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.encode.store import Encodings, Item
from stages.errors import InputError
from stages.finetune.batch import Batch
from stages.finetune.data import Data
from stages.finetune.families.reward_gradient import Step, StepOutput
from stages.finetune.methods import draft_k, imagerefl
from stages.finetune.networks import Networks
from stages.finetune.reward import RewardFunction, reward_loss
from stages.finetune.settings import FinetuneSettings
from stages.finetune.training import Trainer
from stages.models.policy import make_policy
from tests import tiny

STEPS = 4


def settings(**values: object) -> FinetuneSettings:
    return FinetuneSettings.model_validate(values)


def draft(networks: Networks, batch: Batch) -> Step:
    return draft_k.step_with(networks, batch, 1)


def image_refl(networks: Networks, batch: Batch) -> Step:
    return imagerefl.step_with(networks, batch, 1, 2, 0.5)


def norm_trainer(step=image_refl, judge: RewardFunction | None = None, **values: object) -> Trainer:
    policy = make_policy(tiny.unet(), "norm_affine")
    return tiny.trainer(policy.network, step, settings(**values), steps=STEPS, judge=judge)


def backward(trainer: Trainer, batch: Batch) -> dict[str, Tensor]:
    [terms] = trainer.backward([batch])
    return terms


def judged(trainer: Trainer, batch: Batch) -> StepOutput:
    networks = trainer.run.networks
    return tiny.judged(networks, batch, image_refl(networks, batch))


def gradients(trainer: Trainer) -> Tensor:
    return torch.cat([p.grad.flatten() for p in trainer.parameters.values() if p.grad is not None])


def weights(trainer: Trainer) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in trainer.parameters.values()])


def test_slices_of_the_reward_do_not_change_the_gradient():
    batch = tiny.batch(count=5, steps=STEPS)
    found = []
    for size in (1, 2, 5, 16):
        trainer = norm_trainer(judge_batch=size)
        terms = backward(trainer, batch)
        found.append((gradients(trainer), float(terms["loss"])))
    for gradient, loss in found[:-1]:
        torch.testing.assert_close(gradient, found[-1][0], rtol=1e-4, atol=1e-7)
        assert loss == pytest.approx(found[-1][1], rel=1e-6)


def test_the_gradient_is_that_of_the_loss_in_one_graph():
    batch = tiny.batch(count=3, steps=STEPS)
    trainer = norm_trainer(reward_scale=2.0, judge_batch=2)
    terms = backward(trainer, batch)
    found = gradients(trainer)
    found_by_hand = judged(trainer, batch)
    reward = tiny.reward(trainer.run.reward.decode(found_by_hand.x0), found_by_hand.prompts).mean()
    error = found_by_hand.penalties["diffusion"][1]
    loss = -2.0 * reward + 0.5 * error
    expected = torch.autograd.grad(loss, list(trainer.parameters.values()))
    torch.testing.assert_close(found, torch.cat([g.flatten() for g in expected]), rtol=1e-4, atol=1e-7)
    assert float(terms["loss"]) == pytest.approx(loss.item(), rel=1e-5)
    assert float(terms["reward"]) == pytest.approx(reward.item(), rel=1e-5)
    assert float(terms["loss_diffusion"]) == pytest.approx(error.item(), rel=1e-5)


def test_checkpointing_changes_memory_and_not_the_gradient():
    found, saved = [], []
    for checkpointing in (False, True):
        network = make_policy(tiny.unet(), "norm_affine").network
        if checkpointing:
            network.enable_gradient_checkpointing()  # type: ignore[operator]
        trainer = tiny.trainer(network, image_refl, settings(), steps=STEPS)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=sizes: kept.append(t.numel()) or t, lambda t: t):
            judged(trainer, tiny.batch(steps=STEPS))
        saved.append(sum(sizes))
        backward(trainer, tiny.batch(steps=STEPS))
        found.append(gradients(trainer))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-8)
    assert saved[1] < saved[0] / 2


def encodings(folder: Path) -> Encodings:
    return Encodings(*tiny.encodings(folder), tiny.CPU)


def data(store: Encodings, batch_size: int, accumulate: int = 1, seed: int = 3) -> Data:
    return Data(
        encodings=store, items=store.images("train"), seed=seed, batch_size=batch_size, accumulate=accumulate,
        scale=0.5, device=tiny.CPU, posterior=True,
    )  # fmt: skip


def test_two_micro_batches_are_one_batch_of_both(tmp_path: Path):
    store = encodings(tmp_path)
    whole, halves = norm_trainer(), norm_trainer()
    one = whole.step([data(store, 4).batch(0, 0)])
    two = halves.step([data(store, 4, 2).batch(0, micro) for micro in range(2)])
    torch.testing.assert_close(gradients(halves), gradients(whole), rtol=1e-4, atol=1e-7)
    assert one == pytest.approx(two, rel=1e-4)


def test_summed_micro_batches_as_released(tmp_path: Path):
    store = encodings(tmp_path)
    batches = [data(store, 4, 2).batch(0, micro) for micro in range(2)]
    averaged, summed = norm_trainer(), norm_trainer(as_released={"sum_accumulation": True})
    one, two = averaged.step(batches), summed.step(batches)
    clip = lambda terms: min(1.0, 1.0 / (terms["grad_norm"] + 1e-6))  # noqa: E731
    torch.testing.assert_close(gradients(summed) / clip(two), 2 * gradients(averaged) / clip(one), rtol=1e-4, atol=1e-7)
    assert two["grad_norm"] == pytest.approx(2 * one["grad_norm"], rel=1e-5)
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-6)


def test_loss_scale_as_released():
    batch = tiny.batch(steps=STEPS)
    plain, scaled = norm_trainer(), norm_trainer(as_released={"loss_scale": 1e-3})
    one, two = backward(plain, batch), backward(scaled, batch)
    torch.testing.assert_close(gradients(scaled), 1e-3 * gradients(plain), rtol=1e-4, atol=1e-9)
    assert float(two["loss"]) == pytest.approx(1e-3 * float(one["loss"]), rel=1e-5)
    assert float(two["reward"]) == float(one["reward"])


def adam(
    gradient: np.ndarray, start: np.ndarray, scales: Sequence[float], lr: float, eps: float, decay: float
) -> np.ndarray:
    """AdamW (Loshchilov and Hutter 2019) in double precision, a step for each scale of the one gradient."""
    w, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for n, scale in enumerate(scales, 1):
        g = scale * gradient
        w *= 1 - lr * decay
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w -= lr * (m / (1 - 0.9**n)) / (np.sqrt(v / (1 - 0.999**n)) + eps)
    return w


@pytest.mark.parametrize(("double", "scales"), [(False, [1.0]), (True, [65536.0, 1.0])])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_optimizer_step(double: bool, scales: list[float], decay: float):
    optimizer = {"lr": 1e-2, "eps": 1e-6, "weight_decay": decay, "clip_norm": None}
    trainer = norm_trainer(optimizer=optimizer, as_released={"double_step": double})
    start = weights(trainer).double().numpy()
    terms = trainer.step([tiny.batch(steps=STEPS)])
    gradient = gradients(trainer).double().numpy()
    assert terms["grad_norm"] == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
    expected = adam(gradient, start, scales, 1e-2, 1e-6, decay)
    np.testing.assert_allclose(weights(trainer).numpy(), expected, rtol=0, atol=1e-6)


def test_clipping_bounds_the_gradient_and_reports_it_whole():
    batch = tiny.batch(steps=STEPS)
    free, clipped = norm_trainer(optimizer={"clip_norm": None}), norm_trainer(optimizer={"clip_norm": 1e-3})
    norms = [trainer.step([batch])["grad_norm"] for trainer in (free, clipped)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)
    assert norms[0] > 1e-2
    assert float(gradients(clipped).norm()) == pytest.approx(1e-3, rel=1e-3)
    assert float(gradients(free).norm()) == pytest.approx(norms[0], rel=1e-5)


def test_averaged_weights():
    trainer = norm_trainer(ema=0.75, optimizer={"lr": 1e-2})
    assert trainer.average is not None
    expected = weights(trainer)
    for n in range(3):
        trainer.step([tiny.batch(steps=STEPS, seed=n)])
        expected = 0.75 * expected + 0.25 * weights(trainer)
    found = torch.cat([value.flatten() for value in trainer.average.values()])
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, weights(trainer), atol=1e-4)


@pytest.mark.parametrize("kind", ["norm_affine", "lora", "full"])
def test_training_again_gives_the_same_bytes(kind, tmp_path: Path):
    store = encodings(tmp_path)
    files = []
    for n in range(2):
        torch.manual_seed(n)
        policy = make_policy(tiny.unet(), kind, seed=5)
        given = settings(optimizer={"lr": 1e-3}, ema=0.5)
        method = imagerefl.Settings(kind="imagerefl", start=1, middle=(1, 4))
        trainer = tiny.trainer(policy.network, partial(imagerefl.step, settings=method), given, steps=STEPS)
        trainer = Trainer.start(trainer.run, trainer.objective, dict(policy.parameters()))
        for step in range(3):
            trainer.step([data(store, 4, 2).batch(step, micro) for micro in range(2)])
        path = tmp_path / f"{n}.safetensors"
        policy.save(path, "base", trainer.average)
        files.append(path.read_bytes())
    assert files[0] == files[1]


def test_training_raises_the_reward():
    trainer = norm_trainer(draft, optimizer={"lr": 3e-2})
    batch = tiny.batch(count=4, steps=STEPS)
    rewards = [trainer.step([batch])["reward"] for _ in range(12)]
    assert rewards[-1] > rewards[0] + 1e-4
    assert rewards[-1] == max(rewards)


def test_a_loss_that_is_not_finite_ends_the_training():
    trainer = norm_trainer(judge=lambda images, prompts: images.mean((1, 2, 3)) * float("nan"))
    with pytest.raises(InputError, match="loss is nan"):
        trainer.step([tiny.batch(steps=STEPS)])


def test_reward_loss():
    rewards = torch.tensor([20.0, 22.0, 19.0])
    assert float(reward_loss(rewards)) == pytest.approx(-61 / 3)
    assert float(reward_loss(rewards, 0.1, -20)) == pytest.approx(-0.1 / 3, rel=1e-5)


def test_batches_are_a_function_of_seed_step_and_place(tmp_path: Path):
    store = encodings(tmp_path)
    one, again, other = data(store, 4), data(store, 4), data(store, 4, seed=4)
    assert one.batch(2, 0).prompts == again.batch(2, 0).prompts
    assert torch.equal(one.batch(2, 0).noise.initial(), again.batch(2, 0).noise.initial())
    assert not torch.equal(one.batch(2, 0).noise.initial(), other.batch(2, 0).noise.initial())
    assert one.batch(2, 0).draw((0, 1000)) == again.batch(2, 0).draw((0, 1000))
    assert one.batch(2, 0).draw((0, 1000)) != one.batch(3, 0).draw((0, 1000))


def test_every_item_comes_once_an_epoch_in_another_order(tmp_path: Path):
    drawn = data(encodings(tmp_path), 3)
    epochs = [[p for step in range(n, n + 2) for p in drawn.batch(step, 0).prompts] for n in (0, 2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(item.text for item in drawn.items)
    assert epochs[0] != epochs[1]


def test_real_latents_are_scaled_posterior_samples(tmp_path: Path):
    store = encodings(tmp_path)
    batch = data(store, 3).batch(0, 0)
    items = [next(item for item in store.images("train") if item.text == prompt) for prompt in batch.prompts]
    mean, std = store.posterior(items)
    assert batch.clean is not None
    torch.testing.assert_close(batch.clean, 0.5 * (mean + std * batch.noise.extra("posterior")))
    assert torch.equal(batch.text.text, store.text(items).text)


def test_prompts_go_with_their_images_through_the_slices():
    seen: list[tuple[int, list[str]]] = []

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        seen.append((len(images), list(prompts)))
        return images.mean((1, 2, 3))

    trainer = norm_trainer(judge=reward, judge_batch=2)
    batch = replace(tiny.batch(count=3, steps=STEPS), prompts=["a", "b", "c"])
    backward(trainer, batch)
    assert seen == [(2, ["a", "b"]), (1, ["c"])]


@dataclass(frozen=True)
class Compared:
    """A pair of the images of two items, for the text of the first."""

    winner: Item
    loser: Item
    label: float
    weight: float

    captioned: bool = False
    annotator: str = ""

    @property
    def item_id(self) -> str:
        return self.winner.item_id

    @property
    def text(self) -> str:
        return self.winner.text

    @property
    def text_row(self) -> int:
        return self.winner.text_row


def test_pairs_keep_together_what_belongs_together(tmp_path: Path):
    store = encodings(tmp_path)
    images = store.images("train")
    pairs = [Compared(images[n], images[n - 1], 0.5 + n / 20, 1.0 + n) for n in range(len(images))]
    drawn = replace(data(store, 4), pairs=pairs, posterior=False)
    batch = drawn.batch(1, 0)
    made = batch.preferences()
    assert batch.clean is None
    for row, prompt in enumerate(batch.prompts):
        pair = next(pair for pair in pairs if pair.text == prompt)
        for side, item, draw in ((made.winner, pair.winner, "posterior"), (made.loser, pair.loser, "posterior loser")):
            mean, std = store.posterior([item])
            torch.testing.assert_close(side[row], 0.5 * (mean + std * batch.noise.extra(draw)[row])[0])
        assert float(made.label[row]) == pytest.approx(pair.label)
        assert float(made.weight[row]) == pair.weight
    with pytest.raises(ValueError, match="no pairs of images"):
        data(store, 4).batch(0, 0).preferences()
