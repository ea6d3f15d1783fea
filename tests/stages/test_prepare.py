"""The recipe that trains the shapes world's models, in miniature."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from open_clip.model import CLIP
from safetensors.torch import load_file

from stages import tables
from stages.errors import InputError
from stages.models import record
from stages.pictures import encode
from stages.prepare import clip, quality, ship, vae
from stages.prepare.__main__ import parser
from stages.prepare.pictures import read_pictures
from stages.prepare.settings import ClipSettings
from stages.rewards import open_clip
from stages.world import annotator, oracle
from stages.world.render import render
from stages.world.scene import all_prompts, draw_captions, draw_scenes
from stages.world.settings import WorldSettings

CPU = torch.device("cpu")
STUDY = """
study: {name: miniature, seed: 0}
world: {}
prepare:
  import: {}
  train:
    vae: {vae: {source: scenes, steps: 3, batch: 4, widths: [8, 16, 16]}}
    base: {base: {source: scenes, steps: 3, batch: 4, widths: [16, 32], probe_every: 3, text: {width: 16},
                  polish: {steps: 2, words: {star: 2}}}}
    clip:
      proxy: {source: scenes, steps: 2, batch: 8, width: 8, preference_steps: 2, preference_batch: 4, pair_source: a}
      patch: {source: scenes, steps: 2, batch: 8, vision: vit, image_size: 32, width: 16, vision_layers: [1]}
"""


def image_rows(count: int, split: str, source: str, seed: int) -> list[dict[str, object]]:
    world, rng = WorldSettings(), np.random.default_rng(seed)
    scenes = draw_scenes(world, count, rng)
    captions, images = draw_captions(world, scenes, rng), render(scenes, 32)
    return [
        {
            "image_id": f"{source}-{split}-{row}", "caption": captions[row], "image": encode(images[row]), "width": 32,
            "height": 32, "split": split, "group": captions[row], "source": source, "attributes": None,
        }
        for row in range(count)
    ]  # fmt: skip


def pair_rows(images: list[dict[str, object]], split: str) -> list[dict[str, object]]:
    return [
        {
            "pair_id": f"{split}-{row}", "prompt": a["caption"], "image_a": a["image_id"], "image_b": b["image_id"],
            "preference": 1.0, "split": split, "source": "a",
        }
        for row, (a, b) in enumerate(zip(images[::2], images[1::2], strict=True))
    ]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Tables and a study file, and every model of that study, trained through the command line."""
    root = tmp_path_factory.mktemp("prepare")
    judged = {split: image_rows(24, split, "a", seed) for seed, split in enumerate(("train", "val"))}
    scenes = [*image_rows(40, "train", "scenes", 2), *image_rows(30, "val", "scenes", 3)]
    rows = [*scenes, *judged["train"], *judged["val"]]
    tables.write(root / "images.parquet", tables.table(tables.IMAGES, rows), tables.IMAGES)
    pairs = [row for split, images in judged.items() for row in pair_rows(images, split)]
    tables.write(root / "pairs.parquet", tables.table(tables.PAIRS, pairs), tables.PAIRS)
    (root / "study.yaml").write_text(STUDY)
    run(root, "vae", "vae")
    run(root, "base", "base", "--vae", f"{root}/models/vae", "--record", f"{root}/base.json")
    for name in ("proxy", "patch"):
        run(root, "clip", name, "--pairs", f"{root}/pairs.parquet", "--record", f"{root}/{name}.json")
    return root


def run(root: Path, kind: str, name: str, *more: str) -> None:
    images = ("--images", f"{root}/images.parquet", "--out", f"{root}/models/{name}")
    args = parser().parse_args([kind, "--params", f"{root}/study.yaml", "--name", name, *images, *more])
    args.run(args)


@pytest.mark.slow
def test_plain_diffusers_loads_the_vae(folder):
    made = AutoencoderKL.from_pretrained(folder / "models/vae")
    assert made.config["latent_channels"] == 6
    assert made.config["scaling_factor"] != AutoencoderKL().config["scaling_factor"]
    assert made.encode(torch.zeros(1, 3, 32, 32), return_dict=False)[0].mean.shape == (1, 6, 8, 8)


