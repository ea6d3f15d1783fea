"""DPOK: single steps of rollouts with the released divergence, the mean squared difference of guided predictions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from stages.finetune.families.policy_gradient import Collected, PolicyGradient
from stages.finetune.methods import dpok
from stages.finetune.trajectories.advantages import History
from stages.finetune.trajectories.collection import States
from stages.models.diffusion import Denoiser
from stages.parity.checks import EXACT, Check
from stages.parity.stepwise.given import VALUE, Given, Item, guidance, objective, of_terms


def checks(given: Given) -> Iterator[Check]:
    """Every item of DPOK; the old densities are those of the network half-way between base and policy."""
    for item in given.items("dpok"):
        yield from _item(given, item)


def learner(given: Given, item: Item, policy: Denoiser) -> PolicyGradient:
    """The product's objective with the item's settings."""
    made = objective(
        dpok, given.run(policy, item.setting("steps"), guidance(item)), clip=item.setting("clip"), least_history=1,
        reward_weight=item.setting("reward_weight"), kl_weight=item.setting("kl_weight"),
        as_released={"squared_predictions": True},
    )  # fmt: skip
    return cast(PolicyGradient, made)


def _item(given: Given, item: Item) -> Iterator[Check]:
    trained = given.trained()
    made = learner(given, item, trained.denoiser)
    chain, places = made.chain, torch.tensor(item.setting("step_indices"))
    batch = given.batch(range(len(places)))
    with torch.no_grad():
        half = Denoiser(given.between(0.5), given.reference.schedule)
        old = chain.transition(half, item.input("x"), places, batch.text)
        after = old.sample(item.input("noise"))
    advantages = _advantages(item, made)
    states = States(item.input("x"), places, after, old.log_prob(after), advantages, batch.text)

    seen: dict[str, Tensor] = {}
    trained.denoiser.seen = lambda x, t, prediction: seen.update(eps=prediction)
    given.base.seen = lambda x, t, prediction: seen.update(eps_ref=prediction)
    whole, log_prob = made.regularised(states, advantages.mean()), chain.transition
    found = log_prob(trained.denoiser, states.x, states.i, states.text)
    given.base.seen = None
    policy_loss = made.loss(found, states).root
    counted = item.setting("count") > item.setting("kl_warmup")
    loss = (whole.root if counted else policy_loss) / item.setting("accumulation")
    loss.backward()

    yield item.states("timesteps", chain.networks.grid.timesteps[places].tolist())
    yield item.check("next", after, VALUE)
    yield item.check("advantage", advantages, VALUE)
    yield item.check("eps", seen["eps"], VALUE)
    yield item.check("eps_ref", seen["eps_ref"], VALUE)
    yield item.check("old_log_prob", states.old_log_prob, VALUE)
    yield item.check("log_prob", found.log_prob(after), VALUE)
    raw = torch.exp(found.log_prob(after) - states.old_log_prob).detach()
    kept = raw.clamp(1 - item.setting("clip"), 1 + item.setting("clip"))
    yield item.check("ratio_raw", raw, VALUE)
    yield item.check("ratio", kept, VALUE)
    yield item.check("clipped", raw != kept, EXACT)
    unit = of_terms(item.setting("reward_weight") * advantages * kept)
    yield item.check("policy_loss", policy_loss, VALUE, unit)
    yield item.check("kl", whole.terms["mse_to_base"], VALUE)
    yield item.check("loss", loss, VALUE, unit / item.setting("accumulation"))
    yield from given.gradients(item, trained)


def _advantages(item: Item, made: PolicyGradient) -> Tensor:
    """Rewards less the values, which stand for what the history of each prompt has."""
    rewards, prompts = item.input("rewards"), [str(n) for n in range(len(item.input("rewards")))]
    history = History(size=1, least=1)
    history.add(item.input("values"), prompts)
    return dpok.advantages(Collected(rewards, rewards, prompts, history), made.settings)  # type: ignore[arg-type]
