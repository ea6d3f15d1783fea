"""Searches in the base's part of the steps, or in the tuned network's: limits, counts, and how work is cut."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_sample import model as model  # a fixture
from test_search import AT_WORK, SEARCHES, STEPS, column, job, labels, made, pixels, rewards

from stages.errors import InputError
from stages.models.diffusion import DiffusionModel
from stages.sample.context import Context
from stages.sample.resolve import strategy
from stages.sample.search import Search
from stages.sample.settings import SampleSettings

K = 2
COMBINED: dict[str, Any] = {"kind": "combined", "k": [K]}
PARTS = ("base", "tuned")
COMPARED = ("nfe", "nfe_backward", "queries", "decodes")
Rows = dict[tuple[str, str, str], list[dict[str, Any]]]


def within(name: str, part: str, **more: Any) -> dict[str, Any]:
    """A search within combined generation, in a part."""
    asked = {"reward": "proxy", "apply_to": ["tuned"], "prediction": COMBINED, "part": part}
    return {**SEARCHES[name], **asked, **more}


@pytest.fixture(scope="module")
def found(model: DiffusionModel, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Combined generation, and every search within it, by part."""
    folder = tmp_path_factory.mktemp("parts")
    entries = {f"{name} {part}": within(name, part) for name in SEARCHES for part in PARTS}
    return made(job(model, folder, {"combined": COMBINED, **entries})[0], folder)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", SEARCHES)
def test_one_candidate_is_combined_generation(found: Rows, name: str, part: str):
    one = pixels(found["run", f"{name} {part}", labels(name)[0]])
    assert np.abs(one - pixels(found["run", "combined", f"k={K}"])).max() <= 1


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", ["best", "fk", "code", "svdd", "dts_star"])
def test_several_candidates_make_other_images_and_raise_the_reward(found: Rows, name: str, part: str):
    """The reward where the best of them is kept to the end; what an estimate after the base's steps says of the image
    is not certain.
    """
    one, several = (found["run", f"{name} {part}", label] for label in labels(name))
    assert not np.array_equal(pixels(one), pixels(several))
    if part == "tuned" and name != "fk":
        assert rewards(several).mean() > rewards(one).mean()


def test_counts_are_those_of_a_shorter_sampling_and_of_the_plain_steps(found: Rows):
    """k = 2 of 4 steps. In the base's part a search has two steps, after which one candidate makes two more. In the
    tuned part candidates share the prediction that they begin with, where no gradient is taken of it.
    """
    rest = STEPS - K
    expected = {
        ("best base", "n=3"): (3 * K + rest, 0, 3, 4), ("best tuned", "n=3"): (K + 1 + 3 * (rest - 1), 0, 3, 3),
        ("fk base", "n=4"): (4 * K + rest, 0, 8, 9), ("fk tuned", "n=4"): (K + 1 + 4 * (rest - 1), 0, 8, 9),
        ("code base", "n=3"): (1 + 3 * (K - 1) + rest, 0, 3, 4),
        ("code tuned", "n=3"): (K + 1 + 3 * (rest - 1), 0, 3, 3),
        ("svdd base", "m=3"): (1 + 3 * (K - 1) + rest, 0, 3, 4),
        ("svdd tuned", "m=3"): (K + 1 + 3 * (rest - 1), 0, 3, 4),
        ("dsearch base", "m=3"): (1 + 3 * (K - 1) + rest, 0, 3, 4),
        ("dsearch tuned", "m=3"): (K + 1 + 3 * (rest - 1), 0, 3, 4),
        ("das base", "n=3"): (3 * K + rest, 3 * K, 3 * K, 3 * K + 1),
        ("das tuned", "n=3"): (K + 3 * rest, 3 * rest, 3 * rest, 3 * rest + 1),
        ("fmtt base", "n=3"): (2 * 3 * K + rest, 2 * 3 * K, 3 * K, 3 * K + 1),
        ("fmtt tuned", "n=3"): (K + 2 * 3 * rest, 2 * 3 * rest, 3 * rest, 3 * rest + 1),
        ("dlbs base", "b=2"): (2 + 2 * 2 * (K - 1) + rest, 0, 4, 5),
        ("dlbs tuned", "b=2"): (K + 1 + 2 * 2 * (rest - 1), 0, 4, 4),
    }  # fmt: skip
    for (name, setting), counts in expected.items():
        rows = found["run", name, setting]
        assert {tuple(row[key] for key in COMPARED) for row in rows} == {counts}, name
    for name in ("dts", "dts_star"):
        for part, most in (("base", 4 * K + rest), ("tuned", K + 1 + 4 * (rest - 1))):
            rows = found["run", f"{name} {part}", "m=4"]
            assert all(K < row["nfe"] <= most and row["queries"] <= 4 for row in rows)


