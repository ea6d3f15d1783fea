"""The policy gradients, each against its own formula and by what it makes more likely."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.errors import InputError
from stages.finetune.families.matching import Matched
from stages.finetune.families.policy_gradient import Collected
from stages.finetune.methods import awm, d3po, ddpo, dpok, hrf, large_scale_rl, tailorpo
from stages.finetune.training import Trainer
from stages.finetune.trajectories.advantages import History, grouped, normalised
from tests import tiny
from tests.trajectories import STEPS, batch, chain, gradient, settings_of, trainer, weights


def shake(made: Trainer, by: float = 0.05) -> None:
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in made.parameters.values():
            parameter.add_(by * torch.randn(parameter.shape, generator=draw))


def test_the_first_clipped_update_is_the_score_function():
    found = []
    for estimator in ("importance", "score"):
        made = trainer(ddpo, {"advantage": "batch", "estimator": estimator})
        made.step([batch()])
        found.append(gradient(made))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-6)


def test_the_score_function_in_one_graph():
    made = trainer(ddpo, {"advantage": "batch", "estimator": "score", "state_batch": 3}, optimizer={"clip_norm": None})
    given = batch()
    trajectory = chain(made).roll(given)
    rewards = tiny.reward(made.run.reward.decode(trajectory.last), given.prompts)
    advantages = torch.from_numpy((rewards.numpy() - rewards.numpy().mean()) / (rewards.numpy().std() + 1e-6))
    loss = torch.zeros(())
    for i in range(STEPS):
        step = chain(made).transition(
            made.run.networks.policy, trajectory.states[i], chain(made).index(i, 4), given.text
        )
        loss = loss - (advantages * step.log_prob(trajectory.states[i + 1])).mean() / STEPS
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(made.parameters.values()))])
    made.step([given])
    torch.testing.assert_close(gradient(made), expected, rtol=1e-3, atol=1e-6)


def test_the_whole_window_is_ddpo():
    shared = {"advantage": "batch", "updates": 2, "epochs": 2, "clip": 0.1}
    whole = trainer(hrf, {**shared, "window": STEPS})
    plain = trainer(ddpo, shared)
    for step in range(4):
        terms = [made.step([batch(step)]) for made in (whole, plain)]
        assert terms[0] == pytest.approx(terms[1], rel=1e-5)
    torch.testing.assert_close(weights(whole), weights(plain))


def test_the_window_moves_from_noise_to_image_and_starts_again():
    settings = settings_of(hrf, {"window": 2, "move": 2, "hold": 3})
    windows = [hrf.window(6, step, settings) for step in range(12)]
    assert [list(w) for w in windows[::3]] == [[0, 1], [2, 3], [4, 5], [0, 1]]
    assert windows[0] == windows[2] != windows[3]


@pytest.mark.parametrize("squared", [False, True])
def test_dpok_in_one_graph(squared: bool):
    made = trainer(dpok, {"reward_weight": 3.0, "kl_weight": 0.5, "least_history": 1, "clip": 10.0,
                          "as_released": {"squared_predictions": squared}},
                   optimizer={"clip_norm": None})  # fmt: skip
    shake(made)
    made.objective.history.add(torch.tensor([0.25]), ["prompt 0"])  # type: ignore[attr-defined]
    given = batch()
    trajectory = chain(made).roll(given)
    rewards = tiny.reward(made.run.reward.decode(trajectory.last), given.prompts)
    mean = float(rewards.mean())
    advantages = rewards - torch.tensor([0.25, mean, mean, 0.25])
    loss = torch.zeros(())
    for i in range(STEPS):
        steps = chain(made).index(i, 4)
        ours, base = (
            chain(made).transition(d, trajectory.states[i], steps, given.text)
            for d in made.run.networks.denoisers.values()
        )
        divergence = ((ours.mean - base.mean) ** 2 / (2 * ours.std**2)).mean()
        if squared:
            predictions = (
                d.prediction(trajectory.states[i], made.run.networks.grid.timesteps[i], given.text)
                for d in made.run.networks.denoisers.values()
            )
            divergence = (next(predictions) - next(predictions)).square().mean()
        loss = loss + (0.5 * divergence - 3.0 * (advantages * ours.log_prob(trajectory.states[i + 1])).mean()) / STEPS
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(made.parameters.values()))])
    made.step([given])
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


def test_ddpo_learns_what_a_number_rewards():
    """A reward without gradient: the brightness of the latents themselves."""

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images.detach().mean((1, 2, 3))

    made = trainer(ddpo, {"advantage": "batch", "clip": 0.1}, kind="full", decode=lambda x0: x0, judge=reward,
                   optimizer={"lr": 3e-3}, batch_size=16)  # fmt: skip
    fixed = batch(99, 16)
    before = float(chain(made).roll(fixed).last.mean())
    for step in range(20):
        made.step([batch(step, 16)])
    assert float(chain(made).roll(fixed).last.mean()) > before + 0.3


def test_pairs_of_d3po_start_alike_and_the_better_becomes_more_likely():
    made = trainer(d3po, {"clip": 0.9}, optimizer={"lr": 1e-4, "clip_norm": None})
    terms = made.step([batch()])
    assert terms["loss"] == pytest.approx(np.log(2), rel=1e-5)
    held = made.objective.held[0]  # type: ignore[attr-defined]
    states = held.trajectory.states
    assert torch.equal(states[0, 0::2], states[0, 1::2])
    assert not torch.equal(states[1, 0::2], states[1, 1::2])
    assert torch.equal(held.advantages[0::2], (held.rewards[0::2] - held.rewards[1::2]).sign())
    changed = []
    for i in range(STEPS):
        again = chain(made).transition(
            made.run.networks.policy, states[i], chain(made).index(i, 4), held.trajectory.text
        )
        changed.append(again.log_prob(states[i + 1]) - held.trajectory.log_density[i])
    assert float((torch.stack(changed).detach() * held.advantages).mean()) > 0


def test_branches_of_tailorpo_come_from_one_state_and_are_ranked_by_what_is_predicted():
    made = trainer(tailorpo, {"steps_per_trajectory": 2, "clip": 0.9}, optimizer={"lr": 1e-4, "clip_norm": None})
    before = made.run.networks.policy.evaluations
    terms = made.step([batch()])
    # a rollout, the predictions of two other draws (the end of the chain needs none), two branches learnt from
    branches = made.objective.held[0]  # type: ignore[attr-defined]
    others = sum(4 for i in set(branches.i.tolist()) if i < STEPS - 1)
    assert made.run.networks.policy.evaluations - before == 4 * STEPS + others + 8
    assert terms["loss"] == pytest.approx(float(branches.sign.abs().mean()) * np.log(2), rel=1e-5)
    base = chain(made).transition(made.run.networks.base, branches.x, branches.i, branches.text)
    for side in (branches.first, branches.second):
        assert float(((side - base.mean) / base.std).std()) == pytest.approx(1, abs=0.1)
    ours = chain(made).transition(made.run.networks.policy, branches.x, branches.i, branches.text)
    gaps = [of.log_prob(branches.first) - of.log_prob(branches.second) for of in (ours, base)]
    assert float((branches.sign * (gaps[0] - gaps[1])).detach().mean()) > 0


def test_guidance_moves_the_better_state_alone_and_up_the_reward():
    """Of a reward that is a weighted sum of the latents; the last step's states are their own predictions."""
    slope = torch.randn(tiny.LATENT, generator=torch.Generator().manual_seed(1))

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return (images * slope).sum((1, 2, 3))

    branches = {}
    for guidance in (0.0, 0.3):
        made = trainer(tailorpo, {"guidance": guidance}, decode=lambda x0: x0, judge=reward)
        branches[guidance] = made.objective.branch(batch())[0]  # type: ignore[attr-defined]
    plain, moved = branches[0.0], branches[0.3]
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


