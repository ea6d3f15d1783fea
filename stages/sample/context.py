"""What a sampling strategy works with: rows of latents, the networks, the noise, a decoder and rewards.

A row is one candidate of one image; at first every image has one row, candidate 0. `branch`, `candidate` and `take`
make contexts with other rows. Network evaluations, decodings and reward queries are charged to the image of each row,
and go through the models at most `batch_size` rows at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from stages.models.conditioning import Conditioning
from stages.models.diffusion import Predict
from stages.models.noise import Noise
from stages.models.process import Grid
from stages.models.sampler import Enter, OnStep, Sampler, finish, step
from stages.rewards.base import Reward
from stages.sample.judged import gradient_of, judged
from stages.sample.networks import Networks, Rows


class WordMaps(Protocol):
    """What the network that is sampled attends to."""

    def words(self, prompt: str) -> list[str]:
        """The words of a prompt."""
        ...

    def places(self, prompt: str) -> list[list[int]]:
        """The places of the tokens of each word among those of the first text encoder."""
        ...

    def maps(self, ctx: Context, x: Tensor, i: int) -> list[Tensor]:
        """For each row of `ctx` maps [h, w, W] of its first W words, from latents x [B, C, h', w'] entering index i."""
        ...


@dataclass(frozen=True)
class Part:
    """Steps that are made alone: `indices`, from latents `x` [B, C, h, w] that enter the first of them, or from pure
    noise. `prediction` is the one there, where it is known and the same for every candidate.
    """

    indices: range
    x: Tensor | None = None
    prediction: Tensor | None = None

    def take(self, rows: Sequence[int]) -> Part:
        """The chosen rows."""
        at = list(rows)
        x, prediction = (None if value is None else value[at] for value in (self.x, self.prediction))
        return Part(self.indices, x, prediction)


@dataclass(frozen=True)
class Context:
    """`prompts` has one text per row; `candidates` the candidate of each row, a place in the noise.

    `start` is the index that the first step is made at and the latents that enter it, for latents that are shared;
    None for index 0 and pure noise. `on_step` is called with the latents entering each index of `finish`; `attention`
    tells about attention maps, where there are any. With `part` a search makes only some of the steps. `embed` gives
    the conditioning on texts other than the prompts, for strategies that say so (`encodes`).
    """

    networks: Networks
    noise: Noise
    prompts: Sequence[str]
    candidates: Sequence[int]
    sampler: Sampler
    decoder: Callable[[Tensor], Tensor]
    rewards: Mapping[str, Reward] = field(default_factory=dict)
    start: tuple[int, Tensor] | None = None
    on_step: OnStep | None = None
    attention: WordMaps | None = None
    part: Part | None = None
    embed: Callable[[Sequence[str]], Conditioning] | None = None

    @property
    def grid(self) -> Grid:
        """The sampling steps."""
        return self.networks.grid

    @property
    def indices(self) -> range:
        """The steps that a search makes."""
        return range(len(self.grid)) if self.part is None else self.part.indices

    @property
    def rows(self) -> Rows:
        """The image of each row, and the meter."""
        return self.networks.rows

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.prompts)

    def take(self, rows: Sequence[int]) -> Context:
        """The chosen rows, candidates as they are."""
        return self.place(rows, [self.candidates[row] for row in rows])

    def candidate(self, number: int) -> Context:
        """Every row as candidate `number` of its image."""
        return self.place(range(len(self)), [number] * len(self))

    def branch(self, count: int) -> Context:
        """`count` rows in place of each, next to one another: child n of candidate c is candidate c * count + n."""
        rows = [row for row in range(len(self)) for _ in range(count)]
        return self.place(rows, [self.candidates[row] * count + n for row in range(len(self)) for n in range(count)])

    def place(self, rows: Sequence[int], candidates: Sequence[int]) -> Context:
        """The chosen rows, each with the noise of one candidate of its image."""
        return replace(
            self,
            networks=self.networks.take(rows),
            noise=self.noise.rows(rows, candidates),
            prompts=[self.prompts[row] for row in rows],
            candidates=candidates,
            start=None,
            on_step=None,
            part=None if self.part is None else self.part.take(rows),
        )

    def within(self, indices: range, x: Tensor | None = None, prediction: Tensor | None = None) -> Context:
        """The same rows, for a search that makes the steps `indices`, as in `Part`."""
        return replace(self, part=Part(indices, x, prediction), start=None, on_step=None)

    def initial(self) -> Tensor:
        """Latents [B, C, h, w] entering the first step that a search makes: those of the part, or pure noise."""
        return self.noise.initial() if self.part is None or self.part.x is None else self.part.x

    def finish(self, predict: Predict, enter: Enter | None = None, begin: tuple[int, Tensor] | None = None) -> Tensor:
        """Clean latents [B, C, h, w]: all steps, the last one by its x0. `begin` is an index and the latents entering
        it; without it, they are `start` or noise.
        """
        start, x = begin or self.start or (0, self.noise.initial())
        return finish(self.grid, predict, x, start, self.noise, self.sampler, self.on_step, enter)

    def step(self, x: Tensor, prediction: Tensor, i: int) -> Tensor:
        """Latents entering index i + 1, by the study's sampler."""
        return step(self.grid, x, prediction, i, self.noise_at(i), self.sampler)

    def noise_at(self, i: int) -> Noise:
        """Where the step at index i takes its draws from: of candidate 0 for all rows where it leaves the part of a
        search. Particles that are copies of each other there have one prediction, and so one reward up to rounding;
        with draws of their own it would matter which of them is taken.
        """
        leaves = self.part is not None and i == self.part.indices[-1] < len(self.grid) - 1
        return self.noise.rows(range(len(self)), [0] * len(self)) if leaves else self.noise

    def decode(self, x0: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] of clean latents [B, C, h, w]."""
        self.rows.meter.add("decodes", self.rows.images)
        return self._in_chunks(lambda rows: self.decoder(x0[rows]))

    def score(self, images: Tensor, reward: str) -> Tensor:
        """A reward [B] float32 of images [B, 3, H, W]; raises InputError where it is not one finite number each, or
        has no gradient where the images do.
        """
        self.rows.meter.add("queries", self.rows.images)
        ask = self.rewards[reward]
        return self._in_chunks(lambda rows: judged(ask, reward, images[rows], self.prompts[rows]))

    def score_latents(self, x0: Tensor, reward: str, see: Callable[[Tensor], Tensor] = lambda images: images) -> Tensor:
        """A reward [B] float32 of the images of clean latents [B, C, h, w]; `see` makes what it is shown of images.

        Images are kept only while they are scored, at most `batch_size` at a time.
        """
        parts = [part.score(see(part.decode(x0[rows])), reward) for rows, part in self.parts()]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def best_of_latents(
        self, x0: Tensor, count: int, reward: str, see: Callable[[Tensor], Tensor] = lambda images: images
    ) -> tuple[Tensor, Tensor]:
        """Rewards [B, count] of the images of clean latents [B * count, C, h, w], `count` neighbouring rows for each of
        B images, and the images [B, 3, H, W] of the best row of each, the first of equal ones.

        Other images are kept only while they are scored, at most `batch_size` at a time.
        """
        scores, best, kept = list[Tensor](), [-math.inf] * (len(self) // count), list[Tensor]()
        for rows, part in self.parts():
            images = part.decode(x0[rows])
            if not kept:
                kept.append(images.new_empty(len(best), *images.shape[1:]))
            scores.append(part.score(see(images), reward))
            for row, score in enumerate(scores[-1].tolist()):
                image = (rows.start + row) // count
                if score > best[image]:
                    kept[0][image], best[image] = images[row], score
        return torch.cat(scores).view(-1, count), kept[0]

    def gradient(self, x: Tensor, score: Callable[[Context, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Scores [B] of latents [B, C, h, w], and the gradient of each score with respect to its own latents.

        `score(ctx, x)` is called with at most `batch_size` rows at a time, and must treat rows independently.
        """
        scores, gradients = [], []
        for rows, ctx in self.parts():
            part = x[rows].detach().requires_grad_()
            with torch.enable_grad():
                found = score(ctx, part)
                gradients.append(gradient_of(found, part))
            scores.append(found.detach())
        return torch.cat(scores), torch.cat(gradients)

    def parts(self) -> Iterator[tuple[slice, Context]]:
        """All rows, at most `batch_size` at a time: where they stand, and a context of them."""
        return ((rows, self.take(range(len(self))[rows])) for rows in self.rows.chunks())

    def _in_chunks(self, work: Callable[[slice], Tensor]) -> Tensor:
        whole: Tensor | None = None
        for rows in self.rows.chunks():
            part = work(rows)
            if len(part) == len(self):
                return part
            whole = part.new_empty(len(self), *part.shape[1:]) if whole is None else whole
            whole[rows] = part  # filled in place: parts that wait to be joined would need as much memory again
            del part  # nor does this one wait while the next is made
        assert whole is not None, "a context has rows"
        return whole


def embedded(ctx: Context, texts: Sequence[str]) -> Conditioning:
    """Conditioning [B] on a text for each row of `ctx`, with the sizes of its own; raises ValueError in a context that
    embeds none.
    """
    if ctx.embed is None:
        raise ValueError("the context embeds no further texts")
    return replace(ctx.embed(texts), size=ctx.networks.text.size)
