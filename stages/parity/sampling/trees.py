"""Diffusion tree sampling, of a mixture of Gaussians and of networks: every state, visit and value of the tree; and the
tilted mixture that it draws from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from stages.parity.checks import Check, compare
from stages.parity.sampling.mixture import Mixture, grid_of
from stages.parity.sampling.world import DOUBLE, STATES, SamplingSet, settings
from stages.sample.context import Context
from stages.sample.tree import Tree, grow
from stages.sample.trees import Trees


@dataclass
class _Used:
    """How many draws and uniforms have been used."""

    nodes: int = 1
    uniforms: int = 0


@dataclass(frozen=True)
class ByNode:
    """Noise of one tree: its node n has draw n, and its choices take the uniforms in order."""

    draws: Tensor
    uniforms: Tensor
    steps: int
    used: _Used = field(default_factory=_Used)

    def initial(self) -> Tensor:
        """A state at level 1."""
        return self._next(leaf=self.steps == 1)

    def step(self, i: int) -> Tensor:
        """A state at level i + 2; the leaf behind the last one has no draw."""
        return self._next(leaf=i == self.steps - 2)

    def extra(self, name: str) -> Tensor:
        """None is stored."""
        raise ValueError(f"no draw {name!r} is stored")

    def uniform(self, name: str, count: int) -> Tensor:
        """The next one."""
        self.used.uniforms += 1
        return self.uniforms[self.used.uniforms - 1].expand(1, 1)

    def rows(self, rows: Sequence[int], candidates: Sequence[int]) -> ByNode:
        """The same: there is one tree."""
        return replace(self)

    def _next(self, leaf: bool) -> Tensor:
        found = self.draws[self.used.nodes]
        self.used.nodes += 2 if leaf else 1
        return found[None]


class Recording(Tree):
    """A tree that keeps the latents of every state."""

    def __init__(self, last: int) -> None:
        super().__init__(last)
        self.states: list[Tensor] = []

    def add(self, x: Tensor, clean: Tensor | None = None) -> None:
        """A child, noted down."""
        super().add(x, clean)
        self.states.append(x[0])


COUNTED = ("uniforms_used", "root_value", "nfe_cached")


@torch.no_grad()
def checks(reference: SamplingSet) -> Iterator[Check]:
    """Every tree, and the mixture."""
    if "tilt" in reference.items:
        yield from _tilt(reference)
    for tag in reference.tags("dts"):
        yield from _tree(reference, tag)


def mixture(reference: SamplingSet) -> Mixture:
    """The set's mixture of Gaussians."""
    given = reference.inputs
    deviation = reference.expected.value("items", "tilt", "config", "deviation")
    return Mixture(given["tilt.weights"], given["tilt.means"], deviation, given["tilt.direction"])


def _tilt(reference: SamplingSet) -> Iterator[Check]:
    given, made, x = reference.params("tilt", "config"), mixture(reference), reference.inputs["tilt.x"]
    alphas = torch.tensor(given["alphas_cumprod"], dtype=torch.float64)
    tilts = [made.tilted(strength) for strength in given["lambdas"]]
    noise = torch.stack([made.epsilon(x, a) for a in alphas])
    with torch.enable_grad():
        at = x.clone().requires_grad_()
        values = torch.stack([torch.stack([made.soft_value(at, a, s) for s in given["lambdas"]], 1) for a in alphas])
        slopes = [
            [torch.autograd.grad(values[n, :, k].sum(), at, retain_graph=True)[0] for k in range(len(tilts))]
            for n in range(len(alphas))
        ]
    found = {
        "epsilon": noise,
        "x0hat": torch.stack([(x - (1 - a).sqrt() * e) / a.sqrt() for a, e in zip(alphas, noise, strict=True)]),
        "soft_value": values,
        "soft_value_gradient": torch.stack([torch.stack(each, 1) for each in slopes]),
        "tilted_weights": torch.stack([tilted.weights for tilted, _ in tilts]),
        "tilted_means": torch.stack([tilted.means for tilted, _ in tilts]),
    }
    yield from reference.compared("tilt", found, dict.fromkeys(found, DOUBLE))
    yield compare("items.tilt.config.normaliser", [logs for _, logs in tilts], given["normaliser"], DOUBLE)


def _tree(reference: SamplingSet, tag: str) -> Iterator[Check]:
    given = reference.params("dts", tag, *COUNTED)
    steps, boltzmann = given["steps"], given["selection"] == "boltzmann"
    kind, *limit = given["limit"]
    search = settings(
        "dts" if boltzmann else "dts_star", steps, m=[given["rollouts"]], strength=given["lam"], reward="reward",
        children=limit[0] if kind == "fixed" else None, widening=[2.0, 0.5] if kind == "fixed" else limit,
        **({} if boltzmann else {"exploration": given["selection"]}),
    )  # fmt: skip
    assert isinstance(search, Trees)
    ctx, noise = _context(reference, given, steps)
    (tree,) = grow(ctx, search, given["rollouts"], Recording)
    assert isinstance(tree, Recording)
    network = "network" in given
    found = {
        "parent": torch.tensor([node.parent for node in tree.nodes]),
        "level": torch.tensor([node.level for node in tree.nodes]),
        "visits": torch.tensor([node.visits for node in tree.nodes]),
        "value": torch.tensor([node.value for node in tree.nodes], dtype=torch.float64),
        "states": torch.stack(tree.states).squeeze(),
        "leaf": torch.tensor([rollout.path[-1] for rollout in tree.rollouts]),
        "expanded_node": torch.tensor([rollout.expanded for rollout in tree.rollouts]),
        "reward": torch.tensor([tree.rewards[rollout.path[-1]] for rollout in tree.rollouts], dtype=torch.float64),
    }
    tolerance = STATES if network else DOUBLE
    yield from reference.compared(f"dts.{tag}", found, dict.fromkeys(("value", "states", "reward"), tolerance))
    yield from reference.costs("dts", tag, ctx, "network_evaluations", *(["reward_images"] if network else []))
    yield from reference.stated("dts", tag, "uniforms_used", noise.used.uniforms)
    if "root_value" in reference.items["dts"][tag]:
        root = reference.expected.value("items", "dts", tag, "root_value")
        yield compare(f"items.dts.{tag}.root_value", tree.nodes[0].value, root, tolerance)
    if "nfe_cached" in reference.items["dts"][tag]:
        yield from reference.costs("dts", tag, ctx, "nfe_cached", by={given["network"]: ctx.networks.base_network})


def _context(reference: SamplingSet, given: dict[str, object], steps: int) -> tuple[Context, ByNode]:
    """The networks of an item, or the mixture; and its noise."""
    inputs = reference.inputs
    if "network" in given:
        draws, uniforms = inputs["candidate_z"].flatten(0, 2), inputs["dts.toy.uniforms"]
        noise = ByNode(draws, uniforms, steps)
        return reference.context(
            str(given["network"]), [int(str(given["prompt"]))], noise, reference.grid(steps)
        ), noise
    noise = ByNode(inputs["dts.toy.draws"][..., None, None], inputs["dts.toy.uniforms"], steps)
    return mixture(reference).context(grid_of(inputs["dts.toy.alphas_cumprod"]), noise, 1), noise
