"""The networks of `stages/parity/pixelwise.py` in NumPy and double precision, with every derivative by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Weights = dict[str, Array]
T, START, SCALE = 10, 6, 0.4
MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])
NAMES = ("first", "words", "time", "second")

ABAR = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


def grid(steps: int) -> Array:
    """Timesteps, noisiest first: spacing `leading` with an offset of 1."""
    return np.arange(steps)[::-1] * (1000 // steps) + 1


@dataclass(frozen=True)
class Step:
    """Coefficients at one index: x0 = (x - b eps) / a, and x_next = c x0 + d x + s z."""

    a: float
    b: float
    c: float
    d: float
    s: float

    @classmethod
    def at(cls, steps: int, i: int) -> Step:
        abar = ABAR[grid(steps)[i]]
        prev = ABAR[grid(steps)[i + 1]] if i + 1 < steps else 1.0
        beta = 1 - abar / prev
        variance = max((1 - prev) / (1 - abar) * beta, 1e-20)
        c, d = np.sqrt(prev) * beta / (1 - abar), np.sqrt(1 - beta) * (1 - prev) / (1 - abar)
        return cls(np.sqrt(abar), np.sqrt(1 - abar), c, d, np.sqrt(variance))

    def x0(self, x: Array, eps: Array) -> Array:
        return (x - self.b * eps) / self.a

    def next(self, x: Array, eps: Array, z: Array) -> Array:
        return self.c * self.x0(x, eps) + self.d * x + self.s * z


def denoise(w: Weights, x: Array, t: Array | int, c: Array) -> tuple[Array, Array]:
    """Prediction, and the hidden layer that its derivative needs."""
    time = np.broadcast_to(np.asarray(t) / 1000, len(x))[:, None] * w["time"]
    hidden = np.tanh(np.einsum("oc,bchw->bohw", w["first"], x) + (c @ w["words"].T + time)[:, :, None, None])
    return np.einsum("oc,bchw->bohw", w["second"], hidden), hidden


def denoise_back(w: Weights, x: Array, t: Array | int, c: Array, hidden: Array, g: Array) -> tuple[Array, Weights]:
    """From the derivative by the prediction to those by x and by the weights."""
    inner = np.einsum("oc,bohw->bchw", w["second"], g) * (1 - hidden**2)
    pixels = inner.sum((2, 3))
    time = np.broadcast_to(np.asarray(t) / 1000, len(x))
    own = {
        "first": np.einsum("bohw,bchw->oc", inner, x), "words": pixels.T @ c, "time": time @ pixels,
        "second": np.einsum("bohw,bchw->oc", g, hidden),
    }  # fmt: skip
    return np.einsum("oc,bohw->bchw", w["first"], inner), own


def plus(one: Weights, other: Weights) -> Weights:
    return {name: one[name] + other[name] for name in NAMES}


def bicubic(size: int, out: int) -> Array:
    """The matrix [out, size] of antialiased bicubic resizing with a = -0.5, as Pillow does it."""
    scale = size / out
    wide = max(scale, 1.0)
    made = np.zeros((out, size))
    for row in range(out):
        centre = scale * (row + 0.5)
        low, high = max(int(centre - 2 * wide + 0.5), 0), min(int(centre + 2 * wide + 0.5), size)
        u = np.abs((np.arange(low, high) - centre + 0.5) / wide)
        near, far = 1.5 * u**3 - 2.5 * u**2 + 1, -0.5 * u**3 + 2.5 * u**2 - 4 * u + 2
        made[row, low:high] = np.where(u < 1, near, np.where(u < 2, far, 0))
    return made / made.sum(1, keepdims=True)


def preprocess(images: Array) -> Array:
    """Shorter side to 224, centre 224 x 224, normalised."""
    height, width = images.shape[2:]
    rows, columns = bicubic(height, 224), bicubic(width, int(224 * width / height))
    cut = (len(columns) - 224) // 2
    resized = np.einsum("yh,bchw,xw->bcyx", rows, images, columns[cut : cut + 224], optimize=True)
    return (resized - MEAN[:, None, None]) / STD[:, None, None]


@dataclass
class World:
    """Weights and inputs in double precision, as they are after rounding to what is stored."""

    stored: dict[str, Array]
    inputs: dict[str, Array]
    arrays: dict[str, Array] = field(default_factory=dict)
    scalars: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        w = {name: value.astype(np.float64) for name, value in self.stored.items()}
        self.base, self.tuned = ({n: w[f"{which}.{n}"] for n in NAMES} for which in ("base", "tuned"))
        self.w = w
        self.c, self.empty = (w["table"][self.inputs[name]].mean(1) for name in ("prompt_ids", "uncond_ids"))
        words = w["judge_words"][self.inputs["reward_ids"]].mean(1)
        self.words = words / np.linalg.norm(words, axis=-1, keepdims=True)
        self.z = self.inputs["z"].astype(np.float64)

    def given(self, name: str) -> Array:
        """An input in double precision."""
        return self.inputs[name].astype(np.float64)

    def guided(self, w: Weights, x: Array, t: Array | int, scale: float) -> Array:
        wanted = denoise(w, x, t, self.c)[0]
        if scale == 1:
            return wanted
        plain = denoise(w, x, t, np.repeat(self.empty, len(x), 0))[0]
        return plain + scale * (wanted - plain)

    def guided_back(self, w: Weights, x: Array, t: Array | int, scale: float, g: Array) -> tuple[Array, Weights]:
        gx, own = denoise_back(w, x, t, self.c, denoise(w, x, t, self.c)[1], scale * g)
        if scale == 1:
            return gx, own
        empty = np.repeat(self.empty, len(x), 0)
        more, other = denoise_back(w, x, t, empty, denoise(w, x, t, empty)[1], (1 - scale) * g)
        return gx + more, plus(own, other)

    def raw(self, x0: Array) -> Array:
        pixels = np.einsum("oc,bchw->bohw", self.w["decode"], x0 / SCALE)
        return pixels.repeat(8, 2).repeat(8, 3)

    def features(self, images: Array) -> Array:
        pooled = preprocess(images).reshape(len(images), 3, 7, 32, 7, 32).mean((3, 5))
        return pooled.reshape(len(images), -1) @ self.w["judge_image"].T + self.w["judge_bias"]

    def reward(self, x0: Array) -> Array:
        features = self.features(np.clip(self.raw(x0) / 2 + 0.5, 0, 1))
        return (features * self.words).sum(-1) / np.linalg.norm(features, axis=-1)

    def reward_back(self, x0: Array, g: Array) -> Array:
        """From derivatives [B] by the rewards to those by x0."""
        raw = self.raw(x0)
        features = self.features(np.clip(raw / 2 + 0.5, 0, 1))
        length = np.linalg.norm(features, axis=-1, keepdims=True)
        cosine = (features * self.words).sum(-1, keepdims=True) / length
        by_features = g[:, None] * (self.words - cosine * features / length) / length
        pooled = (by_features @ self.w["judge_image"]).reshape(-1, 3, 7, 7) / 1024
        pixels = pooled.repeat(32, 2).repeat(32, 3) / STD[:, None, None]
        matrix = bicubic(64, 224)
        images = np.einsum("yh,bcyx,xw->bchw", matrix, pixels, matrix, optimize=True)
        inside = (raw / 2 + 0.5 >= 0) & (raw / 2 + 0.5 <= 1)
        blocks = (images * inside / 2).reshape(-1, 3, 8, 8, 8, 8).sum((3, 5))
        return np.einsum("oc,bohw->bchw", self.w["decode"], blocks) / SCALE

    def posterior(self, name: str) -> tuple[Array, Array]:
        pixels = (2 * self.given(name) / 255 - 1).reshape(-1, 3, 8, 8, 8, 8).mean((3, 5))
        mean = np.einsum("oc,bchw->bohw", self.w["encode"], pixels)
        return mean, np.broadcast_to(self.w["spread"][:, None, None], mean.shape)

    def clean(self) -> Array:
        mean, std = self.posterior("real_images_u8")
        return SCALE * (mean + std * self.given("posterior_noise"))

    def noised(self, i: int) -> Array:
        at = Step.at(T, i)
        return at.a * self.clean() + at.b * self.given("forward_noise")
