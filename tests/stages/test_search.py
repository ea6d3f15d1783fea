"""Search strategies end to end on a tiny base and policy: invariants, costs, and independence of how work is cut."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_sample import model as model  # a fixture
from test_sample import sampling
from torch import Tensor

from stages import plugins, tables
from stages.errors import InputError
from stages.models.diffusion import DiffusionModel
from stages.sample import particles
from stages.sample.context import Context
from stages.sample.job import Identity, RecordedReward, Sampling
from stages.sample.parts import shown
from stages.sample.resolve import STRATEGIES, sampling_plan, strategy
from stages.sample.run import sample_base, sample_run
from stages.sample.search import Search, Steering
from stages.sample.settings import SampleSettings
from tests import tiny

STEPS = 4
SAMPLE = SampleSettings(steps=STEPS)
RUN = Identity("refl-s3", "refl", 3)
BOTH = ["base", "tuned"]


class Counted:
    """The made-up reward, which counts the images that it is asked about."""

    name, differentiable = "proxy", True

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        self.images += len(images)
        return tiny.reward(images, prompts)


def job(model: DiffusionModel, folder: Path, strategies: dict[str, Any], **more: Any) -> tuple[Sampling, Counted]:
    reward = Counted()
    made = sampling(model, folder, **({"strategies": strategies, "guidance": [1.0]} | more))
    return replace(made, rewards={"proxy": RecordedReward(reward, "digest-of-proxy")}), reward


def made(work: Sampling, folder: Path) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """Rows by run, strategy and setting."""
    sample_base(work, folder / "base.parquet", folder / "latents.safetensors")
    sample_run(work, RUN, folder / "latents.safetensors", folder / "run.parquet")
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for name in ("base", "run"):
        for row in tables.read(folder / f"{name}.parquet", tables.SAMPLES).to_pylist():
            found.setdefault((name, row["strategy"], row["setting"]), []).append(row)
    return found


def pixels(rows: Sequence[dict[str, Any]]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(row["image"]))) for row in rows]).astype(int)


def rewards(rows: Sequence[dict[str, Any]]) -> np.ndarray:
    return tiny.reward(torch.from_numpy(pixels(rows)).permute(0, 3, 1, 2) / 255, [r["prompt"] for r in rows]).numpy()


def column(rows: Sequence[dict[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in rows]


SEARCHES: dict[str, dict[str, Any]] = {
    "best": {"kind": "best_of_n", "n": [1, 3]},
    "fk": {"kind": "fk", "n": [1, 4], "every": 2, "adaptive": False, "strength": 30.0},
    "code": {"kind": "code", "n": [1, 3], "block": 2},
    "svdd": {"kind": "svdd", "m": [1, 3]},
    "dsearch": {"kind": "dsearch", "m": [1, 3], "wider": 1.0, "search": "all", "oversample": 1, "drop": None},
    "dlbs": {"kind": "dlbs", "b": [1, 2], "children": 1, "lookahead": 2},
    "das": {"kind": "das", "n": [1, 3], "strength": 0.0},
    "fmtt": {"kind": "fmtt", "n": [1, 3], "strength": 0.0, "lookahead": 2},
    "dts": {"kind": "dts", "m": [1, 4], "strength": 30.0, "children": 2},
    "dts_star": {"kind": "dts_star", "m": [1, 4], "exploration": 0.01, "children": None},
}
"""Every kind of search, first with one candidate, then with several."""


def labels(name: str) -> list[str]:
    """The two settings of a search in the samples."""
    return [
        label for label, _ in strategy(name, SEARCHES[name] | {"reward": "proxy"}, SAMPLE, "test").settings.points()
    ]


def test_every_search_of_the_tree_is_tested_here():
    kinds = [
        kind
        for kind in plugins.names(STRATEGIES, "")
        if issubclass(plugins.load(STRATEGIES, "", kind, "").Settings, Search)
    ]
    assert sorted(kinds) == sorted(entry["kind"] for entry in SEARCHES.values())


@pytest.fixture(scope="module")
def plain(model: DiffusionModel, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], list[Any]]:
    """Base and run by plain sampling and by every search."""
    folder = tmp_path_factory.mktemp("plain")
    searches = {name: {**values, "reward": "proxy", "apply_to": BOTH} for name, values in SEARCHES.items()}
    return made(job(model, folder, {"tuned": {"kind": "tuned"}, **searches}, batch_size=64)[0], folder)


@pytest.mark.parametrize("name", SEARCHES)
def test_one_candidate_is_plain_sampling(plain, name: str):
    one = labels(name)[0]
    assert np.array_equal(pixels(plain["base", name, one]), pixels(plain["base", "guidance", "g=1"]))
    assert np.array_equal(pixels(plain["run", name, one]), pixels(plain["run", "tuned", "tuned"]))


# without strength one particle of DAS or FMTT is as good as another, and DTS draws its result
@pytest.mark.parametrize("name", sorted(SEARCHES.keys() - {"das", "fmtt", "dts"}))
@pytest.mark.parametrize("run", ["base", "run"])
def test_more_candidates_raise_the_reward(plain, name: str, run: str):
    one, several = (plain[run, name, label] for label in labels(name))
    assert rewards(several).mean() > rewards(one).mean()
    if name == "best":
        assert (rewards(several) >= rewards(one) - 1e-3).all()  # 8-bit pixels


def test_costs_are_those_of_the_calls(plain):
    """Best of three: three whole passes, decodings and queries. FK steering with events after steps 0, 2 and 3.

    CoDe and SVDD share the evaluation at index 0; a look-ahead of two steps costs two evaluations per child. Where the
    result may be another candidate than the best one so far, its image is decoded once more.
    """
    expected = {
        ("guidance", "g=1"): (STEPS, 0, 1), ("best", "n=1"): (STEPS, 1, 1), ("best", "n=3"): (3 * STEPS, 3, 3),
        ("fk", "n=1"): (STEPS, 3, 4), ("fk", "n=4"): (4 * STEPS, 12, 13),
        ("code", "n=1"): (STEPS, 2, 2), ("code", "n=3"): (1 + 3 * (STEPS - 1), 6, 6),
        ("svdd", "m=1"): (STEPS, 3, 4), ("svdd", "m=3"): (1 + 3 * (STEPS - 1), 9, 10),
        ("dsearch", "m=1"): (STEPS, 3, 4), ("dsearch", "m=3"): (1 + 3 * (STEPS - 1), 9, 10),
        ("das", "n=1"): (STEPS, STEPS, STEPS + 1), ("das", "n=3"): (3 * STEPS, 3 * STEPS, 3 * STEPS + 1),
        ("fmtt", "n=1"): (2 * STEPS, STEPS, STEPS + 1), ("fmtt", "n=3"): (6 * STEPS, 3 * STEPS, 3 * STEPS + 1),
        ("dlbs", "b=1"): (1 + 2 * (STEPS - 1), 4, 4), ("dlbs", "b=2"): (2 + 2 * 2 * (STEPS - 1), 8, 8),
    }  # fmt: skip
    for (name, setting), counts in expected.items():
        rows = plain["base", name, setting]
        assert {(r["nfe"], r["queries"], r["decodes"]) for r in rows} == {counts}, name
        assert set(column(rows, "nfe_backward")) == ({counts[0]} if name in ("das", "fmtt") else {0})
    assert set(map(tuple, column(plain["base", "best", "n=3"], "rewards"))) == {("proxy",)}
    assert set(map(tuple, column(plain["base", "best", "n=3"], "reward_digests"))) == {("digest-of-proxy",)}
    assert set(map(tuple, column(plain["base", "guidance", "g=1"], "rewards"))) == {()}


def test_a_search_that_may_stop_stops_image_by_image(model: DiffusionModel, tmp_path: Path):
    """Counts differ by image, their sum is that of the calls, and what was good enough at once is plain sampling."""
    work, reward = job(model, tmp_path / "a", {})
    first = made(work, tmp_path / "a")["base", "guidance", "g=1"]
    stop = float(np.median(rewards(first)))
    entry = {"kind": "best_of_n", "n": [5], "stop": stop, "reward": "proxy"}
    work, reward = job(model, tmp_path / "b", {"best": entry})
    found = made(work, tmp_path / "b")["base", "best", "n=5"]
    queries = column(found, "queries")
    assert min(queries) == 1 and max(queries) > 1 and sum(queries) == reward.images
    assert [row["nfe"] for row in found] == [STEPS * n for n in queries]
    at_once = [n == 1 for n in queries]
    assert np.array_equal(pixels(found)[at_once], pixels(first)[at_once])
    enough = rewards(found) > stop - 1e-3
    assert all(fine or n == 5 for fine, n in zip(enough, queries, strict=True))


def test_without_strength_the_result_is_one_of_the_plain_candidates(model: DiffusionModel, tmp_path: Path):
    """lambda = 0: equal weights, so nothing is resampled, and a particle is the plain sample of its candidate."""
    entry = {"kind": "fk", "n": [3], "strength": 0.0, "result": "draw", "reward": "proxy"}
    work, _ = job(model, tmp_path, {"fk": entry})
    found = made(work, tmp_path)["base", "fk", "n=3"]
    shown: list[Tensor] = []
    with torch.no_grad():
        for group in work.suite.groups():
            wide = work.context(group).branch(3)
            shown.append(wide.decode(wide.finish(wide.networks.base(1.0))).unflatten(0, (-1, 3)))
    candidates = (torch.cat(shown) * 255).round().permute(0, 1, 3, 4, 2).numpy().astype(int)
    away = np.abs(candidates - pixels(found)[:, None]).max((2, 3, 4))
    assert (away.min(1) <= 1).all()
    assert len({int(place) for place in away.argmin(1)}) > 1


AT_WORK: dict[str, dict[str, Any]] = {
    "dsearch": {"wider": 2.0, "search": "uniform", "oversample": 3, "drop": "linear", "replace": 0.5},
    "das": {"strength": 30.0, "gamma": 0.5, "threshold": 1.0},
    "fmtt": {"strength": 30.0, "threshold": 1.0},
}
"""Settings with which one candidate is not plain sampling."""


@pytest.mark.parametrize("name", SEARCHES)
def test_images_do_not_depend_on_the_batch_size(model: DiffusionModel, tmp_path: Path, name: str):
    """Up to one level of 255; candidates of an image may be more than go through a network at once."""
    entry = {**SEARCHES[name], **AT_WORK.get(name, {}), "reward": "proxy", "apply_to": ["base"]}
    large, small = (
        made(job(model, tmp_path / str(size), {name: entry}, batch_size=size)[0], tmp_path / str(size))
        for size in (64, 3)
    )
    assert large.keys() == small.keys()
    for key, rows in large.items():
        for counted in ("nfe", "queries", "decodes"):
            assert column(rows, counted) == column(small[key], counted)
        assert np.abs(pixels(rows) - pixels(small[key])).max() <= 1, key


class Greedy(Steering):
    """The best particle goes on as all particles: blocks of best of N, as in CoDe."""

    def select(self, i: int, scores: Tensor, uniforms: Tensor) -> Tensor:
        return particles.best(scores)[:, None].expand_as(scores)

    def result(self, scores: Tensor, uniforms: Tensor) -> Tensor:
        return particles.best(scores)


def test_one_block_of_all_steps_is_best_of_n(model: DiffusionModel, tmp_path: Path):
    """The same candidates, all at once or one after another; smaller blocks are something else."""
    work, _ = job(model, tmp_path, {"best": {**SEARCHES["best"], "reward": "proxy"}})
    search = work.plan.of("base")[1].settings
    assert isinstance(search, Search)
    group = work.suite.groups()[0]
    with torch.no_grad():
        expected = search.sample(work.context(group), 3.0)
        whole, blocks = (
            shown(ctx, particles.steer(ctx, search, 3, events, Greedy()))
            for ctx, events in ((work.context(group), [STEPS - 1]), (work.context(group), range(STEPS)))
        )
    torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(blocks, expected, atol=1e-2)


def test_no_network_call_exceeds_the_batch_size(model: DiffusionModel, tmp_path: Path):
    work, _ = job(model, tmp_path, {"fk": {**SEARCHES["fk"], "reward": "proxy"}}, batch_size=3)
    sizes: list[int] = []
    hook = model.unet.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    sample_base(work, tmp_path / "base.parquet", tmp_path / "latents.safetensors")
    hook.remove()
    assert max(sizes) == 3


def test_search_within_combined_generation(model: DiffusionModel, tmp_path: Path):
    """Candidates whose first steps are the base's: one candidate is combined generation itself."""
    combined = {"kind": "combined", "k": [2], "base_guidance": 2.0}
    entry = {"kind": "best_of_n", "n": [1, 2], "reward": "proxy", "apply_to": ["tuned"], "prediction": combined}
    found = made(job(model, tmp_path, {"combined": combined, "best": entry})[0], tmp_path)
    assert np.abs(pixels(found["run", "best", "n=1"]) - pixels(found["run", "combined", "k=2"])).max() <= 1
    assert set(column(found["run", "best", "n=2"], "nfe")) == {2 * (2 * 2 + STEPS - 2)}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"kind": "best_of_n", "n": [0]}, "n 0 is below 1"),
        ({"kind": "best_of_n", "n": [10**9]}, "n 1000000000 is above 65536"),
        ({"kind": "dts", "m": [70000]}, "m 70000 is above 65536"),
        ({"kind": "dlbs", "b": [10**8]}, "b 100000000 is above 65536"),
        ({"kind": "best_of_n", "n": [2, 2]}, "setting n=2 stands twice"),
        ({"kind": "fk", "n": [2], "window": [0, 4]}, r"window \[0, 4\]: expected two steps from 0 to 3"),
        ({"kind": "best_of_n", "n": [2], "prediction": {"kind": "combined", "k": [9]}, "apply_to": ["tuned"]},
         "k 9 is not between 1 and 3"),
        ({"kind": "best_of_n", "n": [2], "prediction": {"kind": "combined", "k": [1, 2]}, "apply_to": ["tuned"]},
         "prediction has 2 settings, expected one"),
        ({"kind": "best_of_n", "n": [2], "apply_to": ["tuned"],
          "prediction": {"kind": "combined", "k": [4], "as_released": {"extra_step": True}}},
         "prediction with 4 steps of the base needs their shared latents"),
        ({"kind": "best_of_n", "n": [2], "prediction": {"kind": "combined", "k": [1]}},
         "prediction of kind combined cannot be applied to base"),
        ({"kind": "best_of_n", "n": [2], "prediction": {"kind": "fk", "n": [1], "reward": "proxy"}},
         "prediction of kind fk: expected a strategy that mixes predictions"),
        ({"kind": "best_of_n", "n": [2], "prediction": {"kind": "rgl", "w": [1]}},
         "prediction: unknown kind 'rgl'; did you mean 'rlg'"),
        ({"kind": "combined", "k": [1], "apply_to": ["base"]}, "kind combined cannot be applied to base"),
        ({"kind": "best_of_n", "n": [2], "apply_to": ["base", "base"]}, "apply_to: base stands twice"),
        ({"kind": "combined", "k": [1], "apply_to": ["tuned", "tuned"]}, "apply_to: tuned stands twice"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(model: DiffusionModel, tmp_path: Path, entry: dict, message: str):
    if entry["kind"] != "combined":
        entry = {**entry, "reward": "proxy"}
    with pytest.raises(InputError, match=f"sample.strategies.s[:.] ?.*{message}"):
        sampling(model, tmp_path, strategies={"s": entry})


def test_one_step_leaves_nothing_to_switch():
    with pytest.raises(InputError, match=r"sample\.steps is 1: there is no step to switch at"):
        strategy("s", {"kind": "combined", "k": [1]}, SampleSettings(steps=1), "test")
    strategy("s", {"kind": "combined", "k": [1]}, SampleSettings(steps=2), "test")


class TooLarge(Counted):
    """A reward that needs more memory than there is."""

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.empty(10**15)


@pytest.mark.parametrize("kind", ["best_of_n", "fk", "das"])
def test_a_search_that_memory_does_not_suffice_for_is_named(model: DiffusionModel, tmp_path: Path, kind: str):
    work, _ = job(model, tmp_path, {"wide": {"kind": kind, "n": [3], "reward": "proxy", "apply_to": BOTH}})
    work = replace(work, rewards={"proxy": RecordedReward(TooLarge(), "d")})
    with pytest.raises(
        InputError, match=r"^sampling: strategies\.wide at n=3: not enough memory: .*4\d{15} bytes.*need less"
    ):
        made(work, tmp_path)
    assert not (tmp_path / "base.parquet").exists()


def test_particles_want_random_steps(model: DiffusionModel, tmp_path: Path):
    with pytest.raises(InputError, match=r"copies of a particle stay alike with sample.sampler ddim"):
        sampling(model, tmp_path, strategies={"s": {"kind": "fk", "n": [2], "reward": "proxy"}}, sampler="ddim")


def test_the_name_of_the_base_s_guidance_is_taken(model: DiffusionModel, tmp_path: Path):
    with pytest.raises(InputError, match=r"strategies.guidance: sample.guidance has this name already"):
        sampling(model, tmp_path, strategies={"guidance": {"kind": "guidance", "scales": [2.0]}})


def test_guidance_is_a_strategy_of_runs_too(model: DiffusionModel, tmp_path: Path):
    strategies = {"tuned": {"kind": "tuned", "guidance": 2.0}, "scales": {"kind": "guidance", "scales": [2.0]}}
    strategies["scales"]["apply_to"] = BOTH
    found = made(job(model, tmp_path, strategies, guidance=[1.0, 2.0])[0], tmp_path)
    assert np.array_equal(pixels(found["run", "scales", "g=2"]), pixels(found["run", "tuned", "tuned"]))
    base = pixels(found["base", "scales", "g=2"])
    assert np.array_equal(base, pixels(found["base", "guidance", "g=2"]))
    assert not np.array_equal(base, pixels(found["run", "scales", "g=2"]))


@pytest.mark.parametrize(("i", "evaluations"), [(0, STEPS), (STEPS - 1, 1)])
def test_a_gradient_by_noise_or_latents_is_that_of_each_row_and_is_counted(
    model: DiffusionModel, tmp_path: Path, i: int, evaluations: int
):
    """Through all steps, or the last one; rows in chunks of three; by central differences."""
    work, _ = job(model, tmp_path, {}, batch_size=3)
    ctx = work.context(work.suite.groups()[0]).branch(2)
    x = ctx.noise.initial()

    def score(part: Context, latents: Tensor) -> Tensor:
        return part.score(part.decode(part.finish(part.networks.own(1.0), begin=(i, latents))), "proxy")

    with torch.no_grad():
        scores, gradient = ctx.gradient(x, score)
        assert gradient.shape == x.shape and not scores.requires_grad
        nfe = 2 * evaluations  # two rows of each image
        assert {tuple(cost) for cost in ctx.rows.meter.costs()} == {(nfe, nfe, 2, 2)}
        direction = gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        step = 1e-2
        high, low = (score(ctx, x + sign * step * direction) for sign in (1, -1))
    torch.testing.assert_close((high - low) / (2 * step), gradient.flatten(1).norm(dim=1), rtol=0.05, atol=1e-4)


def test_branches_draw_noise_of_their_own_and_the_first_is_the_plain_one(model: DiffusionModel, tmp_path: Path):
    work, _ = job(model, tmp_path, {})
    ctx = work.context(work.suite.groups()[0])
    wide = ctx.branch(2).branch(3)
    assert wide.candidates == [0, 1, 2, 3, 4, 5] * len(ctx)
    assert list(wide.rows.images) == [n for n in range(len(ctx)) for _ in range(6)]
    draws = wide.noise.step(1).unflatten(0, (len(ctx), 6))
    assert torch.equal(draws[:, 0], ctx.noise.step(1))
    assert len({tuple(row.flatten()[:3].tolist()) for row in draws.flatten(0, 1)}) == 6 * len(ctx)
    assert torch.equal(ctx.candidate(4).noise.step(1), draws[:, 4])


def test_a_plan_knows_what_its_strategies_ask(tmp_path: Path, model: DiffusionModel):
    strategies = {"best": {**SEARCHES["best"], "reward": "proxy"}, "tuned": {"kind": "tuned"}}
    sampling(model, tmp_path, strategies=strategies)
    plan = sampling_plan(tmp_path / "params.yaml")
    assert (plan.rewards("base"), plan.rewards("tuned")) == (["proxy"], [])
    assert [each.name for each in plan.of("base")] == ["guidance", "best"]
