"""Memory of strategies: what is large is held for at most `batch_size` candidates, and images stay what they are."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import pytest
import torch
from test_concepts import worded as worded  # a fixture
from test_every_strategy import ENTRIES, job
from test_img import Picky
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stages import plugins
from stages.models.diffusion import DiffusionModel
from stages.sample.context import Context
from stages.sample.job import Sampling
from stages.sample.resolve import STRATEGIES, strategy
from stages.sample.search import Search
from stages.sample.settings import BASE
from tests import tiny

GROUP, MANY = 4, 6
"""Images that are made together, and candidates of each."""
CANDIDATES: dict[str, dict[str, Any]] = {
    "best_of_n": {"n": [MANY]}, "fk": {"n": [MANY]}, "code": {"n": [MANY]}, "svdd": {"m": [MANY]},
    "dlbs": {"b": [MANY // 2], "children": 2}, "dsearch": {"m": [MANY // 2], "beams": MANY // 2},
    "das": {"n": [MANY]}, "fmtt": {"n": [MANY]}, "dts": {"m": [MANY]}, "dts_star": {"m": [MANY]},
    "reno": {"n": [3]}, "carinox": {"n": [2], "starts": 4},
}  # fmt: skip
"""What makes many candidates of an image."""
COMBINED: dict[str, Any] = {"prediction": {"kind": "combined", "k": [2]}}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{kind: (kind, {}) for kind in ENTRIES},
    "fk, drawn, of 8 bits": ("fk", {"result": "draw", "as_released": {"eight_bit": True}}),
    # drawn: of copies that part by the noise of the end alone the weights are equal up to rounding
    "das with noise at the end": ("das", {"end": "noisy", "result": "draw"}),
    "fk of one run": ("fk", {"one_run": True, "end": "noisy"}),
    "code in the base's part": ("code", {**COMBINED, "part": "base"}),
    "dlbs in the tuned part": ("dlbs", {**COMBINED, "part": "tuned"}),
    "best of n away from the base": ("best_of_n", {"prediction": {"kind": "npo", "s": [2.0], "negative": BASE}}),
    "svdd for an annotator": ("svdd", {"prediction": {"kind": "for_annotator", "names": ["ann"]}}),
}
"""Every kind of the folder, and further ways through them."""


def test_every_kind_is_measured():
    assert {kind for kind, _ in VARIANTS.values()} == set(plugins.names(STRATEGIES, ""))
    searches = {kind for kind in ENTRIES if issubclass(plugins.load(STRATEGIES, "", kind, "").Settings, Search)}
    assert searches <= set(CANDIDATES)


class Alive(TorchDispatchMode):
    """Knows the tensors of some trailing shapes that are alive, and how much memory of them there is."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.shapes = shapes
        self.seen: dict[str, list[weakref.ref[Tensor]]] = {name: [] for name in shapes}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else (made,):
            if isinstance(each, Tensor):
                for name, shape in self.shapes.items():
                    if each.shape[-len(shape) :] == shape:
                        self.seen[name].append(weakref.ref(each))
        return made

    def count(self, name: str) -> int:
        """Rows of that shape in the memory that is held; views of a tensor are the tensor."""
        self.seen[name] = [ref for ref in self.seen[name] if ref() is not None]
        held = {}
        for each in (ref() for ref in self.seen[name]):
            if each is not None:
                storage = each.untyped_storage()
                held[storage.data_ptr()] = storage.nbytes() // each.element_size()
        return sum(held.values()) // prod(self.shapes[name])


@dataclass
class Watched:
    """Images and texts that are alive when the decoder, the reward or a network is called, the most of each; the most
    rows of a call.
    """

    alive: Alive
    images: int = 0
    texts: int = 0
    rows: int = 0
    asked: int = field(default=0)

    def note(self, rows: int) -> None:
        """A call with so many rows."""
        self.rows, self.asked = max(self.rows, rows), self.asked + 1
        self.images = max(self.images, self.alive.count("images"))
        self.texts = max(self.texts, self.alive.count("texts"))


