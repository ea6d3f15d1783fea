"""The recipe that trains the shapes world's models, in miniature, and the parts that it rests on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from open_clip.model import CLIP
from safetensors.torch import load_file
from torch import nn

from stages import tables
from stages.errors import InputError
from stages.models import record
from stages.pictures import encode
from stages.prepare import base, clip, loop, quality, ship, tokenizer, vae
from stages.prepare.__main__ import parser
from stages.prepare.pictures import Pictures, read_pictures
from stages.prepare.settings import BaseSettings, ClipSettings, Training, VaeSettings
from stages.resume import State
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


# --- the VAE's start ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    world, rng = WorldSettings(), np.random.default_rng(9)
    scenes = draw_scenes(world, 24, rng)
    captions = draw_captions(world, scenes, rng)
    return Pictures(render(scenes, 32), captions, [str(row) for row in range(24)], ["scenes"] * 24)


def test_linear_start_averages_pixels_into_latents(pictures):
    made = vae.build(VaeSettings(), 32)
    target = vae.to_model(pictures.images, CPU)
    with torch.no_grad():
        latents = made.encode(target, return_dict=False)[0].mean[:, :3]
    pooled = nn.functional.avg_pool2d(target, 4)
    slope = (latents * pooled).sum() / pooled.square().sum()
    assert (latents - slope * pooled).square().mean() < 0.005 * latents.square().mean()


def test_linear_start_keeps_colours_before_any_training(pictures):
    made = vae.build(VaeSettings(seed=3), 32)
    assert quality.psnr(pictures.images, quality.reconstruct(made, pictures.images, CPU)) > 18


# --- the base's noise -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parts() -> base.Parts:
    codec = vae.build(VaeSettings(widths=(8, 16, 16)), 32)
    settings = BaseSettings.model_validate({"widths": [16, 32], "text": {"width": 16}})
    return base.build(settings, codec, tokenizer.build(all_prompts(), 16))


def test_timesteps_have_the_wanted_signal_to_noise(parts):
    steps = base.Timesteps(parts.scheduler, -0.4, 1.4, CPU)
    drawn = steps.log_snr[steps.draw(20000, torch.Generator().manual_seed(0))]
    assert drawn.mean().item() == pytest.approx(-0.4, abs=0.03)
    assert drawn.std().item() == pytest.approx(1.4, abs=0.05)


def test_weights_of_words_multiply():
    captions = ["a red star", "a small red star", "a blue ring", "an orange circle"]
    found = base.word_weights(captions, {"star": 2.0, "small": 1.5, "ring": 0.5})
    assert found.tolist() == [2, 3, 0.5, 1]


def test_weighted_rows_come_as_often_as_they_weigh(parts, pictures):
    settings = BaseSettings.model_validate({"widths": [16, 32], "text": {"width": 16}, "batch": 500})
    lesson = base.Lesson(settings, parts, pictures, pictures, CPU)
    lesson.weights = base.word_weights(pictures.captions, {"star": 3.0})
    counts = torch.bincount(torch.cat([lesson._rows(step) for step in range(40)]), minlength=len(pictures))
    expected = 20000 * lesson.weights / lesson.weights.sum()
    assert (counts - expected).abs().max() < 5 * expected.max().sqrt()


def test_the_target_is_what_the_scheduler_calls_velocity(parts):
    steps = base.Timesteps(parts.scheduler, 0, 1, CPU)
    latents, noise = torch.randn(2, 3, 6, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([10, 400, 900])
    velocity = parts.scheduler.get_velocity(latents, noise, t)
    seen = []

    class Answer(nn.Module):
        def forward(self, noisy, timestep, encoder_hidden_states, return_dict):
            seen.append(noisy)
            return (velocity,)

    fake = base.Parts(parts.vae, Answer(), parts.text, parts.tokenizer, parts.scheduler)  # type: ignore[arg-type]
    errors = base.squared_errors(fake, steps, latents, noise, t, torch.zeros(3, 16, 16))
    assert errors == pytest.approx(torch.zeros(3), abs=1e-10)
    assert torch.allclose(seen[0], parts.scheduler.add_noise(latents, noise, t), atol=1e-6)


# --- losses and measures of the rewards -----------------------------------------------------------------------------


class TwoTowers(nn.Module):
    """Features given beforehand, in place of a model."""

    def __init__(self, images: torch.Tensor, texts: torch.Tensor, scale: float) -> None:
        super().__init__()
        self.images, self.texts = nn.functional.normalize(images, dim=-1), nn.functional.normalize(texts, dim=-1)
        self.logit_scale = nn.Parameter(torch.tensor(scale).log())

    def forward(self, images, ids):
        return self.images[images], self.texts[ids[:, 0]], self.logit_scale.exp()

    def encode_image(self, images):
        return 3 * self.images[images]

    def encode_text(self, ids):
        return 5 * self.texts[ids[:, 0]]


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_contrastive_loss_shares_the_target_among_equal_captions():
    random = torch.Generator().manual_seed(0)
    model = TwoTowers(torch.randn(3, 4, generator=random), torch.randn(2, 4, generator=random), 7.0)
    ids = torch.tensor([[0], [1], [0]])
    logits = 7.0 * (model.images @ model.texts[ids[:, 0]].T).numpy()
    target = np.array([[0.5, 0, 0.5], [0, 1, 0], [0.5, 0, 0.5]])
    by_image = -(target * np.log(softmax(logits))).sum(1).mean()
    by_text = -(target * np.log(softmax(logits.T))).sum(1).mean()
    found = clip.contrastive_loss(model, torch.tensor([0, 1, 2]), ids)  # type: ignore[arg-type]
    assert found.item() == pytest.approx((by_image + by_text) / 2, rel=1e-5)


def test_preference_loss_is_the_cross_entropy_of_scaled_cosines():
    random = torch.Generator().manual_seed(1)
    model = TwoTowers(torch.randn(4, 4, generator=random), torch.randn(2, 4, generator=random), 12.0)
    votes = np.array([1.0, 0.25])
    first, second = torch.tensor([0, 1]), torch.tensor([2, 3])
    cosines = np.stack([(model.images[side] * model.texts).sum(-1).numpy() for side in (first, second)], 1)
    expected = -(np.stack([votes, 1 - votes], 1) * np.log(softmax(12 * cosines))).sum(1).mean()
    found = clip.preference_loss(
        model, first, second, torch.tensor([[0], [1]]), torch.tensor(votes, dtype=torch.float32)  # type: ignore[arg-type]
    )  # fmt: skip
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_logit_scale_is_capped_as_in_clip():
    towers = TwoTowers(torch.ones(1, 2), torch.ones(1, 2), 1e6)
    assert clip.scale(towers).item() == pytest.approx(100)  # type: ignore[arg-type]


def test_measures_of_a_model_that_reads_the_oracle(pictures):
    """Features that name colour and shape: retrieval is perfect, and pairs are judged by them alone."""

    def embed(images: np.ndarray) -> torch.Tensor:
        seen = oracle.parse(images)
        return one_hot(8 * seen.shape + seen.colour)

    def encode_texts(texts) -> torch.Tensor:
        said = [oracle.read_caption(text) for text in texts]
        return one_hot([8 * oracle.SHAPES.index(s.shape) + oracle.COLOUR_NAMES.index(s.colour) for s in said if s])

    def one_hot(values) -> torch.Tensor:
        return nn.functional.one_hot(torch.as_tensor(values), 48).float()

    minimal = [f"{text.split(' on ')[0].replace('small ', '').replace('large ', '')}" for text in pictures.captions]
    known = Pictures(pictures.images, minimal, pictures.ids, pictures.sources)
    assert quality.retrieval(known, embed, encode_texts) > 0.9
    other = next(row for row in range(1, 24) if minimal[row] != minimal[0])
    pairs = quality.Pairs([minimal[0]] * 3, np.array([0, other, 0]), np.array([other, 0, 0]), np.array([1.0, 0.0, 0.5]))
    assert quality.pair_accuracy(known, pairs, embed, encode_texts) == 1
    turned = quality.Pairs(pairs.prompts, pairs.a, pairs.b, 1 - pairs.preference)
    assert quality.pair_accuracy(known, turned, embed, encode_texts) == 0


# --- tokenizer and loop ---------------------------------------------------------------------------------------------


def test_every_known_word_is_one_token_and_the_end_has_the_largest_id():
    made = tokenizer.build(all_prompts(), 16)
    ids = tokenizer.ids(made, ["a large orange triangle on a dark background", "a zebra", ""], 16)
    end = len(made) - 1
    assert ids.shape == (3, 16)
    assert (ids == end).int().argmax(1).tolist() == [9, 7, 1]
    assert ids.max() == end
    assert made.decode(ids[0], skip_special_tokens=True) == "a large orange triangle on a dark background"


def test_schedule_rises_holds_and_falls():
    settings = Training(steps=100, warmup=10, hold=0.5, final=0.1)
    assert loop.rate(settings, 0) == pytest.approx(0.1)
    assert loop.rate(settings, 30) == loop.rate(settings, 50) == 1
    assert loop.rate(settings, 75) == pytest.approx(0.55)
    assert loop.rate(settings, 100) == pytest.approx(0.1)


class Stop(Exception):
    """The job was killed here."""


def line(
    settings: Training, state: State | None, stop: int | None = None, broken: int | None = None
) -> tuple[torch.Tensor, loop.Log]:
    """Fit a line by steps on random batches; killed before step `stop`."""
    torch.manual_seed(0)
    module = nn.Linear(2, 1)

    def terms(step: int) -> loop.Terms:
        if step == stop:
            raise Stop
        x = torch.randn(8, 2, generator=loop.generator(settings.seed, "x", step))
        x = x * math.nan if step == broken else x
        return {"loss": (module(x)[:, 0] - x.sum(1)).square().mean()}

    trainer = loop.Trainer("line", {"line": module}, settings, state)
    trainer.run(terms)
    log = trainer.finish()
    return module.weight.detach().clone(), log


def test_a_killed_training_ends_as_one_that_was_not(tmp_path):
    settings = Training(steps=30, save_every=7, log_every=1, ema=0.9, lr=0.05, warmup=0)
    whole, log = line(settings, None)
    with pytest.raises(Stop):
        line(settings, State(tmp_path / "state"), stop=17)
    resumed, resumed_log = line(settings, State(tmp_path / "state"))
    assert torch.equal(whole, resumed)
    assert log.rows == resumed_log.rows
    assert len({step for step, *_ in log.rows}) == 30


def test_training_that_is_not_finite_stops_before_the_step():
    with pytest.raises(InputError, match=r"line: step 3: loss nan, gradient norm nan, expected finite"):
        line(Training(steps=5, lr=0.05, warmup=0), None, broken=3)


def test_averaged_weights_are_the_mean_that_the_decay_says():
    settings = Training(steps=3, ema=0.5, lr=0.1, warmup=0)
    torch.manual_seed(0)
    module = nn.Linear(2, 1)
    trainer = loop.Trainer("mean", {"line": module}, settings)
    seen = [module.weight.detach().clone()]
    expected = seen[0].clone()
    for step in range(3):
        trainer._update({"loss": module(torch.ones(1, 2)).square().sum()})
        trainer.step += 1
        decay = min(0.5, (step + 1) / (step + 10))
        expected = decay * expected + (1 - decay) * module.weight.detach()
    trainer.finish()
    assert torch.allclose(module.weight, expected)


# --- bad input ------------------------------------------------------------------------------------------------------


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


def test_images_of_different_sizes_are_refused(tmp_path):
    rows = image_rows(2, "train", "scenes", 0)
    rows[1]["image"] = encode(np.zeros((16, 32, 3), np.uint8))
    tables.write(tmp_path / "images.parquet", tables.table(tables.IMAGES, rows), tables.IMAGES)
    with pytest.raises(InputError, match="image scenes-train-1 has 32x16 pixels, expected 32x32"):
        read_pictures(tmp_path / "images.parquet", "train")


def test_annotators_pairs_can_be_learnt_from(folder):
    """Comparisons of the world have what `read_pairs` needs, and both sides show what is asked for most of the time."""
    rng = np.random.default_rng(0)
    shown = annotator.draw_comparisons(WorldSettings(), all_prompts(), 40, rng)
    match = oracle.caption_match(render(shown.a, 32, rng), shown.prompts)
    assert 0.5 < match.both.mean() < 0.95
