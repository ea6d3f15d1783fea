"""A reward of noisy latents: what it compares, what it learns on pairs, what it refuses, and LPO on it."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from stages import pictures, tables
from stages.errors import InputError
from stages.finetune.families.latent_candidates import LatentCandidates, thresholds
from stages.finetune.methods import lpo
from stages.finetune.requirements import require_enough, require_latents_of
from stages.models.conditioning import Conditioning
from stages.models.diffusion import DiffusionModel, load_diffusion
from stages.models.latent_scorer import Form, Judged, LatentScorer, contrast, pair_loss, places, weighted
from stages.models.record import ModelRecord, describe, load, save
from stages.prepare.__main__ import parser
from stages.prepare.latent import Lesson, train
from stages.prepare.latent_settings import LatentSettings
from stages.prepare.pictures import read_pictures
from stages.prepare.quality import read_pairs
from stages.rewards.base import LatentJudge, load_reward
from stages.rewards.latent import NoiseAwareReward
from stages.study import load as load_study
from tests import tiny, tiny_methods
from tests.stages.curating import ROOT
from tests.trajectories import STEPS, batch, settings_of, trainer
from workflow import dvc_file
from workflow.files import Files
from workflow.jobs import STAGES
from workflow.layout import Layout

SETTINGS = LatentSettings(steps=24, batch=16, lr=5e-3, warmup=5, dimensions=8, largest=300)


# the network


def scorer(form: Form, seed: int = 0) -> LatentScorer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LatentScorer(tiny.unet(), form, tiny.WIDTH, 8).eval()


@torch.no_grad()
def test_what_is_guided_and_what_is_not() -> None:
    x, t = torch.randn(2, *tiny.LATENT, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 700])
    text, empty = Conditioning(tiny.text(2, 1)), Conditioning(tiny.text(1, 2))
    plain, middle, every = (scorer(Form(guided=guided, guidance=3.0)) for guided in ("none", "middle", "all"))
    own, without = plain.pooled(x, t, text), plain.pooled(x, t, empty.expand(2))
    assert [value.shape[1] for value in own] == [8, 16, 16]
    ahead = [b + 3.0 * (a - b) for a, b in zip(own, without, strict=True)]
    for made, expected in ((plain, own), (middle, [*own[:2], ahead[2]]), (every, ahead)):
        found = made.projected(x, t, text, empty)
        torch.testing.assert_close(found, made.visual_projection(torch.cat(expected, 1)), rtol=1e-4, atol=1e-5)
    alone = scorer(Form(scales="middle"))
    assert alone.visual_projection.weight.shape == (8, 16)
    torch.testing.assert_close(plain.image_features(x, t, text, empty).norm(dim=1), torch.ones(2))
    assert not torch.allclose(plain.pooled(x, t.flip(0), text)[2], own[2])  # it knows how noisy they are


def test_the_last_layers_of_blocks_are_compared_not_their_downsamplers() -> None:
    assert places(tiny.unet(), (2, 3)) == [1, 3]
    trained = set(scorer(Form()).trained())
    assert {"visual_projection.weight", "text_projection.weight", "logit_scale", "unet.conv_in.weight"} < trained
    assert not any(name.startswith(("unet.up_blocks.", "unet.conv_out.")) for name in trained)


def test_losses_of_pairs() -> None:
    judged = Judged(torch.tensor([1.0, 0.0, 0.5, 0.5]), torch.tensor([1.0, 1.0, 2.0, 4.0]))
    scores = torch.tensor([[2.0, 0.0], [2.0, 0.0], [1.0, 1.0], [3.0, 0.0]])
    found = pair_loss(scores, judged)
    torch.testing.assert_close(found[:3], torch.tensor([math.log1p(math.exp(-2)), 2 + math.log1p(math.exp(-2)), 0.0]))
    assert found[3] > 0  # a tie has its least loss at equal scores
    apart = torch.tensor([False, True, False, False])
    expected = (found[0] + 0.25 * found[1] + 2 * found[2] + 4 * found[3]) / 8
    torch.testing.assert_close(weighted(found, judged, apart, 0.25), expected)
    # told apart perfectly: of 2 prompts by an image, and of 4 images by a prompt
    axes = torch.eye(4)
    sure = Judged(torch.ones(2), torch.ones(2))
    perfect = contrast((axes[:2], axes[2:]), axes[:2], torch.tensor(50.0), sure)
    assert float(perfect.max()) < 1e-6
    even = contrast((axes[:2], axes[2:]), axes[:2], torch.tensor(0.0), sure)
    torch.testing.assert_close(even, torch.full((2,), (math.log(2) + math.log(4)) / 2))


# training


def image(name: str, across: bool) -> bytes:
    """Stripes, across or upright, with noise: what is left of an image by a network that is random, but normalises."""
    draw = np.random.default_rng(sum(map(ord, name)))
    stripes = np.where(np.arange(16) // 2 % 2, 200, 20)
    shown = stripes[:, None] if across else stripes[None]
    noisy = shown[..., None] + draw.integers(0, 50, (16, 16, 3))
    return pictures.encode(noisy.astype(np.uint8))


def sharpened(folder: Path) -> None:
    """A random autoencoder has latents of little signal; this gives its posterior four times the mean and no spread."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    network = AutoencoderKL.from_pretrained(folder / "vae")
    last = network.quant_conv
    assert last is not None and last.bias is not None
    with torch.no_grad():
        last.weight[:4] *= 4
        last.weight[4:] = 0
        last.bias[4:] = -20
    network.save_pretrained(folder / "vae")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and pairs of stripes across and upright: the first are preferred as a circle, the others as a square."""
    root = tmp_path_factory.mktemp("latent")
    tiny.diffusion_folder(root / "base")
    sharpened(root / "base")
    save(describe("tiny", "diffusers", root / "base"), root / "base.json")
    images: list[dict[str, object]] = []
    pairs: list[dict[str, object]] = []
    for split, count in (("train", 24), ("val", 16)):
        for n in range(count):
            names = [f"{split}{n}{side}" for side in "ab"]
            kept = {"width": 16, "height": 16, "split": "pairs", "source": "s", "attributes": None}
            for name, across in zip(names, (True, False), strict=True):
                images.append({"image_id": name, "caption": "x", "image": image(name, across), "group": name, **kept})
            text = ("a red circle", "a blue square")[n % 2]
            pairs.append(
                {"pair_id": f"{split}{n}", "prompt": text, "image_a": names[0], "image_b": names[1],
                 "preference": float(n % 2 == 0), "split": split, "source": "s"}
            )  # fmt: skip
    tables.write(root / "images.parquet", tables.table(tables.IMAGES, images), tables.IMAGES)
    tables.write(root / "pairs.parquet", tables.table(tables.PAIRS, pairs), tables.PAIRS)
    section = {"noisy": SETTINGS.model_dump(exclude_defaults=True)}
    study = {"study": {"name": "tiny"}, "prepare": {"train": {"latent": section}}}
    (root / "study.yaml").write_text(yaml.safe_dump(study))
    names = {"params": "study.yaml", "base": "base.json", "images": "images.parquet", "pairs": "pairs.parquet",
             "out": "model", "record": "noisy.json"}  # fmt: skip
    args = parser().parse_args(["latent", "--name=noisy", *(f"--{flag}={root / name}" for flag, name in names.items())])
    args.run(args)
    return root


def base(root: Path) -> DiffusionModel:
    return load_diffusion(load(root / "base.json"), tiny.CPU, ("unet", "vae", "text_encoder"))


def judge(root: Path) -> NoiseAwareReward:
    made = load_reward(load(root / "noisy.json"), tiny.CPU)
    assert isinstance(made, NoiseAwareReward) and isinstance(made, LatentJudge)
    return made


def test_it_learns_which_image_fits_the_prompt_through_noise(folder: Path) -> None:
    rows = tables.read(folder / "model" / "train_log.parquet", tables.TRAIN_LOG).to_pylist()
    probes = {(row["step"], row["term"]): row["value"] for row in rows if row["term"].startswith("probe_pairs_")}
    assert {term for _, term in probes} == {"probe_pairs_1", "probe_pairs_150", "probe_pairs_300"}
    assert probes[24, "probe_pairs_1"] >= 0.9 and probes[24, "probe_pairs_150"] >= 0.9
    losses = [row["value"] for row in rows if row["term"] == "loss_preference"]
    assert losses[-1] < 0.2


@torch.no_grad()
def test_the_record_gives_the_scorer_back(folder: Path) -> None:
    made, model = judge(folder), base(folder)
    shown = read_pictures(folder / "images.parquet", "val", pairs=True)
    lesson = Lesson(SETTINGS, model, shown, read_pairs(folder / "pairs.parquet", "val", "", shown))
    assert lesson.accuracy(made.scorer, 1) >= 0.9
    images = pictures.tensor([image("val0a", True), image("val0b", False)], "test")
    found = made(images, ["a red circle"] * 2)
    assert found[0] > found[1]
    mean, _ = model.vae.posterior(images)
    torch.testing.assert_close(made.score_latents(model.vae.scale * mean, ["a red circle"] * 2, 1.0), found)
    torch.testing.assert_close(made(images[:1], ["a red circle"]), found[:1])  # whatever the batch
    other = made(images, ["a blue square"] * 2)
    assert other[0] < other[1]


def test_its_gradient_reaches_images(folder: Path) -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    judge(folder)(images, ["a red circle", "a blue square"]).sum().backward()
    assert images.grad is not None and bool((images.grad.flatten(1).abs().max(1).values > 0).all())


def test_what_is_refused(folder: Path) -> None:
    record = load(folder / "noisy.json")
    with pytest.raises(InputError, match="kind latent is made of a base"):
        load_reward(replace(record, parts={}), tiny.CPU)
    wide = ModelRecord("tiny", "diffusers", str(folder / "base"))
    assert wide.digest != load(folder / "base.json").digest
    model, shown = base(folder), read_pictures(folder / "images.parquet", "train", pairs=True)
    for values, said in (({"largest": 1000}, "has 1000 timesteps"), ({"source": "t"}, "no pair of split 'train' and")):
        settings = LatentSettings(**{"steps": 1, **values})
        with pytest.raises(InputError, match=said):
            train(settings, model, (shown, shown), folder / "pairs.parquet", folder / "none")
    assert not (folder / "none").exists()
    with pytest.raises(ValueError, match="guided all goes with scales all"):
        LatentSettings(scales="middle", guided="all")


def test_it_judges_latents_of_its_own_base_alone(folder: Path) -> None:
    plan, made = tiny_methods.plan("lpo", {}, tiny_methods_train()), judge(folder)
    require_latents_of(plan, require_enough(plan, made), load(folder / "base.json"))
    with pytest.raises(InputError, match=r"judges latents of base .*, but the base here is"):
        require_latents_of(plan, made, replace(load(folder / "base.json"), options={"variant": "other"}))
    with pytest.raises(InputError, match="scores noisy latents, and reward 'clip' judges images alone"):
        require_enough(plan, load_reward(tiny.clip_folder(folder / "clip"), tiny.CPU))


def tiny_methods_train() -> Any:
    from stages.finetune.settings import FinetuneSettings

    return FinetuneSettings.model_validate({"sampling_steps": STEPS, "batch_size": 4})


# LPO


class Asked:
    """A made-up reward of latents that keeps what it was asked."""

    name, differentiable, base = "asked", True, ""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, float]] = []

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return tiny.reward(images, prompts)

    def score_latents(self, x: Tensor, prompts: Sequence[str], t: float) -> Tensor:
        self.seen.append((x, t))
        return 3 * x.mean((1, 2, 3))


def test_candidates_are_scored_as_they_are_at_the_timestep_of_their_step() -> None:
    asked = Asked()
    made = trainer(lpo, {"start": 1, "end": 4, "candidates": 3, "threshold": 0.0, "threshold_high": 0.0}, judge=asked)
    assert isinstance(made.objective, LatentCandidates)
    networks = made.run.networks
    found, _ = made.objective.branch(batch())
    grid = networks.grid.timesteps.tolist()
    assert [t for _, t in asked.seen] == [t for t in grid[1:4] for _ in range(3)]
    assert networks.policy.evaluations == STEPS * 4  # at the states that are followed, and at no other candidate
    assert sorted(set(found.i.tolist())) == [1, 2, 3]
    for place in range(3):
        states = torch.stack([x for x, _ in asked.seen[3 * place : 3 * place + 3]])
        scores, rows = states.mean((2, 3, 4)), torch.arange(4)
        part = slice(4 * place, 4 * place + 4)
        torch.testing.assert_close(found.first[part], states[scores.argmax(0), rows])
        torch.testing.assert_close(found.second[part], states[scores.argmin(0), rows])
        if place:
            number = made.objective.followed(batch(), place)
            before = torch.stack([x for x, _ in asked.seen[3 * place - 3 : 3 * place]])
            torch.testing.assert_close(found.x[part], before[number, rows])


def test_thresholds_rise_with_the_noise_of_the_step() -> None:
    for law in ("deviation", "variance", "timestep"):
        made = trainer(lpo, {"threshold": 0.2, "threshold_high": 0.7, "threshold_law": law, "eta": 0.5}, judge=Asked())
        assert isinstance(made.objective, LatentCandidates)
        found = [made.objective.threshold(i) for i in range(STEPS)]
        assert (
            found == sorted(found, reverse=True) and found[0] == pytest.approx(0.7) and found[-1] == pytest.approx(0.2)
        )
    assert thresholds(torch.ones(3), 0.1, 0.9) == pytest.approx([0.1] * 3)


@pytest.mark.parametrize("values, said", [
    ({"end": 1, "start": 1}, "end 1 is no step after start 1"), ({"end": 9}, "end 9 is no step"),
    ({"threshold": 0.6}, "threshold_high 0.5 is below threshold 0.6"),
    ({"steps_per_trajectory": 3, "start": 1, "end": 3}, "more than the 2 steps"),
    ({"threshold_law": "sigma"}, "threshold_law"), ({"candidates": 1}, "candidates"), ({"beta": 0}, "beta"),
])  # fmt: skip
def test_bad_settings_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, InputError), match=said):
        settings_of(lpo, values).check(tiny_methods_train())


# the study


def study() -> dict[str, Any]:
    content = copy.deepcopy(yaml.safe_load((ROOT / "studies" / "smoke.yaml").read_text()))
    name = next(iter(content["runs"].values()))["method"]
    content["methods"][name] = {"kind": "lpo"}
    return content


def test_a_study_trains_one_where_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    content = study()
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match="expected a score of noisy latents, but model 'proxy' gives none"):
        load_study(tmp_path / "study.yaml")
    plain = Files(Layout("study.yaml", copy.deepcopy(content)))
    content["prepare"]["train"]["latent"] = {"noisy": {"steps": 2}}
    content["study"]["reward"] = "noisy"
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    load_study(tmp_path / "study.yaml")
    [stage] = [one for one in STAGES if one.name == "prepare_latent"]
    files = Files(Layout("study.yaml", content))
    assert plain.names(stage) == [] and files.names(stage) == ["noisy"]
    out = "out/smoke"
    assert set(files.inputs(stage)) == {
        f"{out}/models/base.json",
        f"{out}/data/images.parquet",
        f"{out}/data/pairs.parquet",
    }
    assert f"{out}/models/noisy.json" in files.kept
    assert "prepare_latent" in yaml.safe_load(dvc_file.of(files.layout))["stages"]
    assert "prepare_latent" not in yaml.safe_load(dvc_file.of(plain.layout))["stages"]
