"""The families of methods: a function per family that makes a `Method` of what is the method's own. Torch-free.

What a method says is annotated here, so that the type checker holds every method to the form of its family. Another
family is an `Objective` (`stages/finetune/objective.py`) with a function here, or none where it has a single method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from stages.finetune.families.distilled_settings import DistilledSettings
from stages.finetune.families.latent_settings import LatentCandidateSettings
from stages.finetune.families.pair_settings import (
    AdaptiveSettings,
    ImagePairSettings,
    PairSettings,
    PreferenceDataSettings,
    UnpairedSettings,
)
from stages.finetune.families.settings import (
    AdvantageSettings,
    BranchSettings,
    CandidateSettings,
    CollectionSettings,
    RankedSettings,
)
from stages.finetune.method import Method
from stages.finetune.settings import MethodSettings

if TYPE_CHECKING:
    from torch import Tensor

    from stages.finetune.batch import Batch
    from stages.finetune.families.matching import Matched
    from stages.finetune.families.pair_errors import PairErrors
    from stages.finetune.families.policy_gradient import Collected, StepDensities
    from stages.finetune.families.ranked_rollouts import RankedLists
    from stages.finetune.families.reward_gradient import Step
    from stages.finetune.families.step_preference import StepPairs
    from stages.finetune.families.unpaired import ImageErrors
    from stages.finetune.networks import Networks
    from stages.finetune.objective import Loss, Objective, Run

M = TypeVar("M", bound=MethodSettings)
A = TypeVar("A", bound=AdvantageSettings)
C = TypeVar("C", bound=CollectionSettings)
B = TypeVar("B", bound=BranchSettings)
L = TypeVar("L", bound=DistilledSettings)
S = TypeVar("S", bound=CandidateSettings)
Q = TypeVar("Q", bound=LatentCandidateSettings)
R = TypeVar("R", bound=RankedSettings)
P = TypeVar("P", bound=PairSettings)
T = TypeVar("T", bound=ImagePairSettings)
W = TypeVar("W", bound=AdaptiveSettings)
D = TypeVar("D", bound=PreferenceDataSettings)
U = TypeVar("U", bound=UnpairedSettings)


def reward_gradient(
    settings: type[M], step: Callable[[Networks, Batch, M], Step], *, twice: Callable[[M], bool] | None = None
) -> Method[M]:
    """A method that follows the reward's gradient: `step` is a generator for a micro-batch, which yields the rollouts
    that it needs and returns the clean latents to judge (`families/reward_gradient.py`).

    `twice`: whether the reward sees images moved from [0, 1] to [0.5, 1] (it does not).
    """

    def objective(own: M, run: Run) -> Objective:
        from stages.finetune.families.reward_gradient import RewardGradient

        reward = run.reward.denormalised_twice() if twice is not None and twice(own) else run.reward
        return RewardGradient(replace(run, reward=reward), lambda batch: step(run.networks, batch, own))

    return Method(settings, objective)


def policy_gradient(
    settings: type[A],
    loss: Callable[[StepDensities, A], Loss],
    *,
    window: Callable[[int, int, A], range] | None = None,
    advantages: Callable[[Collected, A], Tensor] | None = None,
    bonus: Callable[[Run, Tensor, A], tuple[Tensor, dict[str, float]]] | None = None,
    auxiliary: Callable[[Run, Batch, A], Iterator[Loss]] | None = None,
    squared: Callable[[A], bool] | None = None,
) -> Method[A]:
    """A method that learns from single steps of judged rollouts: `loss` is the mean loss of some of them.

    `window(count, step, settings)`: the steps of a trajectory of `count` that optimizer step `step` may learn from (all
    of them, if it is not given). `advantages`: the advantage of every image (as the study says). `bonus`: what is added
    to the rewards of latents [N, C, h, w], [N], and terms of the log (nothing). `auxiliary`: further losses of a
    micro-batch (none). `squared`: whether `kl_weight` weighs the mean squared difference of predictions in place of the
    KL divergence (it does not).
    """

    def objective(own: A, run: Run) -> Objective:
        from stages.finetune.families.policy_gradient import PolicyGradient, Rules

        return PolicyGradient(own, run, Rules(loss, window, advantages, bonus, auxiliary, squared))

    return Method(settings, objective)


def matching(
    settings: type[A],
    loss: Callable[[Matched, A], Loss],
    *,
    advantages: Callable[[Collected, A], Tensor] | None = None,
) -> Method[A]:
    """A method that learns from the denoising error on images that it sampled: `loss` is the mean loss of a batch.

    `advantages`: the advantage of every image (as the study says).
    """

    def objective(own: A, run: Run) -> Objective:
        from stages.finetune.families.matching import Matching

        return Matching(own, run, loss, advantages)

    return Method(settings, objective)


def paired_preference(settings: type[P], loss: Callable[[PairErrors, P], Loss]) -> Method[P]:
    """A method that learns from pairs of images with a preference: `loss` is the mean loss of some pairs, from the
    denoising errors of policy and base.
    """

    def objective(own: P, run: Run) -> Objective:
        from stages.finetune.families.preference import PairedPreference

        return PairedPreference(own, run, loss)

    return Method(settings, objective)


def self_play(settings: type[T], loss: Callable[[PairErrors, T], Loss]) -> Method[T]:
    """As `paired_preference`, on real images against those that the reference samples for their captions."""

    def objective(own: T, run: Run) -> Objective:
        from stages.finetune.families.self_play import SelfPlay

        return SelfPlay(own, run, loss)

    return Method(settings, objective)


def adaptive_preference(settings: type[W], loss: Callable[[PairErrors, W], Loss]) -> Method[W]:
    """As `paired_preference`, with the margins of two averages of the policy in `PairErrors.further`."""

    def objective(own: W, run: Run) -> Objective:
        from stages.finetune.families.adaptive import AdaptivePreference

        return AdaptivePreference(own, run, loss)

    return Method(settings, objective)


def unpaired_preference(
    settings: type[U], loss: Callable[[ImageErrors, U], Loss], *, mismatched: Callable[[U], bool] | None = None
) -> Method[U]:
    """A method that learns from images that are liked or disliked: `loss` is the mean loss of some of them, from the
    denoising errors of policy and reference; where `mismatched(settings)`, also from those with other prompts.
    """

    def objective(own: U, run: Run) -> Objective:
        from stages.finetune.families.unpaired import UnpairedPreference

        return UnpairedPreference(own, run, loss, mismatched is not None and mismatched(own))

    return Method(settings, objective)


def weighted_images(
    settings: type[U], loss: Callable[[ImageErrors, U], Loss], temperature: Callable[[U], float]
) -> Method[U]:
    """As `unpaired_preference`, images weighted by exp(reward / temperature)."""

    def objective(own: U, run: Run) -> Objective:
        from stages.finetune.families.unpaired import RewardWeighted

        return RewardWeighted(own, run, loss, temperature(own))

    return Method(settings, objective)


def liked_images(settings: type[D], loss: Callable[[ImageErrors, D], Loss]) -> Method[D]:
    """A method that learns from the preferred images of pairs alone: `loss` is the mean loss of some of them."""

    def objective(own: D, run: Run) -> Objective:
        from stages.finetune.families.unpaired import LikedImages

        return LikedImages(own, run, loss)

    return Method(settings, objective)


def paired_rollouts(settings: type[C], loss: Callable[[StepPairs, C], Loss]) -> Method[C]:
    """Step-by-step preference between two rollouts that begin alike: `loss` is the mean loss of some pairs of steps."""

    def objective(own: C, run: Run) -> Objective:
        from stages.finetune.families.step_preference import PairedRollouts

        return PairedRollouts(own, run, loss)

    return Method(settings, objective)


def distilled_rollouts(settings: type[L], loss: Callable[[StepPairs, L], Loss]) -> Method[L]:
    """As `paired_rollouts`, on a distilled model in few steps."""

    def objective(own: L, run: Run) -> Objective:
        from stages.finetune.families.distilled import DistilledPairs

        return DistilledPairs(own, run, loss)

    return Method(settings, objective)


def branched_rollouts(settings: type[B], loss: Callable[[StepPairs, B], Loss]) -> Method[B]:
    """Step-by-step preference between two next states of one state: `loss` is the mean loss of some pairs of steps."""

    def objective(own: B, run: Run) -> Objective:
        from stages.finetune.families.step_preference import BranchedRollouts

        return BranchedRollouts(own, run, loss)

    return Method(settings, objective)


def candidate_rollouts(settings: type[S], loss: Callable[[StepPairs, S], Loss]) -> Method[S]:
    """Step-by-step preference between the best and the worst of several next states of one state: `loss` is the mean
    loss of some pairs of steps, the first of each the better one.
    """

    def objective(own: S, run: Run) -> Objective:
        from stages.finetune.families.candidates import CandidateRollouts

        return CandidateRollouts(own, run, loss)

    return Method(settings, objective)


def latent_candidates(settings: type[Q], loss: Callable[[StepPairs, Q], Loss]) -> Method[Q]:
    """As `candidate_rollouts`, the candidates scored as noisy latents by a reward that judges those."""

    def objective(own: Q, run: Run) -> Objective:
        from stages.finetune.families.latent_candidates import LatentCandidates

        return LatentCandidates(own, run, loss)

    return Method(settings, objective)


def ranked_rollouts(settings: type[R], loss: Callable[[RankedLists, R], Loss]) -> Method[R]:
    """Lists of rollouts of a prompt that the reward ranks: `loss` is the mean loss of some lists, from log densities of
    sampling steps that were drawn.
    """

    def objective(own: R, run: Run) -> Objective:
        from stages.finetune.families.ranked_rollouts import RankedRollouts

        return RankedRollouts(own, run, loss)

    return Method(settings, objective)
