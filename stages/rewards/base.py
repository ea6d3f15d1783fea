"""The protocol of rewards and feature extractors, and how a model record becomes one.

A kind is a module of this package, or a module that an installed package registers under the entry point group
`imagerefl.rewards`. It defines `load(record, device)`, which returns an object with the methods below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from stages import plugins
from stages.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from stages.models.record import ModelRecord
    from stages.sight import Sight

PACKAGE, GROUP = "stages.rewards", "imagerefl.rewards"
_NOT_KINDS = ("base", "preprocess")


@runtime_checkable
class Reward(Protocol):
    """A number for an image and a prompt: higher is better. The scale is the model's own."""

    name: str
    differentiable: bool

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Reward [B] float32 of images [B, 3, H, W] in [0, 1], each with its own prompt.

        Where `differentiable` and gradients are enabled, the gradient flows to `images`. An image's reward does not
        depend on the other images of the batch.
        """
        ...


@runtime_checkable
class StepAware(Reward, Protocol):
    """A reward that also judges clean images predicted during sampling, and knows how noisy the states were."""

    def score_at(self, images: Tensor, prompts: Sequence[str], t: float) -> Tensor:
        """Reward [B] of images [B, 3, H, W] in [0, 1] predicted from states at timestep t; 0 is the end of sampling."""
        ...


@runtime_checkable
class LatentJudge(Reward, Protocol):
    """A reward that judges noisy latents of one base model as they are, without decoding them."""

    base: str
    """Digest of the record of the base whose latents it knows."""

    def score_latents(self, x: Tensor, prompts: Sequence[str], t: float) -> Tensor:
        """Reward [B] of scaled latents x [B, C, h, w], as noisy as at timestep t."""
        ...


@runtime_checkable
class Oracle(Reward, Protocol):
    """A reward that reads images back without a network; metrics share what it sees.

    `kind` is the name of its module; `stages.gives` has there which class of sight it gives.
    """

    kind: str

    def see(self, images: Tensor, prompts: Sequence[str]) -> Sight:
        """What is seen in images [B, 3, H, W] in [0, 1], each with its own prompt."""
        ...

    def utility(self, seen: Any, prompts: Sequence[str]) -> Tensor:
        """The reward [B] of images in which that was seen: `utility(see(images, prompts), prompts)`."""
        ...


@runtime_checkable
class Embedder(Protocol):
    """One vector per image."""

    def embed(self, images: Tensor) -> Tensor:
        """Features [B, D] float32, not normalised, of images [B, 3, H, W] in [0, 1]."""
        ...


@runtime_checkable
class TextEmbedder(Protocol):
    """One vector per text, in the space of its image vectors."""

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Text features [B, D] float32 of unit length."""
        ...


@runtime_checkable
class PatchEmbedder(Protocol):
    """One vector per place of an image."""

    def patches(self, images: Tensor) -> Tensor:
        """Features [B, N, D] float32, not normalised, of images [B, 3, H, W] in [0, 1]; N places in reading order."""
        ...


@runtime_checkable
class TextImage(Embedder, Protocol):
    """A model with one space for texts and images, whose reward is a function of an image's embedding."""

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Text features [B, D] float32 of unit length; every distinct prompt is encoded once and kept."""
        ...

    def compare(self, embeddings: Tensor, prompts: Sequence[str]) -> Tensor:
        """The reward [B] of embedded images [B, D]: `compare(embed(images), prompts)` is `reward(images, prompts)`."""
        ...


def known_kinds() -> tuple[str, ...]:
    """Names of all kinds of rewards, without importing any."""
    return plugins.names(PACKAGE, GROUP, _NOT_KINDS)


def load_reward(record: ModelRecord, device: torch.device | str = "cpu") -> Reward:
    """The reward that `record` describes, its weights frozen, on `device`.

    Raises InputError for an unknown kind, or where the recorded files are missing, changed or of another layout.
    """
    module = plugins.load(PACKAGE, GROUP, record.kind, f"model {record.name!r}", _NOT_KINDS)
    return module.load(record, device)


def load_parts(record: ModelRecord, device: torch.device | str = "cpu") -> dict[str, Reward]:
    """The models that the one in `record` is made of (`of` in the study file), by name; at least one.

    Raises InputError where the study names none.
    """
    if not record.parts:
        raise InputError(f"model {record.name!r}: kind {record.kind} is made of other models; name them under `of`")
    return {name: load_reward(part, device) for name, part in record.parts.items()}


def load_one(record: ModelRecord, device: torch.device | str = "cpu") -> Reward:
    """The one model that the one in `record` is made of; raises InputError where there is none, or several."""
    parts = load_parts(record, device)
    if len(parts) > 1:
        raise InputError(f"model {record.name!r}: kind {record.kind} is made of one model, found {', '.join(parts)}")
    return next(iter(parts.values()))


def about(*parts: Reward) -> dict[str, object]:
    """By name, what identifies the computation of the models that another one is made of."""
    return {part.name: getattr(part, "describe", dict)() for part in parts}


def require_gradient(reward: Reward) -> Reward:
    """`reward` itself; raises InputError where it gives images no gradient."""
    if not reward.differentiable:
        raise InputError(
            f"reward {reward.name!r} gives images no gradient, and this method trains on the reward's gradient; "
            "expected a differentiable reward"
        )
    return reward


def require_embedding(reward: Reward) -> Embedder:
    """`reward` as an Embedder; raises InputError where it has no embedding."""
    if not isinstance(reward, Embedder):
        raise InputError(f"model {reward.name!r} has no embedding of an image; expected one as open_clip models have")
    return reward


def require_patches(reward: Reward) -> PatchEmbedder:
    """`reward` as a PatchEmbedder; raises InputError where it has no features of patches."""
    if not isinstance(reward, PatchEmbedder):
        raise InputError(f"model {reward.name!r} has no features of patches; expected some as open_clip models have")
    return reward


def require_oracle(reward: Reward) -> Oracle:
    """`reward` as an Oracle; raises InputError where it sees nothing in images that metrics could share."""
    if not isinstance(reward, Oracle):
        raise InputError(f"model {reward.name!r} is no oracle; expected one that reads images back without a network")
    return reward


def require_text(reward: Reward) -> TextImage:
    """`reward` as a TextImage; raises InputError where it does not compare images with texts."""
    if not isinstance(reward, TextImage):
        raise InputError(f"model {reward.name!r} does not compare images with texts; expected an open_clip model")
    return reward
