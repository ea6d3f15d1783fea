"""Whether the reward of a run has what the run's method needs of it."""

from __future__ import annotations

from stages.errors import InputError
from stages.finetune import method
from stages.finetune.resolve import TrainingPlan
from stages.models.record import ModelRecord
from stages.rewards.base import Embedder, LatentJudge, Reward


def require_enough(plan: TrainingPlan, reward: Reward) -> Reward:
    """`reward` itself; raises InputError where it does not give the gradient or the image features, or does not judge
    the noisy latents, that the plan's method needs.
    """
    needs = plan.method_settings.needs
    if needs.features and not isinstance(reward, Embedder):
        raise InputError(
            f"run {plan.name!r}: method {plan.method!r} takes image features from its reward, and {reward.name!r} has "
            f"none; expected a reward of kind black_box, with {reward.name!r} and a feature network under `of`"
        )
    if needs.latents and not isinstance(reward, LatentJudge):
        raise InputError(
            f"run {plan.name!r}: method {plan.method!r} scores noisy latents, and reward {reward.name!r} judges images "
            "alone; expected one that `prepare.train.latent` trains"
        )
    if reward.differentiable or needs.reward != "gradient":
        return reward
    raise InputError(
        f"run {plan.name!r}: reward {reward.name!r} gives images no gradient, and method {plan.method!r} trains on the "
        f"reward's gradient; kinds of methods that need none: {', '.join(without_gradient())}"
    )


def require_latents_of(plan: TrainingPlan, reward: Reward, base: ModelRecord) -> None:
    """Raise InputError where the plan's method scores noisy latents, and the reward knows those of another base."""
    if plan.method_settings.needs.latents and isinstance(reward, LatentJudge) and reward.base != base.digest:
        raise InputError(
            f"run {plan.name!r}: reward {reward.name!r} judges latents of base {reward.base}, but the base here is "
            f"{base.digest}; train it on this one"
        )


def without_gradient() -> list[str]:
    """Kinds of methods that train, by default, on a reward without gradient."""
    return [
        kind
        for kind in method.kinds()
        if method.load(kind, kind)[0].settings.model_validate({"kind": kind}).needs.reward != "gradient"
    ]
