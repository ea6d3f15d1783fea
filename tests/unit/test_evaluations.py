"""How often the networks are evaluated in the sweep of combined generation: k = 0, 20, 25, 32, 35, 38 of 40 steps.

Counted where the networks are called, with guidance as two evaluations. From noise on, each k costs 2 k + 40 - k, 390
in all; the released code makes one guided step more at k = 0. The guided steps up to 38 are common to all: 76. The rest
is each k's own, 40 - k: 90 a method.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from benchmarks.plain import Counter
from stages import tables
from stages.encode.store import Encodings
from stages.models.diffusion import load_diffusion
from stages.models.policy import make_policy
from stages.sample.job import Identity, Sampling
from stages.sample.resolve import sampling_plan
from stages.sample.run import sample_base, sample_run
from stages.sample.suite import Suite
from tests import tiny

STEPS, SWITCHES = 40, (20, 25, 32, 35, 38)
ALONE = sum(2 * k + STEPS - k for k in (0, *SWITCHES))
SHARED, OWN = 2 * max(SWITCHES), sum(STEPS - k for k in (0, *SWITCHES))


def counted(folder: Path, guidance: tuple[float, ...], methods: int) -> tuple[int, list[int], list[int]]:
    """Evaluations an image: of the base's pass, of each method's run, and as if every k had been made alone."""
    model = load_diffusion(tiny.diffusion_folder(folder / "base"), tiny.CPU, parts=("unet", "vae"))
    strategies = {
        "tuned": {"kind": "tuned"}, "combined": {"kind": "combined", "k": list(SWITCHES), "base_guidance": 7.5},
    }  # fmt: skip
    sample = {"steps": STEPS, "samples_per_prompt": 2, "guidance": list(guidance), "strategies": strategies}
    (folder / "params.yaml").write_text(yaml.safe_dump({"study": {"seed": 1}, "sample": sample}))
    plan = sampling_plan(folder / "params.yaml")
    store = Encodings(*tiny.encodings(folder / "encodings", held=1), tiny.CPU)
    suite, images = Suite(store, plan.seed, 2, 4, tiny.CPU), 2

    counter = Counter([model.unet])
    sample_base(Sampling.of(model, plan, suite), folder / "base.parquet", folder / "latents.safetensors")
    counter.close()
    base, runs, alone = counter.count // images, [], []
    for n in range(methods):
        policy = make_policy(model.unet, "norm_affine")
        with torch.no_grad():
            for _, parameter in policy.parameters():
                parameter.mul_(1 + 0.1 * n)
        counter = Counter([model.unet, policy.network])
        job = Sampling.of(model, plan, suite, policy.network)
        sample_run(job, Identity(f"m{n}-s0", f"m{n}", 0), folder / "latents.safetensors",
                   folder / "run.parquet")  # fmt: skip
        counter.close()
        runs.append(counter.count // images)
        rows = tables.read(folder / "run.parquet", tables.SAMPLES).to_pylist()
        alone.append(sum(row["nfe"] for row in rows) // images)
    return base, runs, alone


@pytest.mark.slow
def test_one_method_takes_166_evaluations_an_image_and_four_take_436(tmp_path: Path):
    base, runs, alone = counted(tmp_path, guidance=(1.0,), methods=4)
    base -= STEPS  # the base without guidance, which every study shows, is no part of the sweep
    assert (base, runs) == (SHARED, [OWN] * 4)
    assert base + runs[0] == 166
    assert base + sum(runs) == 76 + 4 * 90 == 436
    assert alone == [ALONE] * 4
    assert ALONE == 390  # 392 as released; 1568 for four methods


def test_a_guided_base_that_is_shown_shares_its_pass(tmp_path: Path):
    base, runs, _ = counted(tmp_path, guidance=(1.0, 7.5), methods=1)
    assert (base, runs) == (STEPS + 2 * STEPS, [OWN])


@pytest.mark.parametrize("sampled", [(1.0,), (1.0, 2.0)])
def test_a_pass_that_stops_early_keeps_the_same_latents(tmp_path: Path, sampled: tuple[float, ...]):
    """Whether or not the base's own images are asked for, the latents at the switch steps are those of a whole pass."""
    from stages.models.diffusion import Denoiser
    from stages.models.sampler import denoise
    from stages.sample import latents

    model = load_diffusion(tiny.diffusion_folder(tmp_path / "base"), tiny.CPU, parts=("unet", "vae"))
    combined = {"combined": {"kind": "combined", "k": [1, 3], "base_guidance": 2.0}}
    sample = {"steps": 5, "samples_per_prompt": 2, "guidance": list(sampled), "strategies": combined}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"study": {"seed": 1}, "sample": sample}))
    plan = sampling_plan(tmp_path / "params.yaml")
    store = Encodings(*tiny.encodings(tmp_path / "encodings", held=2), tiny.CPU)
    job = Sampling.of(model, plan, Suite(store, plan.seed, 2, 3, tiny.CPU))
    sample_base(job, tmp_path / "base.parquet", tmp_path / "latents.safetensors")
    for batch in job.suite.groups():
        text = store.text(batch.items)
        predict = Denoiser(model.unet, model.process).predict(job.grid, text, job.empty, 2.0)
        for k in (1, 3):
            with torch.no_grad():
                expected = denoise(job.grid, predict, batch.noise.initial(), 0, k, batch.noise)
            rows, shape = slice(batch.first, batch.first + len(batch)), store.latent_shape()
            found = latents.load(tmp_path / "latents.safetensors", latents.key(2.0, k), rows, shape, tiny.CPU)
            torch.testing.assert_close(found, expected)
