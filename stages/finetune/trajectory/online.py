"""Rounds of query, fit and fine-tuning: a black box is asked about some images, a proxy of it is what is climbed.

A round begins with images of the policy as it is, whose rewards join the data of all rounds; the proxy is fitted on
them; for the steps of the round an inner objective sees the proxy, with what it is unsure of, in place of the reward.
Nothing else asks the reward, so that its count is that of the images of the rounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stages.finetune.batch import Batch
from stages.finetune.learner import Learner, image_features
from stages.finetune.methods.online import Settings
from stages.finetune.trajectory.chain import Chain
from stages.finetune.trajectory.proxy import Proxy
from stages.finetune.trajectory.trainer import Method, Piece
from stages.rewards.networks.contrastive import exact, plain


class Inner(Method, Protocol):
    """An objective that a policy is tuned on within a round; it yields one piece a micro-batch."""

    def restart(self, learner: Learner) -> None:
        """A round begins."""
        ...


class Online:
    """Online black-box optimisation; what changes is the data, the proxy and the inner objective's own state."""

    def __init__(self, settings: Settings, accumulate: int, inner: Inner) -> None:
        self.settings, self.accumulate, self.inner = settings, accumulate, inner
        self.features = torch.empty(0)
        self.rewards = torch.empty(0)
        self.proxy: Proxy | None = None
        self.fresh = 0.0  # mean reward of the images of this round

    def due(self, step: int) -> bool:
        """Whether a round begins, or the inner objective wants rollouts."""
        return step % self.settings.round_steps == 0 or self.inner.due(step)

    def collect(self, learner: Learner, chain: Chain, batches: Sequence[Batch]) -> dict[str, float]:
        """Query and fit where a round begins, then what the inner objective collects, judged by the proxy."""
        step = batches[0].micro // self.accumulate
        terms: dict[str, float] = {}
        if step % self.settings.round_steps == 0:
            terms = self.begin(learner, chain, batches[0], step // self.settings.round_steps)
            self.inner.restart(learner)
        if self.inner.due(step):
            found = self.inner.collect(self.trusting(learner), chain, batches)
            terms |= {name.replace("reward", "proxy"): value for name, value in found.items()}
        return terms

    def begin(self, learner: Learner, chain: Chain, batch: Batch, number: int) -> dict[str, float]:
        """The queries and the fit of round `number`; what an attempt at it left that was not finite is replaced."""
        settings, kept = self.settings, sum(self.settings.asked(n) for n in range(number))
        before = self.proxy if len(self.rewards) == kept else None
        features, rewards = self.query(learner, chain, batch, settings.asked(number))
        self.features = torch.cat([self.features[:kept].to(features), features])
        self.rewards = torch.cat([self.rewards[:kept].to(rewards), rewards])
        self.fresh = float(rewards.mean())
        heads = settings.proxy.heads if settings.optimism == "bootstrap" else 1
        draw = torch.Generator().manual_seed(batch.rng.getrandbits(63))
        self.proxy = Proxy.fit(self.features, self.rewards, heads, settings.proxy.ridge, draw)
        left = self.proxy.expected(self.features) - self.rewards
        terms = {
            "round": float(number), "data": float(len(self.rewards)), "proxy_loss": float(left.square().mean()),
            "proxy_ridge": float(self.proxy.penalty),
            "proxy_doubt": float(self.proxy.doubt(features, settings.optimism).mean()),
        }  # fmt: skip
        found = None if before is None else correlation(before.expected(features), rewards)
        return terms if found is None else terms | {"proxy_correlation": found}

    @torch.no_grad()
    def query(self, learner: Learner, chain: Chain, batch: Batch, count: int) -> tuple[Tensor, Tensor]:
        """Features [count, F] and rewards [count] of images of the policy, of prompts drawn for this micro-batch."""
        if batch.further is None:
            raise ValueError("this micro-batch can draw no further prompts")
        size, limit = len(batch.prompts), learner.settings.judge_batch
        found: list[tuple[Tensor, Tensor]] = []
        for first in range(0, count, size):
            asked = batch.further(first, min(size, count - first))
            last, prompts = chain.roll(asked).last, asked.prompts
            for n in range(0, len(last), limit):
                images, own = learner.decode(last[n : n + limit]), prompts[n : n + limit]
                found.append((self.describe(learner, images, own), learner.reward(images, own).double()))
        features, rewards = zip(*found, strict=True)
        return torch.cat(features), torch.cat(rewards)

    def describe(self, learner: Learner, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Features [B, F] in double precision of images [B, 3, H, W] in [0, 1]: those of the image at unit length, and
        their products with those of the prompt.
        """
        embed = image_features(learner.reward)
        with plain(images):
            seen = normalize(exact(embed(images)), dim=-1)
            if self.settings.proxy.prompts:
                words = learner.reward.encode_text(prompts)  # type: ignore[attr-defined]
                seen = torch.cat([seen, seen * words.to(seen)], -1)
        return seen.double()

    def trusting(self, learner: Learner) -> Learner:
        """The learner with the proxy, and its doubt, in place of the reward."""
        settings, proxy = self.settings, self.proxy
        assert proxy is not None

        def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
            features = self.describe(learner, images, prompts)
            return proxy.value(features, settings.optimism, settings.optimism_weight).to(exact(images).dtype)

        return replace(learner, reward=reward)

    def losses(self, learner: Learner, chain: Chain, batch: Batch) -> Iterator[Piece]:
        """The inner objective on the proxy; `reward` is that of the images asked about, `proxy` what is climbed."""
        for piece in self.inner.losses(self.trusting(learner), chain, batch):
            terms = dict(piece.terms)
            value = terms.pop("reward")
            yield Piece(piece.root, terms | {"proxy": value, "reward": value.new_tensor(self.fresh)})

    def state(self) -> dict[str, Any]:
        """The data, the proxy and what the inner objective keeps."""
        proxy = None if self.proxy is None else self.proxy.state()
        return {"features": self.features, "rewards": self.rewards, "proxy": proxy, "fresh": self.fresh,
                "inner": self.inner.state()}  # fmt: skip

    def load_state(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from what was saved, on `device`."""
        self.features, self.rewards = state["features"].to(device), state["rewards"].to(device)
        self.proxy = None if state["proxy"] is None else Proxy.of_state(state["proxy"], device)
        self.fresh = state["fresh"]
        self.inner.load_state(state["inner"], device)


def correlation(found: Tensor, wanted: Tensor) -> float | None:
    """Pearson's correlation of two [N]; None where one of them does not vary."""
    a, b = found - found.mean(), wanted - wanted.mean()
    norm = a.norm() * b.norm()
    return float(a @ b / norm) if float(norm) > 0 else None
