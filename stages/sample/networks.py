"""The networks of a group of images, as predictions that strategies compose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser, Predict
from stages.models.process import Grid
from stages.sample.meter import Meter
from stages.sample.settings import BASE
from stages.sample.texts import Texts


@dataclass(frozen=True)
class Rows:
    """Rows of latents: the image of each (of the `meter`), and how many go through a network at once (0: all)."""

    images: Sequence[int]
    meter: Meter
    limit: int = 0

    @classmethod
    def of(cls, count: int, limit: int = 0) -> Rows:
        """One row for each of `count` images."""
        return cls(range(count), Meter(count), limit)

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Sequence[int]) -> Rows:
        """The chosen rows."""
        return replace(self, images=[self.images[row] for row in rows])

    def chunks(self) -> Iterator[slice]:
        """Slices of all rows, none longer than the limit."""
        size = self.limit or max(len(self), 1)
        return (slice(first, first + size) for first in range(0, len(self), size))


@dataclass(frozen=True)
class Networks:
    """The networks on one grid. `texts` are what each row is conditioned on, `empty` [1] is the empty prompt.

    `tuned_network` is None when the base alone is sampled; `others` are further trained networks, by name. `time` []
    takes the place of the grid's timestep, for latents between two indices. Every evaluation is charged to the image of
    its row.
    """

    grid: Grid
    texts: Texts
    empty: Conditioning
    base_network: Denoiser
    tuned_network: Denoiser | None
    rows: Rows
    others: Mapping[str, Denoiser] = field(default_factory=dict)
    time: Tensor | None = None

    @property
    def text(self) -> Conditioning:
        """What each row is conditioned on [B]; a copy for every candidate where rows are candidates."""
        return self.texts.whole

    def conditioned(self, text: Conditioning) -> Networks:
        """The same networks, each row told `text` [B] in place of its own."""
        return replace(self, texts=Texts.of(text))

    @property
    def steps(self) -> int:
        """T, the number of steps of the grid."""
        return len(self.grid)

    def base(self, guidance: float) -> Predict:
        """The base's prediction at a guidance scale."""
        return self._predict(self.base_network, guidance)

    def tuned(self, guidance: float) -> Predict:
        """The tuned network's prediction at a guidance scale."""
        if self.tuned_network is None:
            raise ValueError("the base alone has no tuned network")
        return self._predict(self.tuned_network, guidance)

    def own(self, guidance: float) -> Predict:
        """The prediction of the network that is sampled: of the tuned one, or of the base where it is sampled alone."""
        return self._predict(self.own_network, guidance)

    @property
    def own_network(self) -> Denoiser:
        """The network that is sampled."""
        return self.base_network if self.tuned_network is None else self.tuned_network

    def other(self, name: str, guidance: float) -> Predict:
        """The prediction of a further network."""
        return self._predict(self.others[name], guidance)

    def without_prompt(self, name: str) -> Predict:
        """The prediction of the base or of a further network for the empty prompt."""
        return self._told(name, self._untold())

    def told_mixture(self, name: str, prompt: float, empty: float) -> Predict:
        """The prediction of the base or of a further network for a weighted sum of the embeddings of the prompt and of
        the empty prompt.
        """
        return self._told(name, self.texts.changed(lambda own: own.mixed(prompt, self.empty.expand(len(own)), empty)))

    def base_direction(self, x: Tensor, i: int) -> Tensor:
        """The base's prediction with the prompt less that without, [B, C, h, w]: where guidance goes."""
        with_prompt = self._evaluate(self.base_network, x, i, self.texts, 1.0)
        return with_prompt - self._evaluate(self.base_network, x, i, self._untold(), 1.0)

    def take(self, rows: Sequence[int]) -> Networks:
        """The same networks on the chosen rows."""
        return replace(self, texts=self.texts.take(rows), rows=self.rows.take(rows))

    def at(self, time: Tensor) -> Networks:
        """The same networks at a timestep that need not be the grid's."""
        return replace(self, time=time)

    def _untold(self) -> Texts:
        return Texts(self.empty, [0] * len(self.texts))

    def _told(self, name: str, texts: Texts) -> Predict:
        network = self.base_network if name == BASE else self.others[name]
        return lambda x, i: self._evaluate(network, x, i, texts, 1.0)

    def _predict(self, network: Denoiser, guidance: float) -> Predict:
        return lambda x, i: self._evaluate(network, x, i, self.texts, guidance)

    def _evaluate(self, network: Denoiser, x: Tensor, i: int, texts: Texts, guidance: float) -> Tensor:
        parts, t, meter = [], self.grid.timesteps[i] if self.time is None else self.time, self.rows.meter
        for rows in self.rows.chunks():
            forward, backward = network.evaluations, network.backward
            part = network.prediction(x[rows], t, texts.call(rows), self.empty, guidance)
            meter.add("nfe", self.rows.images[rows], (network.evaluations - forward) // len(part))
            meter.add("nfe_backward", self.rows.images[rows], (network.backward - backward) // len(part))
            parts.append(part)
        return torch.cat(parts) if len(parts) > 1 else parts[0]
