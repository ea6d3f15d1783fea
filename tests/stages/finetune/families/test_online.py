"""The surrogate of a black box against NumPy, and the rounds that it is asked in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.encode.store import Encodings
from stages.finetune.data import Data
from stages.finetune.families.ascent import Ascent, Earlier
from stages.finetune.families.online import OnlineRounds, correlation
from stages.finetune.families.surrogate import PENALTIES, Surrogate, cross_validated
from stages.finetune.methods import online
from stages.finetune.objective import Run
from stages.finetune.reward import CountedReward, LatentReward
from stages.finetune.settings import FinetuneSettings
from stages.finetune.training import Trainer
from stages.finetune.trajectories.chain import Chain
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Autoencoder, Denoiser
from stages.models.policy import Trainable, make_policy
from tests import tiny

STEPS = 4


def data(count: int, seed: int = 0, width: int = 6) -> tuple[Tensor, Tensor]:
    """Features of unequal scale and mean, and rewards that are linear in them but for noise."""
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(count, width)) * np.arange(1, width + 1) + 3
    rewards = features @ np.linspace(-1, 1, width) + draw.normal(size=count)
    return torch.from_numpy(features), torch.from_numpy(rewards)


def augmented(z: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """Ridge by least squares on data with rows added for the penalty; the last weight is the offset."""
    width = z.shape[1]
    rows = np.vstack([np.c_[z, np.ones(len(z))], np.c_[np.sqrt(penalty) * np.eye(width), np.zeros(width)]])
    return np.linalg.lstsq(rows, np.r_[y, np.zeros(width)], rcond=None)[0]


@pytest.mark.parametrize(("count", "penalty"), [(40, 2.0), (4, 0.5)])
def test_one_head_is_ridge_regression_and_its_uncertainty_that_of_a_linear_model(count: int, penalty: float):
    features, rewards = data(count)
    found = Surrogate.fit(features, rewards, 1, penalty, torch.Generator())
    x, y = features.numpy(), rewards.numpy()
    z = (x - x.mean(0)) / x.std(0)
    solution = augmented(z, y, penalty)
    new = data(5, seed=1)[0]
    there = (new.numpy() - x.mean(0)) / x.std(0)
    np.testing.assert_allclose(found.expected(new), there @ solution[:-1] + solution[-1], rtol=1e-9)

    whole = z.T @ z + penalty * np.eye(z.shape[1])
    hat = np.ones((count, count)) / count + z @ np.linalg.inv(whole) @ z.T
    left = y - hat @ y
    deviation = np.sqrt(left @ left / max(1.0, count - np.trace(hat)))
    uncertainty = deviation * np.sqrt(np.einsum("nf,fg,ng->n", there, np.linalg.inv(whole), there))
    np.testing.assert_allclose(found.uncertainty(new, "ucb"), uncertainty, rtol=1e-9)
    np.testing.assert_allclose(found.value(new, "ucb", -2.0), found.expected(new) - 2 * uncertainty, rtol=1e-9)
    assert torch.equal(found.value(new, "none", 5.0), found.expected(new))


def test_the_penalty_is_the_one_of_least_cross_validation_error():
    features, rewards = data(30)
    z = ((features - features.mean(0)) / features.std(0, correction=0)).numpy()
    errors = []
    for penalty in PENALTIES:
        hat = np.ones((30, 30)) / 30 + z @ np.linalg.solve(z.T @ z + penalty * np.eye(z.shape[1]), z.T)
        left = rewards.numpy() - hat @ rewards.numpy()
        errors.append(30 * left @ left / (30 - np.trace(hat)) ** 2)
    assert cross_validated(torch.from_numpy(z), rewards) == PENALTIES[int(np.argmin(errors))]
    found = Surrogate.fit(features, rewards, 1, None, torch.Generator())
    assert float(found.penalty) == PENALTIES[int(np.argmin(errors))]


@pytest.mark.parametrize(("kind", "heads"), [("ucb", 1), ("bootstrap", 16)])
def test_uncertainty_shrinks_with_data(kind: Any, heads: int):
    new = data(50, seed=9)[0]
    uncertainties = [
        float(Surrogate.fit(*data(count), heads, 1.0, torch.Generator().manual_seed(0)).uncertainty(new, kind).mean())
        for count in (20, 80, 320, 1280)
    ]
    assert uncertainties == sorted(uncertainties, reverse=True)
    assert uncertainties[3] < 0.3 * uncertainties[0]


def test_heads_are_fitted_on_resamples_that_the_seed_decides():
    features, rewards = data(25)
    fits = [Surrogate.fit(features, rewards, 3, 1.0, torch.Generator().manual_seed(seed)) for seed in (4, 4, 5)]
    assert torch.equal(fits[0].weights, fits[1].weights)
    assert not torch.isclose(fits[0].weights, fits[2].weights).any()
    rows = torch.randint(25, (3, 25), generator=torch.Generator().manual_seed(4)).numpy()
    x = features.numpy()
    z = (x - x.mean(0)) / x.std(0)
    solutions = [augmented(z[row], rewards.numpy()[row], 1.0) for row in rows]
    said = np.stack([z @ s[:-1] + s[-1] for s in solutions])
    np.testing.assert_allclose(fits[0].heads(features), said, rtol=1e-8)
    np.testing.assert_allclose(fits[0].uncertainty(features, "bootstrap"), said.std(0), rtol=1e-6)


def test_features_that_do_not_vary_count_for_nothing():
    features, rewards = data(12)
    found = Surrogate.fit(torch.cat([features, torch.ones(12, 1)], 1), rewards, 1, 1.0, torch.Generator())
    other = torch.cat([features, torch.full((12, 1), 1.0)], 1)
    torch.testing.assert_close(
        found.expected(other), Surrogate.fit(features, rewards, 1, 1.0, torch.Generator()).expected(features)
    )
    equal = Surrogate.fit(torch.zeros(4, 2), torch.ones(4), 1, None, torch.Generator())
    assert equal.expected(torch.zeros(1, 2)).tolist() == [1.0]


class Judge:
    """Rewards bright images and gives features of 2 x 2 patches; what it was shown is kept."""

    name, differentiable = "judge", False

    def __init__(self) -> None:
        self.shown: list[Tensor] = []

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        self.shown.append(images.detach())
        return images.detach().mean((1, 2, 3))

    def embed(self, images: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(images, 8).flatten(1) + 0.1

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        return torch.stack([torch.nn.functional.normalize(tiny.text(1, len(p)).flatten()[:12], dim=0) for p in prompts])


def trainer(judge: Any, trainable: Trainable = "norm_affine", **values: Any) -> Trainer:
    network = tiny.unet()
    policy = make_policy(network, trainable)
    shared = FinetuneSettings.model_validate(
        {"sampling_steps": STEPS, "batch_size": 4, "judge_batch": 3, "optimizer": {"lr": 1e-2}}
    )
    settings = online.Settings.model_validate({"kind": "online", "round_steps": 2, **values})
    settings.check(shared)
    networks = tiny.networks(policy.network, STEPS)
    networks = replace(networks, reference=Denoiser(network, networks.policy.process))
    run = Run(networks, LatentReward(Autoencoder(tiny.vae()).decode, CountedReward(judge), shared), shared)
    return Trainer.start(run, online.METHOD.objective(settings, run), dict(policy.parameters()))


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Data:
    encodings = Encodings(*tiny.encodings(tmp_path_factory.mktemp("prompts"), train=5), tiny.CPU)
    return Data(encodings, encodings.prompts("train"), 0, 4, 1, 1.0, tiny.CPU, False)


GRADIENT = {"kind": "gradient", "truncate": [1, 4]}


@pytest.mark.parametrize("optimism", ["ucb", "bootstrap", "none"])
def test_what_is_asked_is_counted_and_kept(prompts: Data, optimism: str):
    """Rounds of 7, 5, 5 images; the inner objective asks nothing."""
    judge = Judge()
    made = trainer(judge, queries=[7, 5], optimism=optimism, inner=GRADIENT)
    logs, asked = [], []
    for step in range(6):
        before = made.run.reward.queries
        logs.append(made.step([prompts.batch(step, 0)]))
        asked.append(made.run.reward.queries - before)
    assert asked == [7, 0, 5, 0, 5, 0]
    method = made.objective
    assert isinstance(method, OnlineRounds)
    assert [log.get("data") for log in logs] == [7.0, None, 12.0, None, 17.0, None]
    assert [log.get("round") for log in logs] == [0.0, None, 1.0, None, 2.0, None]
    shown = torch.cat(judge.shown)
    torch.testing.assert_close(method.rewards, shown.mean((1, 2, 3)).double())
    assert logs[3]["reward"] == pytest.approx(float(shown[7:12].mean()), rel=1e-5)
    assert "proxy_correlation" not in logs[0]
    assert -1 <= logs[2]["proxy_correlation"] <= 1


def test_the_correlation_is_that_of_the_old_surrogate_on_fresh_images(prompts: Data):
    made = trainer(Judge(), queries=[9], inner=GRADIENT)
    made.step([prompts.batch(0, 0)])
    method = made.objective
    assert isinstance(method, OnlineRounds)
    assert method.surrogate is not None
    old = method.surrogate
    made.step([prompts.batch(1, 0)])
    log = made.step([prompts.batch(2, 0)])
    said, true = old.expected(method.features[9:]).numpy(), method.rewards[9:].numpy()
    assert log["proxy_correlation"] == pytest.approx(np.corrcoef(said, true)[0, 1])
    assert correlation(torch.ones(3), torch.arange(3.0)) is None


def test_a_round_that_is_begun_again_does_not_count_twice(prompts: Data):
    """As after a step that was not finite, which a resumed run takes again."""
    made = trainer(Judge(), queries=[5, 4], inner=GRADIENT)
    for step in (0, 1, 2, 2):
        made.step([prompts.batch(step, 0)])
    assert isinstance(made.objective, OnlineRounds)
    assert len(made.objective.rewards) == len(made.objective.features) == 9


def test_prompts_asked_about_go_through_all_before_one_comes_again(prompts: Data):
    drawn = prompts.batch(3, 0).further
    assert drawn is not None
    whole, parts = drawn(0, 12), [drawn(0, 4), drawn(4, 8)]
    assert list(whole.prompts) == [*parts[0].prompts, *parts[1].prompts]
    assert torch.equal(whole.noise.initial(), torch.cat([part.noise.initial() for part in parts]))
    assert len(set(whole.prompts[:5])) == len(set(whole.prompts[5:10])) == 5
    other = prompts.batch(4, 0).further
    assert other is not None
    assert not torch.equal(other(0, 4).noise.initial(), parts[0].noise.initial())
    assert not torch.equal(prompts.batch(3, 0).noise.initial(), parts[0].noise.initial())


def test_the_gradient_of_the_surrogate_arrives_in_the_image(prompts: Data):
    """By finite differences, with the prompt's features and the uncertainty in it."""
    judge = Judge()
    made = trainer(judge, queries=[30], optimism="ucb", optimism_weight=0.5, inner=GRADIENT)
    made.step([prompts.batch(0, 0)])
    method = made.objective
    assert isinstance(method, OnlineRounds)
    surrogate = method.surrogate_reward
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: surrogate(torch.nn.functional.interpolate(x, 16), ["a", "abc"]),
        torch.nn.functional.avg_pool2d(images, 8).requires_grad_(True),
    )
    shown = len(judge.shown)
    surrogate(images, ["a", "abc"])
    assert len(judge.shown) == shown


