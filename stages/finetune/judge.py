"""The training reward of a run: whether the method can do with it, and how often it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages import plugins
from stages.errors import InputError
from stages.finetune.resolve import GROUP, METHODS
from stages.finetune.settings import MethodSettings
from stages.rewards.base import Embedder, Reward, require_embedding

if TYPE_CHECKING:
    from torch import Tensor

    from stages.finetune.resolve import Plan


@dataclass
class Counted:
    """A reward that counts the images it was asked about in `queries`."""

    reward: Reward
    queries: int = 0

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Reward [B] of images [B, 3, H, W] in [0, 1]."""
        self.queries += len(images)
        return self.reward(images, prompts)

    def embed(self, images: Tensor) -> Tensor:
        """The reward's own features [B, D]; raises InputError where it has none."""
        return require_embedding(self.reward).embed(images)

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """The reward's own features [B, D] of texts, in the space of `embed`; raises InputError where it has none."""
        encode = getattr(self.reward, "encode_text", None)
        if encode is None:
            raise InputError(
                f"model {self.reward.name!r} has no features of texts; expected some as open_clip models have"
            )
        return encode(prompts)


def require_enough(plan: Plan, reward: Reward) -> Reward:
    """`reward` itself; raises InputError where it does not give the gradient, or the features, that the plan's method
    takes.
    """
    if plan.method_settings.needs_features and not isinstance(reward, Embedder):
        raise InputError(
            f"run {plan.name!r}: method {plan.method!r} takes image features from its reward, and {reward.name!r} has "
            f"none; expected a reward of kind black_box, with {reward.name!r} and a feature network under `of`"
        )
    if reward.differentiable or not plan.method_settings.needs_gradient:
        return reward
    raise InputError(
        f"run {plan.name!r}: reward {reward.name!r} gives images no gradient, and method {plan.method!r} trains on the "
        f"reward's gradient; kinds of methods that need none: {', '.join(without_gradient())}"
    )


def without_gradient() -> list[str]:
    """Kinds of methods that train on a reward without gradient."""
    found = []
    for kind in plugins.names(METHODS, GROUP):
        settings: type[MethodSettings] = plugins.load(METHODS, GROUP, kind, kind).Settings
        if not settings.model_validate({"kind": kind}).needs_gradient:
            found.append(kind)
    return found