def test_counts_are_those_of_executed_calls(model: DiffusionModel, tmp_path: Path):
    """The base's steps of the tuned part are taken from its shared pass, and charged as if they had been made."""
    entries = {f"{name} {part}": within(name, part) for name in ("best", "svdd", "dts") for part in PARTS}
    work, reward = job(model, tmp_path, entries)
    tuned, base, rows = work.tuned, model.unet, list[int]()
    assert tuned is not None
    hooks = [net.register_forward_pre_hook(lambda _, given: rows.append(len(given[0]))) for net in (tuned, base)]
    found = made(work, tmp_path)
    for hook in hooks:
        hook.remove()
    every = [row for some in found.values() for row in some]
    shared = [row for (_, name, _), some in found.items() if name.endswith("tuned") for row in some]
    assert sum(column(every, "nfe")) == sum(rows) + K * len(shared)
    assert sum(column(every, "queries")) == reward.images


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", SEARCHES)
def test_images_do_not_depend_on_the_batch_size(model: DiffusionModel, tmp_path: Path, name: str, part: str):
    entry = within(name, part, **AT_WORK.get(name, {}))
    large, small = (
        made(job(model, tmp_path / str(size), {name: entry}, batch_size=size)[0], tmp_path / str(size))
        for size in (64, 3)
    )
    for key, rows in large.items():
        for counted in COMPARED:
            assert column(rows, counted) == column(small[key], counted)
        assert np.abs(pixels(rows) - pixels(small[key])).max() <= 1, key


def run_of(work: Any, entry: dict[str, Any], value: float, ctx: Context | None = None) -> torch.Tensor:
    """The images of the first group."""
    search = strategy("s", entry, SampleSettings(steps=STEPS), "test").settings
    with torch.no_grad():
        return search.sample(ctx or work.context(work.suite.groups()[0]), value)


def test_a_part_that_was_not_shared_is_made_anew(model: DiffusionModel, tmp_path: Path):
    """Without latents from the base's pass the search makes them itself, with equal images."""
    entry = within("svdd", "tuned")
    work, _ = job(model, tmp_path, {"svdd": entry})
    rows = made(work, tmp_path)["run", "svdd", "m=3"]
    first = run_of(work, entry, 3.0)
    shown = (first * 255).round().permute(0, 2, 3, 1).numpy().astype(int)
    assert np.abs(shown - pixels(rows)[: len(shown)]).max() <= 1


def test_the_base_s_part_ends_before_the_tuned_network(model: DiffusionModel, tmp_path: Path):
    """By hand for best of 3: judged by the base's last prediction; from there on with the draws of candidate 0."""
    work, _ = job(model, tmp_path, {})
    ctx = work.context(work.suite.groups()[0])
    entry = within("best", "base")
    search = strategy("s", entry, SampleSettings(steps=STEPS), "test").settings
    assert isinstance(search, Search)
    found = run_of(work, entry, 3.0, ctx)
    base, tuned, last = ctx.networks.base(1.0), ctx.networks.tuned(1.0), len(ctx.grid) - 1
    ends, scores = list[torch.Tensor](), list[torch.Tensor]()
    with torch.no_grad():
        for number in range(3):
            own = ctx.candidate(number)
            x = own.noise.initial()
            x = ctx.grid.ancestral(x, base(x, 0), 0).sample(own.noise.step(0))
            x0 = ctx.grid.x0(x, base(x, 1), 1)
            ends.append(ctx.grid.ancestral(x, base(x, 1), 1).sample(ctx.noise.step(1)))
            scores.append(own.score(own.decode(x0), "proxy"))
        best = torch.stack(scores).argmax(0)
        x = torch.stack(ends)[best, torch.arange(len(ctx))]
        for i in range(K, last):
            x = ctx.grid.ancestral(x, tuned(x, i), i).sample(ctx.noise.step(i))
        expected = ctx.decode(ctx.grid.x0(x, tuned(x, last), last))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert len(set(best.tolist())) > 1


def refusals() -> Sequence[tuple[str, dict[str, Any], str]]:
    """Entries, and what is wrong with each."""
    fusion, rlg = {"kind": "fusion", "k": [0]}, {"kind": "rlg", "w": [1.0]}
    needed = "part {}: expected a prediction in which the base makes the first steps, such as combined"
    return [
        ("ddpm", within("svdd", "tuned", prediction=None), needed.format("tuned")),
        ("ddpm", within("svdd", "base", prediction=rlg), needed.format("base")),
        ("ddpm", within("dts", "base", prediction=fusion), needed.format("base")),
        ("ddpm", within("best", "tuned", prediction={"kind": "combined", "k": [3]}), "one step is left after k 3"),
        ("ddim", within("best", "tuned"), "with sample.sampler ddim, expected ddpm"),
        ("ddpm", within("fk", "base", end="noisy"), "its last step is not the last of all"),
        ("ddpm", within("das", "base", end="noisy"), "its last step is not the last of all"),
        ("ddpm", within("code", "tuned", start="own"), "expected start shared"),
    ]


@pytest.mark.parametrize(("sampler", "entry", "message"), refusals())
def test_parts_that_are_not_there_are_refused(sampler: Any, entry: dict[str, Any], message: str):
    with pytest.raises(InputError, match=f"test: .*{message}"):
        strategy("s", entry, SampleSettings(steps=STEPS, sampler=sampler), "test")


def test_best_of_n_in_the_base_s_part_needs_no_random_steps():
    strategy("s", within("best", "base"), SampleSettings(steps=STEPS, sampler="ddim"), "test")


def test_fusion_redraws_noise_candidate_by_candidate(model: DiffusionModel, tmp_path: Path):
    """Candidates that enter the tuned part by latents of their own share no prediction there."""
    entry = within("best", "tuned", prediction={"kind": "fusion", "k": [K]})
    found = made(job(model, tmp_path, {"best": entry})[0], tmp_path)
    one, three = (found["run", "best", label] for label in ("n=1", "n=3"))
    each = 2 * (STEPS - K)  # fusion predicts twice a step
    assert (set(column(one, "nfe")), set(column(three, "nfe"))) == ({K + each}, {K + 3 * each})
    assert rewards(three).mean() > rewards(one).mean()
