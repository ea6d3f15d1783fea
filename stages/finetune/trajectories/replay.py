"""A replay buffer of trajectories: first in, first out, in memory; each of several processes holds all of it."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from stages.finetune.trajectories.chain import Trajectory
from stages.models.conditioning import Conditioning


@dataclass(frozen=True)
class Kept:
    """One image's states [T, C, h, w] that enter its steps, its conditions (one row), prompt and reward."""

    states: Tensor
    text: Conditioning
    prompt: str
    reward: float


@dataclass(frozen=True)
class Drawn:
    """States x [N, C, h, w] that enter the steps i [N], with conditions and prompts."""

    x: Tensor
    i: Tensor
    text: Conditioning
    prompts: list[str]


class Replay:
    """At most `size` trajectories; `gamma` is the discount of prioritised draws."""

    def __init__(self, size: int, draw: Literal["uniform", "prioritised"], gamma: float) -> None:
        self.kept: deque[Kept] = deque(maxlen=size)
        self.how, self.gamma = draw, gamma

    def add(self, made: Trajectory, rewards: Tensor) -> None:
        """Keep the trajectories of a micro-batch; the oldest make room."""
        for row, reward in enumerate(rewards.tolist()):
            states = made.states[:-1, row].clone()
            self.kept.append(Kept(states, made.text[[row]], made.prompts[row], reward))

    def draw(self, count: int, rng: random.Random, part: slice = slice(None)) -> Drawn:
        """The `part` of `count` states, uniformly without repeating a trajectory where there are enough, or by
        priority.
        """
        steps = len(self.kept[0].states)
        if self.how == "uniform":
            enough = count <= len(self.kept)
            rows = rng.sample(range(len(self.kept)), count) if enough else rng.choices(range(len(self.kept)), k=count)
            return self.at([(row, rng.randrange(steps)) for row in rows][part])
        rows = rng.choices(range(len(self.kept)), self.priorities(), k=count)
        share = [self.gamma ** (steps - 1 - i) for i in range(steps)]
        return self.at(list(zip(rows, rng.choices(range(steps), share, k=count), strict=True))[part])

    def priorities(self) -> list[float]:
        """Positive parts of the rewards, all equal where none is positive (SQDF's code, BBO/sqdf_utils.py); 0 for a
        reward that is not finite.
        """
        found = [max(kept.reward, 0.0) if math.isfinite(kept.reward) else 0.0 for kept in self.kept]
        return found if any(found) else [1.0] * len(found)

    def at(self, places: Sequence[tuple[int, int]]) -> Drawn:
        """The states at (trajectory, step)."""
        chosen = [self.kept[row] for row, _ in places]
        x = torch.stack([kept.states[i] for kept, (_, i) in zip(chosen, places, strict=True)])
        i = torch.tensor([i for _, i in places], device=x.device)
        return Drawn(x, i, Conditioning.cat([kept.text for kept in chosen]), [kept.prompt for kept in chosen])

    @property
    def bytes(self) -> int:
        """Memory of the states: 4 T C h w bytes per trajectory in float32."""
        return sum(kept.states.numel() * kept.states.element_size() for kept in self.kept)

    def state_dict(self) -> dict[str, Any]:
        """What to save, without a copy: what is kept never changes."""
        return {"kept": [vars(kept) | {"text": kept.text.tensors()} for kept in self.kept]}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from what was saved, on `device`."""
        self.kept.clear()
        for kept in state["kept"]:
            text = Conditioning(**kept["text"]).to(device)
            self.kept.append(Kept(kept["states"].to(device), text, kept["prompt"], kept["reward"]))
