"""Adaptive-DPO (2025): pairs that the policy and two averages of it are uncertain of, or disagree on, count less."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from stages.about import MethodAbout
from stages.finetune.families.pair_settings import AdaptiveSettings
from stages.finetune.family import adaptive_preference

if TYPE_CHECKING:
    from torch import Tensor

    from stages.finetune.families.pair_errors import PairErrors
    from stages.finetune.objective import Loss

ABOUT = MethodAbout("Adaptive-DPO", "Zhang et al. 2025, arXiv 2503.16921", family="preference")
TINY = 1e-12
"""The least norm of margins that is divided by."""


class Settings(AdaptiveSettings):
    """Adaptive-DPO's own keys."""

    beta: float = Field(
        default=2000.0,
        gt=0,
        description="as Diffusion-DPO's, half of it enters the loss; the release has no half, so that its 1000 is 2000",
    )
    tau: float = Field(default=10.0, ge=0, description="how much less an uncertain pair counts")
    rho: float = Field(default=15.0, gt=0, description="factor of the margins in the uncertainty")
    normalise: bool = Field(default=True, description="margins are divided by their norm over the micro-batch first")
    weight: Literal["linear", "quadratic", "sqrt", "sigmoid"] = Field(
        default="linear",
        description="of a pair with uncertainty u: 1 / (1 + tau u), 1 / (1 + tau u^2), 1 / (1 + exp(tau sqrt u)) or "
        "1 / (1 + exp(tau u))",
    )
    margin: Literal["quadratic", "linear", "none"] = Field(
        default="quadratic", description="what is taken off z: mean m less u^2 or u over half of beta, or nothing"
    )
    ipo_tau: float | None = Field(
        default=None, gt=0, description="with a number, the loss of IPO in place of the logistic one"
    )


def uncertainty(pairs: PairErrors, settings: Settings) -> tuple[Tensor, Tensor]:
    """u [N], without gradient, and the standard deviation [N] of the networks' opinions, at most 1.

    u = (1 - mean sigmoid(o)) std(o) of the opinions o = rho m / |m| of policy and averages, |m| the norm of a network's
    margins over the micro-batch. Without averages u = 1 - sigmoid(rho m), and in the warm-up 0.
    """
    import torch

    own = pairs.margin.detach()
    if pairs.further is None:
        return torch.zeros_like(own), torch.zeros_like(own)
    if not pairs.further:
        return 1 - torch.sigmoid(settings.rho * own), torch.zeros_like(own)
    margins = (own, *pairs.further)
    norms = [pairs.of_all(margin).norm().clamp(min=TINY) if settings.normalise else 1.0 for margin in margins]
    opinions = torch.stack([settings.rho * margin / norm for margin, norm in zip(margins, norms, strict=True)])
    spread = opinions.std(0).clamp(max=1)
    return (1 - torch.sigmoid(opinions).mean(0)) * spread, spread


def weights(u: Tensor, settings: Settings) -> Tensor:
    """The weight [N] of every pair, from its uncertainty [N]."""
    import torch

    if settings.weight == "sqrt":
        return 1 / (1 + torch.exp(settings.tau * u.sqrt()))
    if settings.weight == "sigmoid":
        return 1 / (1 + torch.exp(settings.tau * u))
    return 1 / (1 + settings.tau * (u if settings.weight == "linear" else u.square()))


def loss(pairs: PairErrors, settings: Settings) -> Loss:
    """-w log sigmoid(z - (mean m - u^2 / (beta / 2))), z = beta / 2 m; mean m over the micro-batch, without gradient
    and, as released, without beta.
    """
    from torch.nn.functional import logsigmoid

    from stages.finetune import stop
    from stages.finetune.losses.pairs import regression
    from stages.finetune.objective import Loss

    u = stop.gradient(uncertainty(pairs, settings)[0])
    weight, half = weights(u, settings), settings.beta / 2
    shift: Tensor | float = 0.0
    if settings.margin != "none":
        shift = pairs.of_all(pairs.margin).mean() - (u if settings.margin == "linear" else u.square()) / half
    if settings.ipo_tau is None:
        each = -logsigmoid(half * pairs.margin - shift)
    else:  # the release adds here what it takes off above
        each = regression(pairs.margin + shift / half, 1 / (2 * settings.ipo_tau))
    return Loss.of(pairs.mean(weight * each), doubt=u.mean())


METHOD = adaptive_preference(Settings, loss)
