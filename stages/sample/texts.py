"""What rows of latents are conditioned on, each condition held once however many candidates are told it.

The token embeddings of a large text encoder are larger than an image of 512 pixels (5 MB per row in Stable Diffusion
3), so rows of candidates hold places among the conditions, and copies are made for the rows of one network call only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from stages.models.conditioning import Conditioning

_Call = tuple[int, int]


@dataclass(frozen=True)
class Texts:
    """Conditions `own` [P], and the place [B] of the one of each row among them."""

    own: Conditioning
    places: Sequence[int]
    _last: dict[_Call, Conditioning] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, own: Conditioning) -> Texts:
        """A row for each condition."""
        return cls(own, range(len(own)))

    def __len__(self) -> int:
        return len(self.places)

    def take(self, rows: Sequence[int]) -> Texts:
        """The chosen rows."""
        return Texts(self.own, [self.places[row] for row in rows])

    def changed(self, change: Callable[[Conditioning], Conditioning]) -> Texts:
        """The same rows with other conditions, made of each of `own` by itself."""
        return replace(self, own=change(self.own))

    @property
    def whole(self) -> Conditioning:
        """The conditions of all rows [B]: a copy for every candidate where rows are candidates."""
        return self._gathered(self.places)

    def call(self, rows: slice) -> Conditioning:
        """The conditions of the rows of one network call; the same tensors if it is asked again about these rows, so
        that what a network makes of a text alone can be kept (`stages/models/text_once.py`). Never so for a text that
        is learnt: it changes, and its gradient has to find the way back.
        """
        if any(value.requires_grad for value in self.own.tensors().values()):
            return self._gathered(self.places[rows])
        key = (rows.start, rows.stop)
        if key not in self._last:
            self._last.clear()  # no more than one call's are held
            self._last[key] = self._gathered(self.places[rows])
        return self._last[key]

    def _gathered(self, places: Sequence[int]) -> Conditioning:
        if len(self.own) == 1:
            return self.own.expand(len(places))
        first = places[0] if len(places) else 0
        if all(place == first + n for n, place in enumerate(places)):
            return self.own if len(places) == len(self.own) else self.own[first : first + len(places)]
        return self.own[list(places)]
