"""Sampling a tiny base and policy end to end: shared steps, costs, and independence of the batch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from PIL import Image

from stages import tables
from stages.encode.store import Encodings
from stages.models.diffusion import Denoiser, DiffusionModel, load_diffusion
from stages.models.policy import Policy, make_policy
from stages.models.sampler import denoise, finish
from stages.sample.job import Identity, Sampling
from stages.sample.resolve import sampling_plan
from stages.sample.run import sample_base, sample_run
from stages.sample.suite import Suite
from tests import tiny

STEPS = 4
STRATEGIES = {
    "tuned": {"kind": "tuned"},
    "combined": {"kind": "combined", "k": [1, 3], "base_guidance": 2.0},
    "released": {"kind": "combined", "k": [0, 3, 4], "base_guidance": 2.0, "as_released": {"extra_step": True}},
    "aig": {"kind": "aig", "p": [2]},
    "rlg": {"kind": "rlg", "w": [0.5]},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    record = tiny.diffusion_folder(tmp_path_factory.mktemp("models") / "base")
    return load_diffusion(record, tiny.CPU, parts=("unet", "vae"))


def policy(model: DiffusionModel) -> Policy:
    made = make_policy(model.unet, "full")
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for _, parameter in made.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    return made


def sampling(
    model: DiffusionModel, folder: Path, batch_size: int = 3, tuned: Policy | None = None, **more: object
) -> Sampling:
    folder.mkdir(exist_ok=True)
    sample = {
        "steps": STEPS, "samples_per_prompt": 2, "batch_size": batch_size, "guidance": [1.0, 3.0],
        "strategies": STRATEGIES, **more,
    }  # fmt: skip
    study = {"study": {"seed": 5, "reward": "clip", "heldout": "clip"}, "sample": sample}
    (folder / "params.yaml").write_text(yaml.safe_dump(study))
    store = Encodings(*tiny.encodings(folder / "encodings", held=2), tiny.CPU)
    plan = sampling_plan(folder / "params.yaml")
    suite = Suite(store, plan.seed, 2, batch_size, tiny.CPU)
    return Sampling.of(model, plan, suite, (tuned or policy(model)).network)


def images(made: pa.Table, strategy: str, setting: str) -> np.ndarray:
    import io

    rows = [r for r in made.to_pylist() if (r["strategy"], r["setting"]) == (strategy, setting)]
    return np.stack([np.asarray(Image.open(io.BytesIO(row["image"]))) for row in rows]).astype(int)


def both(model: DiffusionModel, folder: Path, **more) -> tuple[pa.Table, pa.Table, Sampling]:
    made = sampling(model, folder, **more)
    sample_base(made, folder / "base.parquet", folder / "latents.safetensors")
    whose = Identity("refl-s3", "refl", 3)
    sample_run(made, whose, folder / "latents.safetensors", folder / "run.parquet")
    base, run = (tables.read(folder / f"{name}.parquet", tables.SAMPLES) for name in ("base", "run"))
    return base, run, made


def test_every_image_of_every_setting_with_its_cost(model: DiffusionModel, tmp_path: Path):
    base, run, _ = both(model, tmp_path)
    count = 2 * 2
    expected = {
        ("tuned", "tuned"): STEPS, ("combined", "k=1"): 2 + 3, ("combined", "k=3"): 6 + 1, ("released", "k=0"): 2 + 4,
        ("released", "k=3"): 6 + 1, ("released", "k=4"): 8 + 1, ("aig", "p=2"): 2 * STEPS - 1,
        ("rlg", "w=0.5"): 2 * STEPS,
    }  # fmt: skip
    assert {(r["strategy"], r["setting"]): r["nfe"] for r in run.to_pylist()} == expected
    assert set(Counter((r["strategy"], r["setting"]) for r in run.to_pylist()).values()) == {count}
    assert {(r["setting"], r["nfe"]) for r in base.to_pylist()} == {("g=1", STEPS), ("g=3", 2 * STEPS)}
    assert {(r["run"], r["method"], r["train_seed"]) for r in run.to_pylist()} == {("refl-s3", "refl", 3)}
    assert {r["run"] for r in base.to_pylist()} == {"base"}
    assert [(r["prompt_id"], r["sample"]) for r in base.to_pylist()[:4]] == [("p6", 0), ("p6", 1), ("p7", 0), ("p7", 1)]


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_shared_steps_are_the_steps_made_alone(model: DiffusionModel, tmp_path: Path, sampler: str):
    _, run, made = both(model, tmp_path, sampler=sampler)
    assert not np.array_equal(images(run, "combined", "k=1"), images(run, "combined", "k=3"))
    assert np.array_equal(images(run, "combined", "k=3"), images(run, "released", "k=3"))
    for strategy, k in (("combined", 1), ("combined", 3), ("released", 0), ("released", 4)):
        expected = alone(made, policy(model), k, released=strategy == "released")
        assert np.abs(images(run, strategy, f"k={k}") - expected).max() <= 1


def test_compiled_networks_make_every_image(model: DiffusionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made: list[tiny.Watched] = []
    called: list[int] = []

    def compile_(network: torch.nn.Module, dynamic: bool) -> tiny.Watched:
        def count(own: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            if own is network:  # the policy is a copy of the base with its hooks
                called.append(len(given[0]))

        network.register_forward_pre_hook(count)
        made.append(tiny.Watched(network, dynamic))
        return made[-1]

    plain = both(model, tmp_path / "plain")
    monkeypatch.setattr(torch, "compile", compile_)
    quick = both(model, tmp_path / "quick", compile=True)
    for found, expected in zip(quick[:2], plain[:2], strict=True):
        assert found.drop_columns("seconds").equals(expected.drop_columns("seconds"))
    assert len(made) == 2 and sum(network.images for network in made) == sum(called) > 0


@torch.no_grad()
def alone(made: Sampling, tuned: Policy, k: int, released: bool) -> np.ndarray:
    """Combined generation in one go: k guided steps of the base, then the tuned network."""
    painted = []
    for batch in made.suite.groups():
        base, own = (Denoiser(network, made.model.process) for network in (made.model.unet, tuned.network))
        text = made.suite.encodings.text(batch.items)
        guided, plain = base.predict(made.grid, text, made.empty, 2.0), own.predict(made.grid, text)
        sampler = made.plan.sample.sampler
        x = denoise(made.grid, guided, batch.noise.initial(), 0, k, batch.noise, sampler, extra_step=released)
        clean = finish(made.grid, plain, x, k, batch.noise, sampler)
        painted.append(made.model.vae.decode(clean))
    return (torch.cat(painted) * 255).round().permute(0, 2, 3, 1).numpy().astype(int)


def test_images_do_not_depend_on_the_batch_size(model: DiffusionModel, tmp_path: Path):
    """Up to one level of 255: kernels add in another order."""
    large = both(model, tmp_path / "large", batch_size=4)
    small = both(model, tmp_path / "small", batch_size=1)
    for one, two in zip(large[:2], small[:2], strict=True):
        assert one.select(["prompt_id", "sample", "nfe"]).equals(two.select(["prompt_id", "sample", "nfe"]))
    for strategy, setting in (("combined", "k=3"), ("aig", "p=2")):
        assert np.abs(images(large[1], strategy, setting) - images(small[1], strategy, setting)).max() <= 1


def test_sampling_again_gives_the_same_images(model: DiffusionModel, tmp_path: Path):
    one, two = (both(model, tmp_path / name)[:2] for name in ("one", "two"))
    for first, second in zip(one, two, strict=True):
        assert first.column("image").equals(second.column("image"))
