"""From a generated image to what a CLIP-like network expects, in tensor operations that pass the gradient on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from stages.errors import InputError
from stages.params import nearest

if TYPE_CHECKING:
    from torch import Tensor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
NORMALISATIONS = {
    "clip": (CLIP_MEAN, CLIP_STD),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
INTERPOLATIONS = ("bicubic", "bilinear")
RESIZE_MODES = ("shortest", "longest", "squash")


@dataclass(frozen=True)
class Preprocess:
    """Resize with antialiasing to a square of `size`, then normalise each channel.

    `resize_mode` shortest: the shorter side becomes `size`, the centre is cut out. longest: the longer side becomes
    `size`, the rest is filled with black on both sides. squash: both sides become `size`. The names and their meaning
    are those of open_clip's configuration (`preprocess_cfg`). Pixels that overshoot [0, 1] in resizing stay so.
    """

    size: int = 224
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"

    def __call__(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] as network input [B, 3, size, size]."""
        from torchvision.transforms.v2 import functional

        height, width = images.shape[-2:]
        target = self._target(height, width)
        if target != (height, width):
            images = functional.resize(images, list(target), self._mode(), antialias=True)
        if self.resize_mode != "squash":
            # Pads with zeros where a side is short, cuts where it is long: at most one of the two happens.
            images = functional.center_crop(images, [self.size, self.size])
        return functional.normalize(images, list(self.mean), list(self.std))

    def normalised(self, name: object, where: str) -> Preprocess:
        """The same with a named mean and standard deviation; raises InputError that starts with `where` for an unknown
        name.

        The released ImageReFL code feeds every network, DINO too, with images normalised for CLIP: that is `clip`.
        """
        if name not in NORMALISATIONS:
            raise InputError(f"{where}: unknown normalisation {name!r}{nearest(str(name), NORMALISATIONS)}")
        mean, std = NORMALISATIONS[str(name)]
        return replace(self, mean=mean, std=std)

    def describe(self) -> dict[str, object]:
        """The settings as plain values, for identifying an evaluation."""
        return asdict(self)

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if self.resize_mode == "squash":
            return self.size, self.size
        short, long = sorted((height, width))
        if self.resize_mode == "shortest":
            # The long side is truncated, as torchvision's Resize with one number does.
            other = int(self.size * long / short)
            return (self.size, other) if height <= width else (other, self.size)
        scale = self.size / long
        return round(height * scale), round(width * scale)

    def _mode(self):
        from torchvision.transforms.v2 import InterpolationMode

        return InterpolationMode(self.interpolation)


def from_config(values: Mapping[str, Any], where: str) -> Preprocess:
    """The preprocessing that an open_clip `preprocess_cfg` asks for; keys it leaves out are CLIP's own.

    Raises InputError, starting with `where`, for a key or a value that is not supported.
    """
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    if given.pop("mode", "RGB") != "RGB" or given.pop("fill_color", 0) != 0:
        raise InputError(f"{where}: only RGB images with a black margin are supported")
    known = {field.name for field in fields(Preprocess)}
    for key in given:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}{nearest(key, known)}")
    given["size"] = _side(given.get("size", Preprocess.size), where)
    made = Preprocess(**given)
    for name, value, choices in (
        ("interpolation", made.interpolation, INTERPOLATIONS),
        ("resize_mode", made.resize_mode, RESIZE_MODES),
    ):
        if value not in choices:
            raise InputError(f"{where}: {name} {value!r} is not supported{nearest(str(value), choices)}")
    if any(not isinstance(value, tuple) or len(value) != 3 for value in (made.mean, made.std)):
        raise InputError(f"{where}: mean and std need three numbers each, one per channel")
    numbers = [value for value in (*made.mean, *made.std) if isinstance(value, int | float) and math.isfinite(value)]
    if len(numbers) != 6 or min(made.std) <= 0:
        raise InputError(
            f"{where}: mean {list(made.mean)} and std {list(made.std)}; expected numbers, those of std over 0"
        )
    return made


def _side(size: object, where: str) -> int:
    sides = list(size) if isinstance(size, tuple) else [size]
    if len(set(sides)) != 1 or not isinstance(sides[0], int) or sides[0] < 1:
        raise InputError(f"{where}: expected one image side in pixels, or two equal ones, found {size!r}")
    return sides[0]
