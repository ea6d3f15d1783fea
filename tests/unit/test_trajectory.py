"""The stochastic sampler, what it records, and the policy gradients that learn from it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stages.encode.store import Encodings
from stages.errors import InputError
from stages.finetune.batch import Batch
from stages.finetune.budget import Cost, costs
from stages.finetune.data import Data
from stages.finetune.losses.transition import Transition
from stages.finetune.methods import awm, d3po, ddpo, dpok, hrf, large_scale_rl, online, sqdf, tailorpo
from stages.finetune.resolve import Plan
from stages.finetune.settings import FinetuneSettings, StudySettings
from stages.finetune.tools import Tools
from stages.finetune.trajectory.advantages import History, grouped, normalised
from stages.finetune.trajectory.chain import Chain
from stages.finetune.trajectory.trainer import TrajectoryTrainer
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Autoencoder, Denoiser
from stages.models.noise import KeyedNoise
from stages.models.policy import make_policy
from tests import tiny

STEPS = 5
EVERY = {
    "ddpo": (ddpo, {"advantage": "batch", "updates": 2, "epochs": 2, "clip": 0.1, "kl_weight": 0.1}),
    "dpok": (dpok, {"reward_weight": 1.0, "least_history": 1}),
    "hrf": (hrf, {"advantage": "batch", "window": 2, "move": 1, "hold": 1, "clip": 0.1}),
    "awm": (awm, {"advantage": "batch", "updates": 2, "epochs": 2, "kl_weight": 0.1}),
    "d3po": (d3po, {"updates": 2, "kl_weight": 0.1}),
    "tailorpo": (tailorpo, {"steps_per_trajectory": 2, "updates": 2, "kl_weight": 0.1}),
    "tailorpo guided": (tailorpo, {"updates": 2, "guidance": 0.5}),
    "large scale": (large_scale_rl, {"images_per_prompt": 2, "updates": 2}),
    "sqdf": (sqdf, {"buffer": {"size": 8}, "replay": 2, "predictor": "ddim2"}),
    "sqdf by priority": (sqdf, {"buffer": {"size": 8, "draw": "prioritised"}, "replay": 2}),
    "sqdf without buffer": (sqdf, {"buffer": None}),
    "online": (online, {
        "round_steps": 2, "queries": [5, 3], "optimism": "bootstrap", "proxy": {"prompts": False, "heads": 3},
        "inner": {"kind": "gradient", "truncate": [2, 3]},
    }),
    "online sqdf": (online, {
        "round_steps": 2, "queries": [6], "proxy": {"prompts": False},
        "inner": {"kind": "sqdf", "buffer": {"size": 8}, "replay": 2},
    }),
}  # fmt: skip


class Made:
    """A made-up reward with features."""

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return tiny.reward(images, prompts)

    def embed(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def settings_of(module: Any, values: dict[str, Any]) -> Any:
    return module.Settings.model_validate({"kind": module.__name__.rsplit(".", 1)[-1], **values})


def batch(step: int = 0, count: int = 4, micro: int | None = None) -> Batch:
    place = step if micro is None else micro
    keys = [("test", place, n) for n in range(count)]
    return Batch(
        prompts=[f"prompt {n % 3}" for n in range(count)],
        text=Conditioning(tiny.text(count, place)),
        noise=KeyedNoise(3, keys, tiny.LATENT, tiny.CPU),
        rng=random.Random(place),
        micro=place,
        clean=torch.randn(count, *tiny.LATENT, generator=torch.Generator().manual_seed(place)),
        further=lambda first, more: batch(1000 * (place + 1) + first, more),
    )


def trainer(
    method: Any, values: dict[str, Any], base: nn.Module | None = None, kind: Any = "norm_affine", **train: Any
) -> TrajectoryTrainer:
    """A trainer of `method` on a tiny network with a made-up reward."""
    network = base or tiny.unet()
    policy = make_policy(network, kind)
    shared = FinetuneSettings.model_validate({"sampling_steps": STEPS, "batch_size": 4, **train})
    settings = settings_of(method, values)
    settings.check(shared)
    tools = tiny.tools(policy.network, STEPS)
    tools = replace(tools, reference=Denoiser(network, tools.policy.schedule))
    decode = Autoencoder(tiny.vae()).decode
    parameters = dict(policy.parameters())
    return TrajectoryTrainer.start(tools, decode, Made(), method.start(settings, shared), parameters, shared)


def gradient(made: TrajectoryTrainer) -> Tensor:
    return torch.cat([p.grad.flatten() for p in made.parameters.values() if p.grad is not None])


def weights(made: TrajectoryTrainer) -> Tensor:
    return torch.cat([p.detach().flatten().clone() for p in made.parameters.values()])


def shake(made: TrajectoryTrainer, by: float = 0.05) -> None:
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in made.parameters.values():
            parameter.add_(by * torch.randn(parameter.shape, generator=draw))


def test_the_chain_is_the_ancestral_sampler_but_for_its_last_step():
    tools = tiny.tools(tiny.unet(), STEPS)
    given = batch()
    made = Chain.of(tools).roll(given)
    for i in range(STEPS):
        torch.testing.assert_close(made.states[i], tools.rollout(given, given.noise.initial(), 0, i))
        torch.testing.assert_close(made.noise[i], given.noise.step(i), rtol=1e-3, atol=1e-3)
    end = tools.x0(given, made.states[STEPS - 1], STEPS - 1)
    assert 0 < float((made.last - end).abs().mean()) < 0.1
    assert made.std[-1] > 0.01
    tensors = [made.states, made.means, made.std, made.log_density, made.text.text]
    assert made.bytes == sum(4 * value.numel() for value in tensors)


def test_a_grid_that_ends_without_noise_is_refused():
    tools = tiny.tools(tiny.unet(), STEPS)
    grid = tiny.schedule(steps_offset=0).grid(STEPS)
    with pytest.raises(InputError, match="grid ends at timestep 0"):
        Chain.of(replace(tools, grid=grid))


def test_densities_again_are_those_recorded_and_the_ratio_starts_at_one():
    made = trainer(*EVERY["ddpo"])
    given = batch()
    trajectory = made.chain.roll(given)
    for i in range(STEPS):
        steps = made.chain.index(i, 4)
        again = made.chain.transition(made.tools.policy, trajectory.states[i], steps, given.text)
        torch.testing.assert_close(again.log_density(trajectory.states[i + 1]), trajectory.log_density[i])
        normal = torch.distributions.Normal(again.mean, again.std.expand_as(again.mean))
        expected = normal.log_prob(trajectory.states[i + 1]).mean((1, 2, 3))
        torch.testing.assert_close(trajectory.log_density[i], expected, rtol=1e-4, atol=1e-4)
    terms = made.train_step([given])
    assert terms["ratio"] == pytest.approx(1, abs=1e-5)
    assert terms["kl"] == 0
    assert terms["kl_per_dim"] == 0
    later = made.train_step([batch(1)])
    assert later["ratio"] != 1
    assert later["kl"] == pytest.approx(later["kl_per_dim"] * 256)
    assert later["kl"] > 0


def test_divergence_is_that_of_normal_distributions():
    draw = torch.Generator().manual_seed(0)
    one, two = torch.randn(2, 3, 4, 8, 8, generator=draw, dtype=torch.float64)
    std = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64).reshape(3, 1, 1, 1)
    normals = [torch.distributions.Normal(mean, std.expand_as(mean)) for mean in (one, two)]
    expected = torch.distributions.kl_divergence(*normals).sum((1, 2, 3))
    torch.testing.assert_close(Transition(one, std).kl(Transition(two, std)) * 256, expected)


def test_the_first_clipped_update_is_the_score_function():
    found = []
    for estimator in ("importance", "score"):
        made = trainer(ddpo, {"advantage": "batch", "estimator": estimator})
        made.train_step([batch()])
        found.append(gradient(made))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-6)


def test_the_score_function_in_one_graph():
    made = trainer(ddpo, {"advantage": "batch", "estimator": "score", "state_batch": 3}, optimizer={"clip_norm": None})
    given = batch()
    trajectory = made.chain.roll(given)
    rewards = tiny.reward(made.decode(trajectory.last), given.prompts)
    advantages = torch.from_numpy((rewards.numpy() - rewards.numpy().mean()) / (rewards.numpy().std() + 1e-6))
    loss = torch.zeros(())
    for i in range(STEPS):
        step = made.chain.transition(made.tools.policy, trajectory.states[i], made.chain.index(i, 4), given.text)
        loss = loss - (advantages * step.log_density(trajectory.states[i + 1])).mean() / STEPS
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(made.parameters.values()))])
    made.train_step([given])
    torch.testing.assert_close(gradient(made), expected, rtol=1e-3, atol=1e-6)


def test_the_whole_window_is_ddpo():
    shared = {"advantage": "batch", "updates": 2, "epochs": 2, "clip": 0.1}
    whole = trainer(hrf, {**shared, "window": STEPS})
    plain = trainer(ddpo, shared)
    for step in range(4):
        terms = [made.train_step([batch(step)]) for made in (whole, plain)]
        assert terms[0] == pytest.approx(terms[1], rel=1e-5)
    torch.testing.assert_close(weights(whole), weights(plain))


def test_the_window_moves_from_noise_to_image_and_starts_again():
    method = hrf.start(settings_of(hrf, {"window": 2, "move": 2, "hold": 3}), FinetuneSettings())
    windows = [method.window(6, step) for step in range(12)]  # type: ignore[attr-defined]
    assert [list(w) for w in windows[::3]] == [[0, 1], [2, 3], [4, 5], [0, 1]]
    assert windows[0] == windows[2] != windows[3]


def test_updates_share_out_the_rows_and_steps_are_drawn():
    made = trainer(ddpo, {"advantage": "batch", "updates": 2, "steps_per_trajectory": 2})
    made.method.collect(made, made.chain, [batch()])
    seen = []
    for step in range(2):
        rows, steps = made.method.states(made.method.held[0], batch(step))  # type: ignore[attr-defined]
        assert len(rows) == len(steps) == 4
        seen += rows.tolist()
    assert sorted(seen) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_two_micro_batches_are_one_batch():
    """Advantages are those of the whole batch, whichever way it is divided."""
    made = {n: trainer(ddpo, {"advantage": "batch", "estimator": "score"}, accumulate=n) for n in (1, 2)}
    whole = batch()
    halves = [
        replace(
            whole, prompts=whole.prompts[rows], text=whole.text[rows], micro=place,
            noise=replace(whole.noise, keys=whole.noise.keys[rows]),  # type: ignore[attr-defined, type-var]
        )
        for place, rows in enumerate((slice(0, 2), slice(2, 4)))
    ]  # fmt: skip
    one, two = made[1].train_step([whole]), made[2].train_step(halves)
    torch.testing.assert_close(gradient(made[2]), gradient(made[1]), rtol=1e-3, atol=1e-6)
    assert two["reward"] == pytest.approx(one["reward"], rel=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_no_gradient_reaches_what_is_frozen(name: str):
    base = tiny.unet()
    made = trainer(*EVERY[name], base=base)
    seen: list[Tensor] = []
    vae = tiny.vae()
    made.decode = Autoencoder(vae).decode
    made.train_step([batch()])
    assert float(gradient(made).norm()) > 0
    for network in (base, vae, made.tools.base.network):
        seen += [p for p in network.parameters() if p.grad is not None or p.requires_grad]
    assert not seen


@pytest.mark.parametrize("name", EVERY)
def test_going_on_from_a_state_is_going_straight_on(name: str, tmp_path: Path):
    straight = trainer(*EVERY[name], optimizer={"lr": 1e-3}, ema=0.5)
    logs = [straight.train_step([batch(step)]) for step in range(5)]
    first = trainer(*EVERY[name], optimizer={"lr": 1e-3}, ema=0.5)
    for step in range(3):
        first.train_step([batch(step)])
    torch.save(first.state(), tmp_path / "state.pt")
    second = trainer(*EVERY[name], optimizer={"lr": 1e-3}, ema=0.5)
    second.load_state(torch.load(tmp_path / "state.pt", weights_only=True))
    again = [second.train_step([batch(step)]) for step in (3, 4)]
    assert again == logs[3:]
    assert torch.equal(weights(second), weights(straight))
    assert second.counters() == straight.counters()


def test_dpok_in_one_graph():
    made = trainer(dpok, {"reward_weight": 3.0, "kl_weight": 0.5, "least_history": 1, "clip": 10.0},
                   optimizer={"clip_norm": None})  # fmt: skip
    shake(made)
    made.method.history.add(torch.tensor([0.25]), ["prompt 0"])  # type: ignore[attr-defined]
    given = batch()
    trajectory = made.chain.roll(given)
    rewards = tiny.reward(made.decode(trajectory.last), given.prompts)
    mean = float(rewards.mean())
    advantages = rewards - torch.tensor([0.25, mean, mean, 0.25])
    loss = torch.zeros(())
    for i in range(STEPS):
        steps = made.chain.index(i, 4)
        ours, base = (made.chain.transition(d, trajectory.states[i], steps, given.text) for d in made.tools.denoisers)
        divergence = ((ours.mean - base.mean) ** 2 / (2 * ours.std**2)).mean()
        loss = (
            loss + (0.5 * divergence - 3.0 * (advantages * ours.log_density(trajectory.states[i + 1])).mean()) / STEPS
        )
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(made.parameters.values()))])
    made.train_step([given])
    torch.testing.assert_close(gradient(made), expected, rtol=1e-3, atol=1e-5)


def test_history_in_numpy():
    draw = np.random.default_rng(0)
    found, kept = History(4, 3), {"a": [], "b": []}
    for _ in range(4):
        prompts = ["a", "b", "a"] if draw.random() < 0.5 else ["a", "a", "a"]
        rewards = draw.normal(size=3)
        advantages = found.advantages(torch.from_numpy(rewards), prompts)
        for prompt, reward in zip(prompts, rewards, strict=True):
            kept[prompt] = [*kept[prompt], reward][-4:]
        for n, prompt in enumerate(prompts):
            own = kept[prompt] if len(kept[prompt]) >= 3 else rewards
            expected = (rewards[n] - np.mean(own)) / (np.std(own) + 1e-6)
            assert float(advantages[n]) == pytest.approx(expected)


def test_grouped_rewards():
    rewards = torch.tensor([1.0, 3.0, 5.0, 5.0])
    torch.testing.assert_close(grouped(rewards, 2), torch.tensor([-1.0, 1.0, 0.0, 0.0]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(normalised(torch.tensor([0.0, 2.0])), torch.tensor([-1.0, 1.0]), rtol=1e-4, atol=1e-4)


def test_prompts_stand_side_by_side_with_noise_of_their_own(tmp_path: Path):
    store = Encodings(*tiny.encodings(tmp_path), tiny.CPU)
    data = Data(store, store.prompts("train"), 0, 4, 1, 1.0, tiny.CPU, False, 2)
    made = data.batch(0, 0)
    assert made.prompts[0] == made.prompts[1] != made.prompts[2] == made.prompts[3]
    initial = made.noise.initial()
    assert not torch.equal(initial[0], initial[1])


@pytest.mark.parametrize(
    ("module", "values", "train", "message"),
    [
        (ddpo, {}, {"sampler": "ddim"}, "expected finetune.sampler ddpm"),
        (ddpo, {"images_per_prompt": 3}, {}, "whole groups of 3"),
        (ddpo, {"advantage": "group"}, {}, "at least 2"),
        (ddpo, {"estimator": "score", "epochs": 2}, {}, "expected updates 1 and epochs 1"),
        (ddpo, {"updates": 3}, {}, "does not divide into 3 updates"),
        (ddpo, {"steps_per_trajectory": 30}, {}, "more than sampling_steps"),
        (hrf, {"window": 30}, {}, "more than sampling_steps"),
        (dpok, {"advantage": "batch"}, {}, "expected advantage prompt"),
        (sqdf, {"predictor": "consistency"}, {}, "go together"),
        (d3po, {"state_batch": 3}, {}, "odd"),
        (large_scale_rl, {"advantage": "group"}, {}, "expected advantage batch or credit own"),
    ],
)
def test_refuses_settings(module: Any, values: dict[str, Any], train: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        settings_of(module, values).check(FinetuneSettings.model_validate(train))


def test_ddpo_learns_what_a_number_rewards():
    """A reward without gradient: the brightness of the latents themselves."""
    made = trainer(ddpo, {"advantage": "batch", "clip": 0.1}, kind="full", optimizer={"lr": 3e-3}, batch_size=16)
    made.decode = lambda x0: x0

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images.detach().mean((1, 2, 3))

    made.reward = reward
    fixed = batch(99, 16)
    before = float(made.chain.roll(fixed).last.mean())
    for step in range(20):
        made.train_step([batch(step, 16)])
    assert float(made.chain.roll(fixed).last.mean()) > before + 0.3


def test_pairs_of_d3po_start_alike_and_the_better_becomes_more_likely():
    made = trainer(d3po, {"clip": 0.9}, optimizer={"lr": 1e-4, "clip_norm": None})
    terms = made.train_step([batch()])
    assert terms["loss"] == pytest.approx(np.log(2), rel=1e-5)
    held = made.method.held[0]  # type: ignore[attr-defined]
    states = held.trajectory.states
    assert torch.equal(states[0, 0::2], states[0, 1::2])
    assert not torch.equal(states[1, 0::2], states[1, 1::2])
    assert torch.equal(held.worth[0::2], (held.rewards[0::2] - held.rewards[1::2]).sign())
    changed = []
    for i in range(STEPS):
        again = made.chain.transition(made.tools.policy, states[i], made.chain.index(i, 4), held.trajectory.text)
        changed.append(again.log_density(states[i + 1]) - held.trajectory.log_density[i])
    assert float((torch.stack(changed).detach() * held.worth).mean()) > 0


def test_forks_of_tailorpo_come_from_one_state_and_are_ranked_by_what_is_predicted():
    made = trainer(tailorpo, {"steps_per_trajectory": 2, "clip": 0.9}, optimizer={"lr": 1e-4, "clip_norm": None})
    before = made.tools.policy.evaluations
    terms = made.train_step([batch()])
    # a rollout, the predictions of two other draws (the end of the chain needs none), two forks learnt from
    forks = made.method.held[0]  # type: ignore[attr-defined]
    others = sum(4 for i in set(forks.i.tolist()) if i < STEPS - 1)
    assert made.tools.policy.evaluations - before == 4 * STEPS + others + 8
    assert terms["loss"] == pytest.approx(float(forks.sign.abs().mean()) * np.log(2), rel=1e-5)
    base = made.chain.transition(made.tools.base, forks.x, forks.i, forks.text)
    for side in (forks.first, forks.second):
        assert float(((side - base.mean) / base.std).std()) == pytest.approx(1, abs=0.1)
    ours = made.chain.transition(made.tools.policy, forks.x, forks.i, forks.text)
    gaps = [of.log_density(forks.first) - of.log_density(forks.second) for of in (ours, base)]
    assert float((forks.sign * (gaps[0] - gaps[1])).detach().mean()) > 0


def test_guidance_moves_the_better_state_alone_and_up_the_reward():
    """Of a reward that is a weighted sum of the latents; the last step's states are their own predictions."""
    slope = torch.randn(tiny.LATENT, generator=torch.Generator().manual_seed(1))

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return (images * slope).sum((1, 2, 3))

    forks = {}
    for guidance in (0.0, 0.3):
        made = trainer(tailorpo, {"guidance": guidance})
        made.decode, made.reward = (lambda x0: x0), reward
        forks[guidance] = made.method.fork(made, made.chain, batch())[0]  # type: ignore[attr-defined]
    plain, moved = forks[0.0], forks[0.3]
    assert torch.equal(plain.sign, moved.sign)
    assert torch.equal(plain.x, moved.x)
    first = (plain.sign > 0).reshape(-1, 1, 1, 1)
    worse, kept = (torch.where(first, f.second, f.first) for f in (plain, moved))
    assert torch.equal(worse, kept)
    better, up = (torch.where(first, f.first, f.second) for f in (plain, moved))
    last = plain.i == STEPS - 1
    torch.testing.assert_close(
        (up - better)[last], (0.3 * slope).expand(int(last.sum()), *tiny.LATENT), rtol=1e-4, atol=1e-5
    )
    assert (((up - better) * slope).sum((1, 2, 3)) > 0).all()


