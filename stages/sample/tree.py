"""A tree of denoising states, grown by rollouts.

Level 0 is a root without a state, level l from 1 to T holds latents that enter index l - 1, level T + 1 clean latents:
the leaves. A rollout walks down; where a state may have more children it adds one, follows fresh states to a leaf and
has that judged. Then every state on the way gets the value (1 / lambda) log mean exp(lambda value) of its children.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stages.sample.search import Found
from stages.sample.soft_values import drawn, soft_mean

if TYPE_CHECKING:
    from stages.sample.context import Context
    from stages.sample.stepping import Predicted
    from stages.sample.trees import Trees


@dataclass
class Node:
    """One state: latents [1, C, h, w], and the prediction there once it has a child, for its further children; of a
    leaf also the predicted clean latents that it is judged by.
    """

    parent: int
    level: int
    x: Tensor | None = None
    clean: Tensor | None = None
    predicted: Predicted | None = None
    children: list[int] = field(default_factory=list)
    visits: int = 0
    value: float = 0.0


@dataclass
class Rollout:
    """The states of one rollout from the root on; `expanded` is the one that it added a child to, -1 if none."""

    path: list[int]
    expanded: int = -1


class Tree:
    """The tree of one image; `last` is the level of its leaves, T + 1. `rollouts` are those that it was grown by.

    `one_start` says that all of them begin at the same latents.
    """

    one_start = False

    def __init__(self, last: int) -> None:
        self.nodes = [Node(-1, 0)]
        self.last = last
        self.rollouts: list[Rollout] = []
        self.rewards: dict[int, float] = {}

    def limit(self, search: Trees, number: int) -> int:
        """Children that a state may have: one where a leaf is next, and where all rollouts begin at one state."""
        node = self.nodes[number]
        single = node.level == self.last - 1 or (node.level == 0 and self.one_start)
        return 1 if single else search.limit(node.visits)

    def descend(self, ctx: Context, search: Trees, image: int) -> None:
        """Start a rollout: down to the first state that may have a further child, or to a leaf."""
        rollout, number = Rollout([0]), len(self.rollouts)
        self.rollouts.append(rollout)
        while (node := self.nodes[rollout.path[-1]]).level < self.last:
            if len(node.children) < self.limit(search, rollout.path[-1]):
                rollout.expanded = rollout.path[-1]
                return
            values, visits = (
                [getattr(self.nodes[child], name) for child in node.children] for name in ("value", "visits")
            )
            name = f"rollout {number} level {node.level}"
            rollout.path.append(node.children[search.choose(values, visits, _Uniform(ctx, image, name))])

    def add(self, x: Tensor, clean: Tensor | None = None) -> None:
        """A child of the last state of the rollout, with latents [1, C, h, w], which the rollout goes on from; of a
        leaf also the `clean` ones.
        """
        path = self.rollouts[-1].path
        parent = self.nodes[path[-1]]
        parent.children.append(len(self.nodes))
        path.append(len(self.nodes))
        self.nodes.append(Node(path[-2], parent.level + 1, x, clean))

    def back_up(self, search: Trees) -> None:
        """Count the visits of the rollout and renew the values on its way, from the leaf up."""
        path = self.rollouts[-1].path
        for number in reversed(path):
            node = self.nodes[number]
            node.visits += 1
            if node.level == self.last:
                node.value = self.rewards[number]
            else:
                node.value = soft_mean([self.nodes[child].value for child in node.children], search.strength)

    def result(self, ctx: Context, search: Trees, image: int) -> Tensor:
        """The latents [1, C, h, w] of one leaf."""
        if search.result == "best":
            number = max(self.rewards, key=lambda leaf: self.rewards[leaf])  # the first of equals
        else:
            number = 0
            while (node := self.nodes[number]).level < self.last:
                uniform = _Uniform(ctx, image, f"result level {node.level}")() if len(node.children) > 1 else 0.0
                values = [self.nodes[child].value for child in node.children]
                number = node.children[drawn(values, search.strength, uniform)]
        found = self.nodes[number].x
        assert found is not None
        return found


@dataclass(frozen=True)
class _Uniform:
    """One named draw of an image."""

    ctx: Context
    image: int
    name: str

    def __call__(self) -> float:
        return float(self.ctx.noise.rows([self.image], [0]).uniform(self.name, 1)[0, 0])


def grown(ctx: Context, search: Trees, rollouts: int) -> Found:
    """A leaf for each row of `ctx`, of a tree of its own."""
    trees = grow(ctx, search, rollouts)
    return Found(torch.cat([tree.result(ctx, search, image) for image, tree in enumerate(trees)]))


def grow(ctx: Context, search: Trees, rollouts: int, make: Callable[[int], Tree] = Tree) -> list[Tree]:
    """A tree for each row of `ctx`; all make their rollouts at the same time.

    Rollout m draws the noise of candidate m, and no rollout evaluates a state that has a prediction.
    """
    trees = [make(len(ctx.indices) + 1) for _ in range(len(ctx))]
    for tree in trees:
        tree.one_start = ctx.part is not None and ctx.part.x is not None
    for number in range(rollouts):
        for image, tree in enumerate(trees):
            tree.descend(ctx, search, image)
        for level in range(len(ctx.indices) + 1):
            images = [n for n, tree in enumerate(trees) if tree.nodes[tree.rollouts[-1].path[-1]].level == level]
            if images:
                part = ctx.place(images, [number] * len(images))
                _extend(part, search, [trees[n] for n in images], level)
        _score(ctx, search, trees)
        for tree in trees:
            tree.back_up(search)
    return trees


def _extend(part: Context, search: Trees, trees: Sequence[Tree], level: int) -> None:
    """A child of the last state, at `level`, of the rollout of every tree; `part` has a row for each."""
    clean: Tensor | None = None
    if level == 0:
        after = part.initial()
    else:
        steps, nodes = search.steps(part), [tree.nodes[tree.rollouts[-1].path[-1]] for tree in trees]
        fresh = [row for row, node in enumerate(nodes) if node.predicted is None]
        if fresh:
            x = torch.cat([node.x for node in nodes if node.predicted is None and node.x is not None])
            found = search.steps(part.take(fresh)).at(x, part.indices[level - 1])
            for place, row in enumerate(fresh):
                nodes[row].predicted, nodes[row].x = found.take([place]), None
        together = _together(node.predicted for node in nodes)
        after, clean = steps.after(together), steps.x0(together)
    for row, tree in enumerate(trees):
        judged = None if clean is None or level < tree.last - 1 else clean[row : row + 1]
        tree.add(after[row : row + 1], judged)
        parent = tree.rollouts[-1].path[-2]
        final = search.children is not None or tree.nodes[parent].level == tree.last - 1
        if final and len(tree.nodes[parent].children) >= tree.limit(search, parent):
            tree.nodes[parent].predicted = None  # it will have no further child


def _together(predicted: Iterable[Predicted | None]) -> Predicted:
    """Rows of one index as one."""
    parts = [part for part in predicted if part is not None]
    first = parts[0]
    return type(first)(first.i, torch.cat([p.x for p in parts]), torch.cat([p.prediction for p in parts]))


def _score(ctx: Context, search: Trees, trees: Sequence[Tree]) -> None:
    """Rewards of the leaves that the rollouts ended at, where they are not known."""
    leaves = [(n, tree.rollouts[-1].path[-1]) for n, tree in enumerate(trees)]
    fresh = [(n, leaf) for n, leaf in leaves if leaf not in trees[n].rewards]
    if not fresh:
        return
    latents = [trees[n].nodes[leaf].clean for n, leaf in fresh]
    scores = search.score(ctx.take([n for n, _ in fresh]), torch.cat([x for x in latents if x is not None]))
    for (n, leaf), score in zip(fresh, scores.tolist(), strict=True):
        trees[n].rewards[leaf] = score
