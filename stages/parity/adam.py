"""How far a step of Adam may be off because the gradient is: the tolerances of the optimizer items.

Adam divides by |g| + eps, so where a gradient is as small as eps, or as its own rounding error, the step depends on
that error, which differs from processor to processor, and no fixed tolerance fits. But the step of a weight is a known,
monotone function of its gradient, so a gradient that is within its own tolerance bounds the step from both sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

HALF_ULP = 2.0**-24
"""The largest rounding error of single precision, relative to the number that is rounded."""
ROUNDED = 10
"""Rounded operations from a gradient to the step that is added: two moments, their correction, root, sum, quotient."""


@dataclass(frozen=True)
class Adam:
    """The settings of the optimizer, and the factors by which its successive steps see the same gradient multiplied."""

    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    factors: tuple[float, ...]

    def moved(self, gradient: Tensor, weights: Tensor) -> Tensor:
        """Weights after minus weights before, in double precision, for a gradient and weights of one shape.

        Kingma and Ba 2015, algorithm 1, with bias correction; weight decay as in Loshchilov and Hutter 2019.
        """
        first, second, after = torch.zeros_like(gradient), torch.zeros_like(gradient), weights.clone()
        (beta1, beta2), decay = self.betas, 1 - self.lr * self.weight_decay
        for n, factor in enumerate(self.factors, 1):
            g = factor * gradient
            first, second = beta1 * first + (1 - beta1) * g, beta2 * second + (1 - beta2) * g**2
            direction = (first / (1 - beta1**n)) / ((second / (1 - beta2**n)).sqrt() + self.eps)
            after = decay * after - self.lr * direction
        return after - weights

    def rounding(self, weights: Tensor, moved: Tensor) -> Tensor:
        """How far two sides may be apart because each computes and adds its steps in single precision."""
        steps = len(self.factors)
        additions = steps * (2 if self.weight_decay else 1)
        return 2 * HALF_ULP * (additions * (weights.abs() + moved.abs()) + steps * ROUNDED * moved.abs())


@dataclass(frozen=True)
class Reach:
    """How far the step of one parameter may be from another's whose gradient is equal within its tolerance."""

    elements: Tensor
    """Of every element: the largest distance of the step, absolute, shape of the parameter."""
    squares: float
    """Of the squared length of the step: the largest distance, the sum over the elements."""

    @classmethod
    def of(cls, adam: Adam, gradient: Tensor, weights: Tensor, tolerance: float) -> Reach:
        """`gradient` may be off by `tolerance` times its largest magnitude in every element.

        A step never rises with an element of the gradient: its extremes lie at the ends of that range. Its square is
        smallest where the step is 0, which may lie inside.
        """
        g, w = gradient.double(), weights.double()
        off, middle = tolerance * g.abs().max(), adam.moved(g, w)
        rounding = adam.rounding(w, middle)
        ends = torch.stack([adam.moved(g - off, w), adam.moved(g + off, w)])
        elements = (ends - middle).abs().amax(0) + rounding
        squares = (ends.square() - middle.square()).abs().amax(0)
        squares = torch.where(ends[0] * ends[1] < 0, torch.maximum(squares, middle.square()), squares)
        return cls(elements, float((squares + rounding * (2 * middle.abs() + rounding)).sum()))

    def length(self, found: float, expected: float) -> float:
        """How far the length of the step may be: the distance of squared lengths over the sum of lengths."""
        return self.squares / max(found + expected, 1e-300)
