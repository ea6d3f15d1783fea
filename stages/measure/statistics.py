"""Statistics of features: the first half of every set metric, small pure functions in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

BLOCK = 1024
EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Gaussian:
    """Mean [D] and unbiased covariance [D, D]."""

    mean: np.ndarray
    covariance: np.ndarray

    @cached_property
    def root(self) -> np.ndarray:
        """The symmetric square root of the covariance."""
        values, vectors = np.linalg.eigh(self.covariance)
        return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


@dataclass(frozen=True)
class Reference:
    """Real images as set metrics need them."""

    features: np.ndarray
    """float64 [N, D], not normalised."""
    gaussian: Gaussian
    radii: np.ndarray
    """float64 [N]: squared distance of every image's k-th nearest other image."""
    kernel_mean: float
    """Mean of `cubic_kernel` over all pairs of two different images."""
    neighbours: int
    """That k; generated images get the same one."""


def reference(features: np.ndarray, neighbours: int) -> Reference:
    """All statistics of real features [N, D]; N must be larger than `neighbours`."""
    values = np.asarray(features, np.float64)
    total = sum(float(cubic_kernel(values[rows], values).sum()) for rows in _blocks(len(values)))
    total -= float(((np.square(values).sum(1) / values.shape[1] + 1) ** 3).sum())
    count = len(values)
    return Reference(
        values, gaussian(values), neighbour_radii(values, neighbours), total / (count * (count - 1)), neighbours
    )


def gaussian(features: np.ndarray) -> Gaussian:
    """Mean and covariance of features [n, D], n > 1."""
    values = np.asarray(features, np.float64)
    return Gaussian(values.mean(0), np.atleast_2d(np.cov(values, rowvar=False)))


def cubic_kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[n, m]: (a.b / D + 1)^3, the kernel of KID (Binkowski et al. 2018, section 4)."""
    return (np.asarray(a, np.float64) @ np.asarray(b, np.float64).T / a.shape[1] + 1) ** 3


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[n, m] squared Euclidean distances, never negative."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.maximum(np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * a @ b.T, 0)


def distance_blocks(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """`squared_distances` of some rows of a at a time, so that no [n, m] is ever there: (rows, [rows, m])."""
    for rows in _blocks(len(a)):
        yield rows, squared_distances(a[rows], b)


@dataclass(frozen=True)
class Nearest:
    """The nearest rows of every row of features [n, D], itself among them: `index` and squared `distance` [n, K],
    ascending.
    """

    features: np.ndarray
    index: np.ndarray
    distance: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, count: int) -> Nearest:
        """The `count` nearest of every row (all, where there are fewer)."""
        values = np.asarray(features, np.float64)
        most = min(count, len(values))
        index, distance = np.empty((len(values), most), np.int64), np.empty((len(values), most))
        for rows, found in distance_blocks(values, values):
            index[rows] = np.argpartition(found, most - 1, axis=1)[:, :most]
            near = np.take_along_axis(found, index[rows], axis=1)
            order = np.argsort(near, axis=1)
            index[rows] = np.take_along_axis(index[rows], order, axis=1)
            distance[rows] = np.take_along_axis(near, order, axis=1)
        return cls(values, index, distance)

    def radii(self, rows: np.ndarray, neighbours: int) -> np.ndarray:
        """`neighbour_radii` of the features at `rows` alone (each once), without comparing them anew; a row with too
        few of its nearest among them is compared with all of them again.
        """
        kept = np.zeros(len(self.features), bool)
        kept[rows] = True
        last = min(neighbours, len(rows) - 1)
        there = kept[self.index[rows]]
        place = (there.cumsum(1) == last + 1).argmax(1)
        reach = np.take_along_axis(self.distance[rows], place[:, None], axis=1)[:, 0]
        for row in np.flatnonzero(there.sum(1) <= last):
            found = squared_distances(self.features[rows[row] : rows[row] + 1], self.features[rows])
            reach[row] = kth_smallest(found, neighbours)[0]
        return reach


def neighbour_radii(features: np.ndarray, neighbours: int) -> np.ndarray:
    """[n]: squared distance of every row of [n, D] to its `neighbours`-th nearest other row."""
    values = np.asarray(features, np.float64)
    return np.concatenate([kth_smallest(found, neighbours) for _, found in distance_blocks(values, values)])


def kth_smallest(distances: np.ndarray, neighbours: int) -> np.ndarray:
    """[n]: per row of [n, m] distances that include the one to itself, the `neighbours`-th smallest of the others."""
    last = min(neighbours, distances.shape[1] - 1)
    return np.partition(distances, last, axis=1)[:, last]


def at_bound(value: float, low: float, high: float, rounding: float) -> float:
    """`value`, or the end of [low, high] that it passes by at most `rounding`.

    For metrics whose true value may be an end of their range, where rounding alone decides the side on which the
    computed one falls. A value further outside is a fault of its computation: it stays, to be seen.
    """
    if low - rounding <= value < low:
        return low
    if high < value <= high + rounding:
        return high
    return value


def rounding(a: np.ndarray, b: np.ndarray) -> float:
    """What squared distances between rows of a and b may be off by; equal images must count as equal."""
    return 1e-12 * float(max(np.square(a).sum(1).max(), np.square(b).sum(1).max()))


def unit(features: np.ndarray) -> np.ndarray:
    """Features scaled to length 1 along the last axis, in float64; zero stays zero."""
    values = np.asarray(features, np.float64)
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)


def second_order_number(features: np.ndarray) -> float:
    """RKE of features [n, D], n > 0: 1 / |K / n|^2, K the cosines, |.| the Frobenius norm; between 1 and n.

    That is exp of the Rényi entropy of order 2 of the eigenvalues of K / n (Jalali, Li and Farnia 2023, section 4): 1
    for equal images, n for orthogonal ones. K and the smaller of the matrices u u^T and u^T u have the same norm.
    """
    units = unit(features)
    count, width = units.shape
    products = units @ units.T if count <= width else units.T @ units
    value = float(count**2 / np.square(products).sum())
    return at_bound(value, 1.0, count, 64 * count**2 * EPSILON)


def directions(features: np.ndarray) -> np.ndarray:
    """Features [n, D] scaled to length sqrt(D), in float64.

    Contrastive training gives meaning to the direction of an embedding alone. At this length the cubic kernel of KID is
    (cosine + 1)^3; on features as they come, a few long ones dominate it.
    """
    return unit(features) * np.sqrt(np.shape(features)[-1])


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, BLOCK):
        yield slice(start, start + BLOCK)
