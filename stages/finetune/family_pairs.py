"""The preference families that go beyond plain pairs: a function per family, as in `family.py`. Torch-free."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from stages.finetune.families.pair_variants import (
    AnchoredSettings,
    DualCaptionSettings,
    ExpertSettings,
    PerceptualSettings,
    PersonalSettings,
    TextPairSettings,
    TruncatedSettings,
    TwoNetworkSettings,
)
from stages.finetune.method import Method

if TYPE_CHECKING:
    from torch import Tensor

    from stages.finetune.families.pair_errors import PairErrors
    from stages.finetune.objective import Loss, Objective, Run

D = TypeVar("D", bound=DualCaptionSettings)
T = TypeVar("T", bound=TextPairSettings)
N = TypeVar("N", bound=PerceptualSettings)
E = TypeVar("E", bound=ExpertSettings)
K = TypeVar("K", bound=TwoNetworkSettings)
G = TypeVar("G", bound=AnchoredSettings)
V = TypeVar("V", bound=TruncatedSettings)
U = TypeVar("U", bound=PersonalSettings)


def perceptual_preference(settings: type[N], loss: Callable[[PairErrors, N], Loss]) -> Method[N]:
    """As `paired_preference`, with errors in the feature space of a frozen UNet."""

    def objective(own: N, run: Run) -> Objective:
        from stages.finetune.families.perceptual import PerceptualPreference

        return PerceptualPreference(own, run, loss)

    return Method(settings, objective)


def ranked_experts(settings: type[E], loss: Callable[[PairErrors, E], Loss]) -> Method[E]:
    """As `paired_preference`, on expert images against states of the policy's own trajectories."""

    def objective(own: E, run: Run) -> Objective:
        from stages.finetune.families.ranked_experts import RankedExperts

        return RankedExperts(own, run, loss)

    return Method(settings, objective)


def two_networks(settings: type[K], loss: Callable[[PairErrors, K], Loss]) -> Method[K]:
    """As `paired_preference`, with a network of its own for each side of the pairs."""

    def objective(own: K, run: Run) -> Objective:
        from stages.finetune.families.two_networks import TwoNetworks

        return TwoNetworks(own, run, loss)

    return Method(settings, objective)


def anchored_preference(settings: type[G], loss: Callable[[PairErrors, G], Loss]) -> Method[G]:
    """As `paired_preference`, with the distance of the policy from the base in `PairErrors.anchor`."""

    def objective(own: G, run: Run) -> Objective:
        from stages.finetune.families.anchored import AnchoredPreference

        return AnchoredPreference(own, run, loss)

    return Method(settings, objective)


def text_preference(settings: type[T], loss: Callable[[PairErrors, T], Loss]) -> Method[T]:
    """As `paired_preference`, on images with their own caption against the same with another one."""

    def objective(own: T, run: Run) -> Objective:
        from stages.finetune.families.text_preference import TextPreference

        return TextPreference(own, run, loss)

    return Method(settings, objective)


def dual_captions(settings: type[D], loss: Callable[[PairErrors, D], Loss]) -> Method[D]:
    """As `paired_preference`, with a caption for each image of a pair."""

    def objective(own: D, run: Run) -> Objective:
        from stages.finetune.families.text_preference import DualCaptions

        return DualCaptions(own, run, loss)

    return Method(settings, objective)


def personal_preference(settings: type[U], loss: Callable[[PairErrors, U], Loss]) -> Method[U]:
    """As `paired_preference`, with the annotator of each pair as a further condition of the policy."""

    def objective(own: U, run: Run) -> Objective:
        from stages.finetune.families.personal import Personal

        return Personal(own, run, loss)

    return Method(settings, objective)


def truncated(settings: type[V], loss: Callable[[Tensor, V], Loss]) -> Method[V]:
    """A method that learns what a network that does worse predicts: `loss` is the mean loss of differences [B, C, h, w]
    of clean latents.
    """

    def objective(own: V, run: Run) -> Objective:
        from stages.finetune.families.truncated import Truncated

        return Truncated(own, run, loss)

    return Method(settings, objective)