@dataclass
class Reward:
    """The made-up reward, which notes down what there is when it is asked."""

    watched: Watched
    name: str = "proxy"
    differentiable: bool = True

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        self.watched.note(len(images))
        return tiny.reward(images, prompts)


class Critic(Picky):
    """The made-up critic, which does so too."""

    def __init__(self, watched: Watched) -> None:
        super().__init__(-1.0)
        self.watched = watched

    def criticise(self, images: Tensor, prompts: Sequence[str]) -> list[list[int]]:
        self.watched.note(len(images))
        return super().criticise(images, prompts)


def decoder(watched: Watched) -> Any:
    """Images [B, 3, 16, 16] of latents [B, 4, 8, 8]."""

    def decode(x0: Tensor) -> Tensor:
        watched.note(len(x0))
        return torch.nn.functional.interpolate(x0[:, :3], scale_factor=2.0).sigmoid()

    return decode


@pytest.fixture(scope="module")
def work(worded: DiffusionModel, tmp_path_factory: pytest.TempPathFactory) -> Sampling:
    """A base and a run with two more networks; all images are one group."""
    made = job(worded, tmp_path_factory.mktemp("memory"))
    return replace(made, suite=replace(made.suite, batch_size=GROUP))


def made(work: Sampling, kind: str, more: dict[str, Any], chunk: int) -> tuple[Tensor, list[Any], Watched]:
    """The images of the group by a strategy, their costs, and what was held, with `chunk` rows a call."""
    asked = {"apply_to": ["tuned"]}
    asked |= {"reward": "proxy"} if "reward" in plugins.load(STRATEGIES, "", kind, "").Settings.model_fields else {}
    entry = {"kind": kind, **ENTRIES[kind], **CANDIDATES.get(kind, {}), **asked, **more}
    settings = strategy("s", entry, work.plan.sample, "test").settings
    plan = replace(work.plan, sample=work.plan.sample.model_copy(update={"batch_size": chunk}))
    (group,) = work.suite.groups()
    watched = Watched(Alive(images=(3, 16, 16), texts=(tiny.LENGTH, tiny.WIDTH)))
    ctx: Context = replace(
        replace(work, plan=plan).context(group),
        decoder=decoder(watched), rewards={"proxy": Reward(watched), "critic": Critic(watched)},
    )  # fmt: skip
    called = [
        network.register_forward_pre_hook(lambda _, given: watched.note(len(given[0])))
        for network in {id(network): network for network in work.networks}.values()
    ]
    try:
        with torch.no_grad(), held(watched.alive):
            images = settings.sample(ctx, settings.points()[-1].value)
    finally:
        for hook in called:
            hook.remove()
    return images, ctx.rows.meter.costs(), watched


def held(alive: Alive) -> AbstractContextManager[object]:
    """The region in which tensors are seen."""
    return alive


@pytest.mark.parametrize("chunk", [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("name", VARIANTS)
def test_what_is_large_is_held_for_a_batch_and_no_more(work: Sampling, name: str, chunk: int):
    """Candidates of a group are 24 here. An image is held for each one that is asked for, twice while another candidate
    may take its place; conditions once, and for the rows of a call, twice where it is guided.
    """
    kind, more = VARIANTS[name]
    images, costs, whole = made(work, kind, more, GROUP * MANY * 4)
    assert len(images) == GROUP and whole.asked > 0
    found, spent, watched = made(work, kind, more, chunk)
    torch.testing.assert_close(found, images, rtol=1e-3, atol=1e-3)
    assert spent == costs
    assert watched.rows <= 2 * chunk, "a guided evaluation has twice the rows"
    assert watched.images <= 2 * GROUP + 4 * chunk, watched
    assert watched.texts <= 2 * GROUP + 8 * chunk, watched