def test_the_divergence_from_before_starts_at_zero_in_every_round_and_that_from_the_base_does_not(prompts: Data):
    made = trainer(Judge(), queries=[6], inner=GRADIENT)
    logs = [made.step([prompts.batch(step, 0)]) for step in range(4)]
    assert logs[0]["kl"] == logs[0]["kl_previous"] == 0
    assert logs[1]["kl"] == pytest.approx(logs[1]["kl_previous"]) != 0
    assert logs[2]["kl_previous"] == 0 < logs[2]["kl"]
    assert logs[3]["kl_previous"] != pytest.approx(logs[3]["kl"])


def test_an_earlier_policy_is_the_network_with_the_values_of_then():
    policy = make_policy(tiny.unet(), "lora", rank=2)
    network = policy.network
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    x, t, text = torch.ones(1, *tiny.LATENT), torch.tensor(400), tiny.text(1)
    with torch.no_grad():
        for p in trained.values():
            p.add_(0.1)
        kept = Earlier(network, {name: p.clone() for name, p in trained.items()})
        then = network(x, t, encoder_hidden_states=text, return_dict=False)[0]
        for p in trained.values():
            p.add_(0.3)
        now = network(x, t, encoder_hidden_states=text, return_dict=False)[0]
        assert torch.equal(kept(x, t, encoder_hidden_states=text, return_dict=False)[0], then)
    assert not torch.equal(now, then)