def test_matching_with_equal_advantages_has_the_gradient_of_the_diffusion_loss():
    made = trainer(awm, {"advantage": "batch", "clip": 0.1})
    given = batch()
    made.objective.collect([given])
    held, noising = made.objective.held[0], made.objective.noisings[0][0]  # type: ignore[attr-defined]
    made.objective.held = [replace(held, advantages=torch.ones(4))]  # type: ignore[attr-defined]
    made.backward([given])
    schedule = made.run.networks.grid.process
    x = schedule.noised(held.trajectory.last, noising.noise, noising.t)
    error = (made.run.networks.policy.prediction(x, noising.t, given.text) - noising.noise).square().mean()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(error, list(made.parameters.values()))])
    torch.testing.assert_close(gradient(made), expected, rtol=1e-4, atol=1e-7)


LIKENESS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "t": lambda error, time: error * time,
    "t2": lambda error, time: error * time**2,
    "huber": lambda error, time: ((error + 1e-10).sqrt() - 1e-5) * time,
    "ghuber": lambda error, time: ((error + 1e-10) ** 0.25 - 1e-10**0.25) * time / 0.25,
}


@pytest.mark.parametrize("name", LIKENESS)
def test_the_likeness_takes_each_image_at_its_own_time(name: str):
    """Where ratios are 1 and advantages equal, the gradient is that of minus the mean likeness."""
    made = trainer(awm, {"advantage": "batch", "clip": 0.1, "likeness": name}, optimizer={"clip_norm": None})
    given = batch()
    made.objective.collect([given])
    held, noising = made.objective.held[0], made.objective.noisings[0][0]  # type: ignore[attr-defined]
    made.objective.held = [replace(held, advantages=torch.ones(4))]  # type: ignore[attr-defined]
    assert len(set(noising.t.tolist())) > 1
    made.backward([given])
    x = made.run.networks.grid.process.noised(held.trajectory.last, noising.noise, noising.t)
    found = made.run.networks.policy.prediction(x, noising.t, given.text)
    error = (found - noising.noise).square().mean((1, 2, 3))
    expected = torch.autograd.grad(LIKENESS[name](error, noising.t / 1000).mean(), list(made.parameters.values()))
    torch.testing.assert_close(gradient(made), torch.cat([g.flatten() for g in expected]), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("deviation", ["prompt", "batch"])
def test_released_advantages_of_awm(deviation: str):
    """Less the prompt's mean, over 1e-4 plus the deviation, clamped to the largest and scaled to the new largest."""
    values = {"advantage": "prompt", "least_history": 1, "largest_advantage": 0.8,
              "as_released": {"deviation": deviation, "advantage_max": 3.0}}  # fmt: skip
    rewards, prompts = torch.tensor([1.0, 2.0, 4.0, 9.0]), ["a", "b", "a", "a"]
    history = History(8, 1)
    found = awm.advantages(Collected(torch.zeros(4, 1, 1, 1), rewards, prompts, history), settings_of(awm, values))
    own = {"a": np.array([1.0, 4.0, 9.0]), "b": np.array([2.0])}
    for n, prompt in enumerate(prompts):
        spread = own[prompt].std() if deviation == "prompt" else rewards.numpy().std()
        plain = (float(rewards[n]) - own[prompt].mean()) / (spread + 1e-4)
        assert float(found[n]) == pytest.approx(np.clip(plain, -0.8, 0.8) / 0.8 * 3.0, abs=1e-5)
    assert float(found.abs().max()) == pytest.approx(3.0)


def test_scaled_advantages_of_awm_are_not_clamped_again():
    """By `advantage_max`, where it is given, in place of `largest_advantage`."""
    error = torch.tensor([0.3, 0.7])
    images = Matched(error, error, torch.tensor([3.0, -9.0]), torch.tensor([0.2, 0.9]))
    for released, kept in (({}, 0.8), ({"advantage_max": 3.0}, 3.0)):
        settings = settings_of(awm, {"advantage": "prompt", "largest_advantage": 0.8, "as_released": released})
        assert float(awm.loss(images, settings).root) == pytest.approx((-kept + kept) / 2, abs=1e-6)
        one = Matched(error[:1], error[:1], images.advantage[:1], images.time[:1])
        assert float(awm.loss(one, settings).root) == pytest.approx(-kept)


def test_diversity_of_sets_in_numpy():
    for credit in ("set", "own"):
        values = {"images_per_prompt": 4, "credit": credit}
        made = trainer(large_scale_rl, values)
        latents = batch().noise.initial()
        features = made.run.reward.decode(latents).flatten(1).numpy()
        units = features / np.linalg.norm(features, axis=1, keepdims=True)
        own = [1 - np.mean([units[i] @ units[j] for j in range(4) if j != i]) for i in range(4)]
        expected = own if credit == "own" else [np.mean(own)] * 4
        found = large_scale_rl.diversity(made.run, latents, settings_of(large_scale_rl, values))
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-6)


def test_a_reward_without_features_gives_no_diversity_of_sets():
    made = trainer(large_scale_rl, {"images_per_prompt": 4}, judge=tiny.reward)
    with pytest.raises(InputError, match="has no features of images"):
        made.step([batch()])