def test_plain_diffusers_samples_the_base(folder):
    pipeline = StableDiffusionPipeline.from_pretrained(folder / "models/base")
    pipeline.set_progress_bar_config(disable=True)
    made: Any = pipeline(["a red circle"] * 2, num_inference_steps=2, guidance_scale=2.0, output_type="np")
    assert made.images.shape == (2, 32, 32, 3)
    assert pipeline.scheduler.config["prediction_type"] == "v_prediction"
    assert pipeline.safety_checker is None


def test_plain_open_clip_loads_the_rewards(folder):
    for name in ("proxy", "patch"):
        config = json.loads((folder / f"models/{name}/open_clip_config.json").read_text())
        model = CLIP(**config["model_cfg"])
        model.load_state_dict(load_file(folder / f"models/{name}/open_clip_model.safetensors"))


def test_a_loaded_reward_computes_what_was_trained(folder):
    settings = ClipSettings(source="scenes", steps=2, width=8)
    held_out = read_pictures(folder / "images.parquet", "val")
    lesson = clip.Lesson(settings, read_pictures(folder / "images.parquet", "train"), held_out, None, CPU)
    lesson.model.eval()
    clip.save(lesson.model, lesson.tokenizer, settings, folder / "untrained")
    loaded = open_clip.load(record.describe("untrained", "open_clip", folder / "untrained"))
    pixels = torch.from_numpy(held_out.images[:5]).permute(0, 3, 1, 2).float() / 255
    expected = (lesson.embed(held_out.images[:5]) * lesson.encode(held_out.captions[:5])).sum(-1)
    assert loaded(pixels, held_out.captions[:5]) == pytest.approx(expected.detach(), abs=1e-5)


def test_records_name_every_file_and_nothing_else_is_left(folder):
    for name in ("base", "proxy", "patch"):
        model = record.load(folder / f"{name}.json")
        assert model.folder() == folder / "models" / name
        assert "train_log.parquet" in model.files
    assert not list(folder.rglob("*.pt"))


def test_training_logs_hold_every_part(folder):
    terms = {
        row["term"] for row in tables.read(folder / "models/proxy/train_log.parquet", tables.TRAIN_LOG).to_pylist()
    }
    assert {"loss", "loss_preference", "loss_contrastive", "grad_norm", "probe_pairs", "probe_retrieval"} <= terms
    terms = {row["term"] for row in tables.read(folder / "models/base/train_log.parquet", tables.TRAIN_LOG).to_pylist()}
    assert {"loss", "probe_shape", "probe_both_2", "probe_empty_1"} <= terms
    steps = tables.read(folder / "models/base/train_log.parquet", tables.TRAIN_LOG).column("step").to_pylist()
    assert max(steps) == 5  # three steps and two more of the second run


def test_shipping_halves_the_weights_and_measures_them(folder, monkeypatch):
    monkeypatch.setattr(ship, "GUIDANCES", (2.0,))
    monkeypatch.setattr(ship, "SAMPLES", 2)
    out = folder / "shipped"
    ship.ship(folder / "study.yaml", folder / "models", folder / "images.parquet", folder / "pairs.parquet", out, CPU)
    content = json.loads((out / ship.DIGESTS).read_text())
    assert content["files"] == ship.digests(out)
    assert set(content["scores"]) == {"base", "proxy", "patch"}
    assert 0 <= content["scores"]["base"]["ddim"]["2"]["both"] <= 1
    assert content["recipe"]["prepare"]["train"]["vae"]["vae"]["steps"] == 3
    for file in out.rglob("*.safetensors"):
        whole = load_file(folder / "models" / file.relative_to(out))
        for name, value in load_file(file).items():
            assert value.dtype in (torch.float16, torch.int64)
            assert torch.equal(value, whole[name].half() if whole[name].is_floating_point() else whole[name])
    assert ship.load_pipeline(out / "base", CPU).unet.dtype == torch.float32