def test_the_loss_in_one_graph(prompts: Data):
    """Reward at the end of the chain and both divergences, by autograd through everything."""
    made = trainer(
        Judge(), queries=[6], inner={**GRADIENT, "truncate": [2, 3], "base_weight": 0.3, "previous_weight": 0.7}
    )
    method = made.objective
    assert isinstance(method, OnlineRounds)
    for step in range(2):
        made.step([prompts.batch(step, 0)])
    inner = method.inner
    assert isinstance(inner, Ascent)
    [part] = list(inner.losses([prompts.batch(1, 0)]))
    found = torch.autograd.grad(part.root, list(made.parameters.values()))

    networks = made.run.networks
    batch, chain, policy = prompts.batch(1, 0), Chain.of(networks), networks.policy
    assert batch.draw((2, 3)) == 2
    text, states = Conditioning.of(batch.text), [batch.noise.initial()]
    for i in range(STEPS):
        step = chain.transition(policy, states[-1], chain.index(i, 4), text)
        states.append(step.mean + step.std * batch.noise.step(i))
        states[-1] = states[-1].detach() if i < STEPS - 2 else states[-1]
    reward = method.surrogate_reward(made.run.reward.decode(states[-1]), batch.prompts).mean()
    steps = torch.tensor([batch.rng.randrange(STEPS) for _ in range(4)])
    x = torch.stack([states[int(i)][row].detach() for row, i in enumerate(steps)])
    earlier = Denoiser(Earlier(policy.network, inner.previous), policy.process)
    mine, base, before = (chain.transition(d, x, steps, text) for d in (policy, networks.base, earlier))
    near, moved = (((mine.mean - o.mean.detach()) ** 2 / (2 * mine.std**2)).mean() for o in (base, before))
    loss = -reward + 0.3 * near + 0.7 * moved
    assert float(part.terms["loss"]) == pytest.approx(float(loss), rel=1e-5)
    for one, other in zip(found, torch.autograd.grad(loss, list(made.parameters.values())), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=1e-6)


@pytest.mark.slow
def test_it_learns_what_is_only_asked(prompts: Data):
    """Images become brighter though no gradient of the reward is ever seen."""
    judge = Judge()
    inner = {**GRADIENT, "base_weight": 0.0, "previous_weight": 0.0}
    made = trainer(judge, "full", round_steps=6, queries=[24], inner=inner)
    for step in range(19):
        made.step([prompts.batch(step, 0)])
    means = [torch.cat(judge.shown[n : n + 12]).mean() for n in range(0, len(judge.shown), 12)]
    assert len(means) == 4
    assert min(means[1:]) > means[0] + 0.01


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"inner": {"kind": "gradient", "truncate": [1, 9]}}, "inner.truncate"),
        ({"inner": {"kind": "sqdf", "replay": 3}}, "round_steps 2 is not a multiple of inner.replay 3"),
        ({"inner": {"kind": "sqdf", "predictor": "consistency"}}, "go together"),
        ({"queries": [1]}, "queries"),
        ({"inner": {"kind": "ddpo"}}, "inner"),
    ],
)
def test_refuses_settings(values: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        trainer(Judge(), **values)
