"""Rounds of query, fit and fine-tuning: a black box is queried for some images, and a surrogate of it is maximised.

A round begins with images of the policy as it is, whose rewards join the data of all rounds; the surrogate is fitted on
them; for the steps of the round an inner objective sees the surrogate, with its uncertainty, in place of the reward.
Nothing else asks the reward, so that its count is that of the images of the rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stages.finetune.batch import Batch, optimizer_step
from stages.finetune.families.online_settings import RoundsSettings
from stages.finetune.families.surrogate import Surrogate
from stages.finetune.objective import Loss, Objective, RoundObjective, Run
from stages.finetune.reward import CountedReward
from stages.finetune.trajectories.chain import Chain
from stages.rewards.networks.contrastive import exact, plain


class OnlineRounds(Objective):
    """The objective; what changes is the data, the surrogate and the inner objective's own state.

    `make_inner` is given the run with the surrogate in place of the reward.
    """

    def __init__(self, settings: RoundsSettings, run: Run, make_inner: Callable[[Run], RoundObjective]) -> None:
        self.settings, self.run = settings, run
        self.chain = Chain.of(run.networks, settings.eta)
        tuned = replace(run, reward=replace(run.reward, reward=CountedReward(self.surrogate_reward)))
        self.inner = make_inner(tuned)
        self.features = torch.empty(0)
        self.rewards = torch.empty(0)
        self.surrogate: Surrogate | None = None
        self.fresh = 0.0  # mean reward of the images of this round

    def collect(self, batches: Sequence[Batch]) -> dict[str, float]:
        """Query and fit where a round begins, then what the inner objective collects, judged by the surrogate."""
        step, terms = optimizer_step(batches), {}
        if step % self.settings.round_steps == 0:
            terms = self.begin(batches[0], step // self.settings.round_steps)
            self.inner.restart()
        found = self.inner.collect(batches)
        return terms | {name.replace("reward", "proxy"): value for name, value in found.items()}

    def begin(self, batch: Batch, number: int) -> dict[str, float]:
        """The queries and the fit of round `number`; they replace those of an attempt at it that was not finite."""
        settings, kept = self.settings, sum(self.settings.queried(n) for n in range(number))
        before = self.surrogate if len(self.rewards) == kept else None
        features, rewards = self.query(batch, settings.queried(number))
        self.features = torch.cat([self.features[:kept].to(features), features])
        self.rewards = torch.cat([self.rewards[:kept].to(rewards), rewards])
        self.fresh = float(rewards.mean())
        heads = settings.proxy.heads if settings.optimism == "bootstrap" else 1
        draw = torch.Generator().manual_seed(batch.rng.getrandbits(63))
        surrogate = Surrogate.fit(self.features, self.rewards, heads, settings.proxy.ridge, draw)
        self.surrogate, left = surrogate, surrogate.expected(self.features) - self.rewards
        terms = {
            "round": float(number), "data": float(len(self.rewards)), "proxy_loss": float(left.square().mean()),
            "proxy_ridge": float(surrogate.penalty),
            "proxy_uncertainty": float(surrogate.uncertainty(features, settings.optimism).mean()),
        }  # fmt: skip
        found = None if before is None else correlation(before.expected(features), rewards)
        return terms if found is None else terms | {"proxy_correlation": found}

    @torch.no_grad()
    def query(self, batch: Batch, count: int) -> tuple[Tensor, Tensor]:
        """Features [count, F] and rewards [count] of images of the policy, of prompts drawn for this micro-batch."""
        if batch.further is None:
            raise ValueError("this micro-batch can draw no further prompts")
        reward, size, limit = self.run.reward, len(batch.prompts), self.run.settings.judge_batch
        found: list[tuple[Tensor, Tensor]] = []
        for first in range(0, count, size):
            further = batch.further(first, min(size, count - first))
            last, prompts = self.chain.roll(further).last, further.prompts
            for n in range(0, len(last), limit):
                images, own = reward.decode(last[n : n + limit]), prompts[n : n + limit]
                found.append((self.describe(images, own), reward.reward(images, own).double()))
        features, rewards = zip(*found, strict=True)
        return torch.cat(features), torch.cat(rewards)

    def describe(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Features [B, F] in double precision of images [B, 3, H, W] in [0, 1]: those of the image at unit length, and
        their products with those of the prompt.
        """
        reward = self.run.reward.reward
        with plain(images):
            seen = normalize(exact(reward.embed(images)), dim=-1)
            if self.settings.proxy.prompts:
                seen = torch.cat([seen, seen * reward.encode_text(prompts).to(seen)], -1)
        return seen.double()

    def surrogate_reward(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """What the surrogate expects [B] of images [B, 3, H, W], with its weighted uncertainty."""
        assert self.surrogate is not None
        value = self.surrogate.value(
            self.describe(images, prompts), self.settings.optimism, self.settings.optimism_weight
        )
        return value.to(exact(images).dtype)

    def losses(self, batches: Sequence[Batch]) -> Iterator[Loss]:
        """The inner objective on the surrogate, logged as `proxy`; `reward` is that of the queried images."""
        for loss in self.inner.losses(batches):
            terms = dict(loss.terms)
            value = terms.pop("reward")
            yield replace(loss, terms=terms | {"proxy": value, "reward": value.new_tensor(self.fresh)})

    def state_dict(self) -> dict[str, Any]:
        """The data, the surrogate and what the inner objective keeps."""
        surrogate = None if self.surrogate is None else self.surrogate.state_dict()
        return {"features": self.features, "rewards": self.rewards, "surrogate": surrogate, "fresh": self.fresh,
                "inner": self.inner.state_dict()}  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what was saved."""
        self.features, self.rewards = (state[name].to(self.run.device) for name in ("features", "rewards"))
        saved = state["surrogate"]
        self.surrogate = None if saved is None else Surrogate.from_state_dict(saved, self.run.device)
        self.fresh = state["fresh"]
        self.inner.load_state_dict(state["inner"])


def correlation(found: Tensor, wanted: Tensor) -> float | None:
    """Pearson's correlation of two [N]; None where one of them does not vary."""
    a, b = found - found.mean(), wanted - wanted.mean()
    norm = a.norm() * b.norm()
    return float(a @ b / norm) if float(norm) > 0 else None
