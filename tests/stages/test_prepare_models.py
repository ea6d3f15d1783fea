"""What the models of the shapes world start from, what they learn, and how they are measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from stages.errors import InputError
from stages.prepare import base, clip, quality, tokenizer, vae
from stages.prepare.pictures import Pictures
from stages.prepare.settings import BaseSettings, VaeSettings
from stages.world import oracle
from stages.world.render import render
from stages.world.scene import all_prompts, draw_captions, draw_scenes
from stages.world.settings import WorldSettings

CPU = torch.device("cpu")

# --- the VAE's start --------------------------------------------------------------------------------------------------


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


# --- the base's noise and words ---------------------------------------------------------------------------------------


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


def test_an_autoencoder_whose_weights_are_not_all_there(parts, tmp_path):
    """The library would draw what is missing at random, and the base would be trained on such latents."""
    file = tmp_path / "vae/diffusion_pytorch_model.safetensors"
    parts.vae.save_pretrained(tmp_path / "vae")
    assert vae.load(tmp_path / "vae").config["latent_channels"] == parts.vae.config["latent_channels"]
    weights = load_file(file)
    name = next(iter(weights))
    for content in ({}, {key: value for key, value in weights.items() if key != name}, weights | {name: torch.ones(1)}):
        save_file(content, file)
        with pytest.raises(InputError, match=r"the weights lack|cannot be loaded"):
            vae.load(tmp_path / "vae")


def test_weights_of_words_that_no_caption_has():
    captions = ["a red star", "a blue ring"]

    def check(words: dict[str, float], steps: int = 5) -> None:
        settings = BaseSettings.model_validate({"polish": {"steps": steps, "words": words}})
        base.require_words(settings, captions, "s.yaml: base")

    check({"star": 2.0, "ring": 0.5})
    check({"stair": 2.0}, steps=0)
    for words in ({"stair": 2.0}, {"star": 2.0, "Ring": 1.0}, {"red star": 2.0}):
        with pytest.raises(InputError, match=r"s\.yaml: base\.polish\.words: no training caption has the word"):
            check(words)
    with pytest.raises(InputError, match="every training image has weight 0"):
        check({"star": 0.0, "ring": 0.0})


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


def test_every_known_word_is_one_token_and_the_end_has_the_largest_id():
    made = tokenizer.build(all_prompts(), 16)
    ids = tokenizer.ids(made, ["a large orange triangle on a dark background", "a zebra", ""], 16)
    end = len(made) - 1
    assert ids.shape == (3, 16)
    assert (ids == end).int().argmax(1).tolist() == [9, 7, 1]
    assert ids.max() == end
    assert made.decode(ids[0], skip_special_tokens=True) == "a large orange triangle on a dark background"


# --- losses and measures of the rewards -------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("captions", "length"),
    [
        (["digit 3", "digit 5", "digit 35"], 5),
        (["red, white", "red, blue", "red"], 5),
        (["café noir", "cafe noir", "café"], 4),
        (["三つの星", "二つの星"], 3),
        (["three-colour flag", "three colour flag", "three - flag"], 6),
        (["🇫🇷", "🇩🇪"], 3),
    ],
)
def test_captions_that_differ_in_digits_signs_or_accents_are_told_apart(captions: list[str], length: int) -> None:
    """No sign of a caption is read as the end of the text, and each word, digit and run of signs is one token."""
    made = tokenizer.build(captions, 16)
    ids = tokenizer.ids(made, captions, 16).tolist()
    assert len({*map(tuple, ids)}) == len(captions)
    ends = [row.index(made.eos_token_id) + 1 for row in ids]
    assert [len(made(text).input_ids) for text in captions] == ends
    assert max(ends) == length


@pytest.mark.parametrize(
    ("captions", "context", "words"),
    [
        (
            ["a b", "a b c", "a b c"],
            4,
            "text.context: 1 of 2 distinct captions have more than 4 tokens and are cut off",
        ),
        (
            ["a b c d", "1 2 3"],
            3,
            "2 of 2 distinct captions have more than 3 tokens and are cut off there; the longest has 6",
        ),
        (["a b", "a, b"], 5, ""),
    ],
)
def test_captions_that_are_cut_off_are_counted(
    captions: list[str], context: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer.say_cut_off("text.context", tokenizer.build(captions, context), captions, context)
    said = capsys.readouterr().err
    assert words in said if words else not said


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