def test_matching_with_equal_worth_has_the_gradient_of_the_diffusion_loss():
    made = trainer(awm, {"advantage": "batch", "clip": 0.1})
    given = batch()
    made.method.collect(made, made.chain, [given])
    held, question = made.method.held[0], made.method.questions[0][0]  # type: ignore[attr-defined]
    made.method.held = [replace(held, worth=torch.ones(4))]  # type: ignore[attr-defined]
    made.backward(given)
    schedule = made.tools.grid.schedule
    x = schedule.noised(held.trajectory.last, question.noise, question.t)
    error = (made.tools.policy.epsilon(x, question.t, given.text) - question.noise).square().mean()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(error, list(made.parameters.values()))])
    torch.testing.assert_close(gradient(made), expected, rtol=1e-4, atol=1e-7)


def test_diversity_of_sets_in_numpy():
    for credit in ("set", "own"):
        made = trainer(large_scale_rl, {"images_per_prompt": 4, "credit": credit})
        latents = batch().noise.initial()
        features = made.decode(latents).flatten(1).numpy()
        units = features / np.linalg.norm(features, axis=1, keepdims=True)
        own = [1 - np.mean([units[i] @ units[j] for j in range(4) if j != i]) for i in range(4)]
        expected = own if credit == "own" else [np.mean(own)] * 4
        found = made.method.diversity(made, latents)  # type: ignore[attr-defined]
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-6)


def test_a_reward_without_features_gives_no_diversity_of_sets():
    made = trainer(large_scale_rl, {"images_per_prompt": 4})
    made.reward = tiny.reward
    with pytest.raises(InputError, match="reward has none"):
        made.train_step([batch()])


@pytest.mark.parametrize("name", EVERY)
def test_a_budget_counts_what_training_evaluates(name: str):
    """Where pairs are forked at the last step there is nothing to predict: that method counts by its own indices."""
    module, values = EVERY[name]
    if name == "tailorpo":  # the guided one forks at every step
        values = values | {"steps_per_trajectory": None}
    made = trainer(module, values)
    kind = settings_of(module, values)
    plan = Plan("x-s0", "x", 0, module, kind, made.settings, StudySettings(reward="r", heldout="h"))
    counted = costs(plan, tiny.schedule())
    for step in range(3):
        before = Cost.of(made.tools)
        made.train_step([batch(step)])
        assert next(counted) == Cost.of(made.tools) - before


def test_tools_without_a_reference_say_so():
    with pytest.raises(ValueError, match="no reference"):
        _ = Tools(Denoiser(tiny.unet(), tiny.schedule()), tiny.schedule().grid(2), tiny.text(1)).base  # type: ignore[arg-type]