# --- bad input --------------------------------------------------------------------------------------------------------


def test_bad_input_is_refused_in_one_line(folder, tmp_path):
    images = folder / "images.parquet"
    held_out = read_pictures(images, "val")
    with pytest.raises(InputError, match="no image of split 'test'"):
        read_pictures(images, "test")
    with pytest.raises(InputError, match=r"source 'scene', expected one of \['a', 'scenes'\]"):
        held_out.of("scene", str(images))
    with pytest.raises(InputError, match="no pair of split 'val' and source 'b'"):
        quality.read_pairs(folder / "pairs.parquet", "val", "b", held_out)
    with pytest.raises(InputError, match="is no image of split 'val'"):
        quality.read_pairs(folder / "pairs.parquet", "val", "a", held_out.of("scenes", "here"))
    with pytest.raises(InputError, match=r"no config\.json"):
        vae.load(tmp_path)
    with pytest.raises(InputError, match="there is no 'prxoy' here; did you mean 'proxy'"):
        run(folder, "clip", "prxoy", "--pairs", "none")
    with pytest.raises(InputError, match="expected the trained model 'base'"):
        ship.ship(folder / "study.yaml", tmp_path, images, folder / "pairs.parquet", tmp_path / "out", CPU)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("captions", [["flag"], ["woman pilot", "a red pilot"], ["3", ""]])
def test_a_base_of_other_images_is_not_judged_by_the_shapes_oracle(folder, tmp_path, captions):
    rows = image_rows(4, "val", "own", 0)
    for number, row in enumerate(rows):
        row["caption"] = captions[number % len(captions)]
    tables.write(tmp_path / "images.parquet", tables.table(tables.IMAGES, rows), tables.IMAGES)
    places = (folder / "models", tmp_path / "images.parquet", folder / "pairs.parquet", tmp_path / "out")
    with pytest.raises(InputError, match=r"no caption is a sentence of the shapes world, .* give --oracle"):
        ship.ship(folder / "study.yaml", *places, CPU)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("side", "scaled"), [(28, 32), (36, 40), (30, 32), (4, 8)])
def test_images_whose_side_no_pipeline_takes_are_refused(folder, tmp_path, side, scaled):
    """A VAE that halves twice would draw them in another size, or diffusers' pipelines would refuse the base."""
    rows = [row for split in ("train", "val") for row in image_rows(2, split, "scenes", 0)]
    for row in rows:
        row |= {"image": encode(np.zeros((side, side, 3), np.uint8)), "width": side, "height": side}
    tables.write(tmp_path / "images.parquet", tables.table(tables.IMAGES, rows), tables.IMAGES)
    (tmp_path / "study.yaml").write_text(STUDY)
    with pytest.raises(InputError, match=rf"images of {side}x{side} pixels, .* 8 divides; `curate.side: {scaled}`"):
        run(tmp_path, "vae", "vae")
    with pytest.raises(InputError, match=f"images of {side}x{side} pixels"):
        run(tmp_path, "base", "base", "--vae", f"{folder}/models/vae", "--record", f"{tmp_path}/base.json")


def test_images_of_different_sizes_are_refused(tmp_path):
    rows = image_rows(2, "train", "scenes", 0)
    rows[1] |= {"image": encode(np.zeros((16, 32, 3), np.uint8)), "width": 32, "height": 16}
    tables.write(tmp_path / "images.parquet", tables.table(tables.IMAGES, rows), tables.IMAGES)
    with pytest.raises(InputError, match="image scenes-train-1 has 32x16 pixels, expected 32x32"):
        read_pictures(tmp_path / "images.parquet", "train")


def test_annotators_pairs_can_be_learnt_from(folder):
    """Comparisons of the world have what `read_pairs` needs, and both sides show what is asked for most of the time."""
    rng = np.random.default_rng(0)
    shown = annotator.draw_comparisons(WorldSettings(), all_prompts(), 40, rng)
    match = oracle.caption_match(render(shown.a, 32, rng), shown.prompts)
    assert 0.5 < match.both.mean() < 0.95
