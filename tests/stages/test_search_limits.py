"""Searches in limits in which they are each other, and what the particles of one search are."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from test_sample import model as model  # a fixture
from test_search import STEPS, job
from torch import Tensor

from stages.errors import InputError
from stages.models.diffusion import DiffusionModel
from stages.sample.beams import replaced
from stages.sample.lookahead import lookahead
from stages.sample.resolve import strategy
from stages.sample.search import Search
from stages.sample.settings import SampleSettings
from stages.sample.strategies import dlbs, dsearch

SAMPLE = SampleSettings(steps=STEPS, samples_per_prompt=2)


@pytest.fixture(scope="module")
def group(model: DiffusionModel, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A job, and its first group: two prompts with two images each."""
    work, _ = job(model, tmp_path_factory.mktemp("limits"), {}, batch_size=64)
    return work, work.suite.groups()[0]


def images(group: Any, kind: str, value: float, **entry: object) -> Tensor:
    """The images of the group by one setting of a search."""
    work, own = group
    search = strategy(kind, {"kind": kind, "reward": "proxy", **entry}, SAMPLE, "test").settings
    with torch.no_grad():
        return search.sample(work.context(own), value)


def equal(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_code_with_one_block_is_best_of_n(group: Any):
    best = images(group, "best_of_n", 3, n=[3])
    assert equal(images(group, "code", 3, n=[3], block=STEPS, start="own"), best)
    assert not equal(images(group, "code", 3, n=[3], block=STEPS, start="shared"), best)


def test_svdd_is_code_with_blocks_of_one_step_and_dsearch_that_always_searches(group: Any):
    svdd = images(group, "svdd", 3, m=[3])
    assert equal(images(group, "code", 3, n=[3], block=1), svdd)
    always = {"search": "all", "wider": 1.0, "oversample": 1, "drop": None}
    assert equal(images(group, "dsearch", 3, m=[3], **always), svdd)
    assert equal(images(group, "dlbs", 1, b=[1], children=3, lookahead=1), svdd)


def test_a_look_ahead_ends_at_the_clean_latents_of_its_last_prediction(group: Any):
    """By hand, from index 1 by three predictions: at its timestep t, at floor(2 t / 3) and at floor(t / 3)."""
    work, own = group
    ctx, search = work.context(own), strategy("s", {"kind": "svdd", "m": [1], "reward": "proxy"}, SAMPLE, "t").settings
    assert isinstance(search, Search)
    with torch.no_grad():
        seen = search.steps(ctx).at(ctx.noise.initial(), 1)
        process, t = ctx.grid.process, int(ctx.grid.timesteps[1])
        network, text = ctx.networks.tuned_network, ctx.networks.text
        assert network is not None
        x, prediction, now = seen.x, seen.prediction, torch.tensor(t)
        for to in (torch.tensor(2 * t // 3), torch.tensor(t // 3)):
            x, now = process.noised(process.x0(x, prediction, now), prediction, to), to
            prediction = network.prediction(x, now, text)
        found = lookahead(ctx, search, seen, 3)
        torch.testing.assert_close(found, process.x0(x, prediction, now), rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(lookahead(ctx, search, seen, 1), search.steps(ctx).x0(seen))
        assert not equal(found, search.steps(ctx).x0(seen))


def test_more_children_at_a_step_that_searches(group: Any):
    """w = 1.5 of two children are three, whatever the coin where w is 1."""
    always = {"search": "all", "oversample": 1, "drop": None}
    assert equal(images(group, "dsearch", 2, m=[2], wider=1.5, **always), images(group, "svdd", 3, m=[3]))


def test_searches_become_more_likely_with_the_steps():
    def probabilities(search: str) -> list[float]:
        entry = {"kind": "dsearch", "m": [1], "reward": "r", "search": search}
        found = strategy("s", entry, SampleSettings(steps=20), "test").settings
        return [found.probability(i, 19) for i in (0, 8, 18)]  # type: ignore[attr-defined]

    assert probabilities("exponential") == pytest.approx([0.0, 1 - math.exp(-24 / 19), 1 - math.exp(-54 / 19)])
    assert probabilities("linear") == pytest.approx([10 / 19, 18 / 19, 28 / 19])
    assert probabilities("all") == [1.0] * 3 and probabilities("uniform") == [0.7] * 3


def test_a_search_makes_up_for_beams_that_are_gone():
    entry = {"kind": "dsearch", "m": [1], "reward": "r", "beams": 2, "oversample": 3, "wider": 1.5}
    found = strategy("s", entry, SampleSettings(steps=20), "test").settings
    assert isinstance(found, dsearch.Settings)
    assert [found.children(4, searching, 6) for searching in (False, True)] == [4, 6]
    assert found.children(4, True, 2) == 18 and found.children(4, False, 2) == 4


def test_copies_take_the_places_of_the_worst_beams():
    """With uniforms near 0 and 1 the copies are of the first and of the last of those that stay."""
    order, scores = torch.tensor([[4, 5, 6, 7]]), torch.tensor([[0.3, 0.1, 0.2, 0.0]])
    assert replaced(order, scores, 2, torch.tensor([[0.01, 0.99]])).tolist() == [[4, 6, 4, 6]]


def test_dlbs_goes_on_from_the_best_children(group: Any):
    """The clean latents at the end are those that the children kept last were judged by."""
    work, own = group
    found, told = strategy("s", {"kind": "dlbs", "reward": "proxy", "b": [2], "children": 3, "lookahead": 1}, SAMPLE,
                           "test").settings, list[dlbs.Choice]()  # fmt: skip
    assert isinstance(found, dlbs.Settings)
    ctx = work.context(own)
    with torch.no_grad():
        dlbs.beam_search(ctx, found, 2, told.append)
    *_, before, end = told
    assert before.scores.shape == (len(ctx), 6) and before.kept.shape == (len(ctx), 2)
    best = before.scores.gather(1, before.kept)
    assert torch.equal(best, before.scores.sort(1, descending=True).values[:, :2])
    kept = torch.cat([before.x0[6 * n + row] for n in range(len(ctx)) for row in before.kept[n, :, None]])
    torch.testing.assert_close(end.x, kept.view_as(end.x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("drop", ["exponential", "linear", "quadratic", "sigmoid"])
def test_beams_become_fewer_and_never_too_few(drop: str):
    found = strategy("s", {"kind": "dsearch", "m": [1], "reward": "r", "beams": 2, "oversample": 4, "drop": drop},
                     SampleSettings(steps=20), "test").settings  # fmt: skip
    left = [found.left(i, 19) for i in range(19)]  # type: ignore[attr-defined]
    assert left == sorted(left, reverse=True) and min(left) == 2 and max(left) <= 8


@pytest.mark.parametrize(("kind", "entry"), [
    ("fk", {"n": [2], "strength": 0.0}),
    ("dsearch", {"m": [1], "wider": 1.0, "beams": 2, "oversample": 1, "drop": None}),
])  # fmt: skip
def test_particles_of_one_search_without_a_choice_are_plain_samples(group: Any, kind: str, entry: dict[str, Any]):
    """The images of a prompt are two particles that nothing was selected from."""
    plain = images(group, "fk", 1, n=[1])
    assert equal(images(group, kind, 2 if kind == "fk" else 1, one_run=True, **entry), plain)


def test_particles_of_one_search_are_relatives(group: Any):
    """Images of one prompt from one strong search are copies of each other; those of independent searches are not."""
    entry = {"n": [4], "strength": 1e4, "every": 1, "adaptive": False, "window": [STEPS - 1, STEPS - 1]}
    together, apart = (images(group, "fk", 4, one_run=one, **entry) for one in (True, False))
    first, second = together.unflatten(0, (2, 2)).unbind(1)
    assert torch.equal(first, second)
    first, second = apart.unflatten(0, (2, 2)).unbind(1)
    assert not equal(first, second)


def test_one_search_is_paid_once(group: Any):
    """Four particles for two images: half the cost of an image with a search of its own."""
    work, own = group
    spent = []
    for one_run in (True, False):
        search = strategy("s", {"kind": "fk", "reward": "proxy", "n": [4], "one_run": one_run}, SAMPLE, "test").settings
        ctx = work.context(own)
        with torch.no_grad():
            search.sample(ctx, 4)
        spent.append([cost.nfe for cost in ctx.rows.meter.costs()])
    assert spent == [[2 * STEPS] * 4, [4 * STEPS] * 4]


@pytest.mark.parametrize(("kind", "entry", "message"), [
    ("fk", {"n": [1], "one_run": True}, "one_run: n 1 is below sample.samples_per_prompt 2"),
    ("dsearch", {"m": [1], "beams": 1, "one_run": True}, "one_run: beams 1 is below sample.samples_per_prompt 2"),
    ("dsearch", {"m": [1], "drop": None}, "oversample 5 and no drop"),
    ("dsearch", {"m": [0]}, "m 0 is below 1"),
    ("code", {"n": [0]}, "n 0 is below 1"),
    ("svdd", {"m": [0]}, "m 0 is below 1"),
    ("dlbs", {"b": [0]}, "b 0 is below 1"),
])  # fmt: skip
def test_what_cannot_be_searched_is_refused(kind: str, entry: dict[str, Any], message: str):
    with pytest.raises(InputError, match=f"test: .*{message}"):
        strategy(kind, {"kind": kind, "reward": "proxy", **entry}, SAMPLE, "test")


@pytest.mark.parametrize("kind", ["code", "svdd", "dsearch", "dlbs"])
def test_children_want_random_steps(kind: str):
    free = {"code": "n", "dlbs": "b"}.get(kind, "m")
    with pytest.raises(InputError, match=r"with sample\.sampler ddim, expected ddpm"):
        strategy(kind, {"kind": kind, "reward": "proxy", free: [2]}, SampleSettings(sampler="ddim"), "test")
