"""The shapes world: scenes, captions, renderer, oracle and annotators against what is known of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stages.errors import InputError
from stages.params import validate
from stages.world import annotator, oracle
from stages.world.render import render
from stages.world.scene import (
    COLOUR_NAMES,
    HUES,
    SHAPES,
    Caption,
    Scenes,
    all_minimal_prompts,
    all_prompts,
    describes,
    draw_captions,
    draw_scenes,
    evaluation_prompts,
    read_caption,
    worn,
)
from stages.world.settings import WorldSettings

WORLD = WorldSettings()
SIZE = WORLD.image_size


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def one_scene(**changes: float) -> Scenes:
    """A red square of middle size in the centre of plain grey; `changes` overwrite its attributes."""
    scene = draw_scenes(WORLD, 1, random(), np.array([SHAPES.index("square")]), np.array([0]))
    plain = {"x": 0, "y": 0, "radius": 0.5, "rotation": 0, "texture": 0, "texture_strength": 0} | changes
    fixed = {"rgb": np.array([[0.9, 0.1, 0.1]]), "background": np.array([[0.4, 0.4, 0.4]])}
    return replace(scene, **fixed, **{name: np.array([value]) for name, value in plain.items()})


@pytest.fixture(scope="module")
def drawn() -> tuple[Scenes, list[str], np.ndarray]:
    rng = random(5)
    scenes = draw_scenes(WORLD, 800, rng)
    return scenes, draw_captions(WORLD, scenes, rng), render(scenes, SIZE)


def test_oracle_reads_renders_back(drawn):
    scenes, captions, images = drawn
    seen = oracle.parse(images)
    match = oracle.caption_match(seen, captions)
    assert match.both.mean() >= 0.97
    assert match.all.mean() >= 0.97
    assert np.abs(seen.x - scenes.x).mean() < 0.03
    assert np.abs(seen.y - scenes.y).mean() < 0.03
    assert np.abs(seen.log_size - np.log(scenes.radius)).mean() < 0.05


@pytest.mark.parametrize("shape", SHAPES)
def test_oracle_knows_every_shape_at_every_angle_and_size(shape):
    scenes = draw_scenes(replace_settings(rotation=3.14), 60, random(1), np.full(60, SHAPES.index(shape)))
    seen = oracle.parse(render(scenes, SIZE))
    assert (seen.shape == SHAPES.index(shape)).mean() >= 0.95
    assert (seen.colour == scenes.colour).mean() >= 0.97


def replace_settings(**changes: object) -> WorldSettings:
    return WorldSettings.model_validate(WORLD.model_dump() | changes)


def shifted(scenes: Scenes, colour: int = 0, shape: int = 0) -> list[str]:
    """Minimal captions whose words are the true ones moved on by so many places."""
    pairs = zip(scenes.colour, scenes.shape, strict=True)
    return [str(Caption(COLOUR_NAMES[(c + colour) % 8], SHAPES[(s + shape) % 6])) for c, s in pairs]


def test_wrong_captions_do_not_match(drawn):
    scenes, _, images = drawn
    seen = oracle.parse(images)
    other_shape, other_colour = shifted(scenes, shape=1), shifted(scenes, colour=1)
    assert oracle.caption_match(seen, other_shape).shape.mean() < 0.02
    assert oracle.caption_match(seen, other_shape).colour.mean() > 0.97
    assert oracle.caption_match(seen, other_colour).both.mean() < 0.02
    assert not oracle.caption_match(seen, ["a photo of a dog"] * len(images)).all.any()


def test_nothing_is_seen_where_nothing_is_drawn():
    plain = np.full((3, SIZE, SIZE, 3), 128, np.uint8)
    plain[1] = (200, 150, 150)
    plain[2] = (250, 10, 10)  # saturated, but all over the frame: a background
    seen = oracle.parse(plain)
    assert seen.empty.all()
    assert not oracle.caption_match(seen, ["a red circle"] * 3).both.any()


def test_area_of_a_circle_is_that_of_geometry():
    scene = one_scene(shape=SHAPES.index("circle"), radius=0.6)
    seen = oracle.parse(render(scene, 64))
    assert seen.area[0] == pytest.approx(np.pi * (0.86 * 0.6) ** 2 / 4, rel=0.03)


def test_a_square_turned_by_a_right_angle_is_the_same_picture():
    upright, turned = render(one_scene(), SIZE), render(one_scene(rotation=np.pi / 2), SIZE)
    assert np.abs(upright.astype(int) - turned).max() <= 1


def test_mirrored_scene_is_the_mirrored_picture():
    left, right = render(one_scene(x=-0.3), SIZE), render(one_scene(x=0.3), SIZE)
    assert np.abs(left[:, :, ::-1].astype(int) - right).max() <= 1


def test_objects_lie_inside_the_frame_and_off_the_hue_of_the_background(drawn):
    scenes, _, _ = drawn
    assert (np.abs(scenes.x) + scenes.radius <= 1).all()
    assert (np.abs(scenes.y) + scenes.radius <= 1).all()
    high, low = scenes.background.max(1), scenes.background.min(1)
    assert (high - low < (scenes.rgb.max(1) - scenes.rgb.min(1))).all()


def test_captions_are_true_and_leave_much_open(drawn):
    scenes, captions, _ = drawn
    assert describes(captions, scenes).all()
    said = [read_caption(text) for text in captions]
    minimal = np.mean([not (caption.size or caption.background) for caption in said if caption])
    assert 0.4 < minimal < 0.6
    assert not describes(captions, scenes.take(np.roll(np.arange(len(scenes)), 1))).all()


def test_every_sentence_is_read_as_it_was_written():
    prompts = all_prompts()
    assert len(prompts) == len(set(prompts)) == 9 * len(SHAPES) * len(COLOUR_NAMES)
    assert [str(read_caption(prompt)) for prompt in prompts] == prompts
    assert "an orange circle" in prompts
    assert "a small orange circle on a dark background" in prompts
    assert read_caption("a red dog") is None


def test_evaluation_prompts_cover_every_word():
    prompts = evaluation_prompts()
    assert len(prompts) == len(set(prompts)) == 24
    assert set(prompts) <= set(all_prompts())
    minimal = [prompt for prompt in prompts if prompt in all_minimal_prompts()]
    assert len(minimal) == 12
    for part in (minimal, [prompt for prompt in prompts if prompt not in minimal]):
        said = [read_caption(prompt) for prompt in part]
        assert {caption.shape for caption in said if caption} == set(SHAPES)
        assert {caption.colour for caption in said if caption} == set(COLOUR_NAMES)


def test_a_smaller_world_speaks_of_its_own_words_alone():
    small = replace_settings(shapes=("circle", "star"), colours=("red", "green", "blue"))
    assert len(all_minimal_prompts(small)) == 6
    assert set(evaluation_prompts(small)) <= set(all_prompts(small))
    scenes = draw_scenes(small, 50, random())
    assert {SHAPES[s] for s in scenes.shape} == {"circle", "star"}
    assert {COLOUR_NAMES[c] for c in scenes.colour} <= {"red", "green", "blue"}


def test_unknown_words_are_refused():
    with pytest.raises(InputError, match="did you mean 'circle'"):
        validate(WorldSettings, {"shapes": ["circel", "ring"]}, "study.yaml: world")


def test_the_seed_decides_everything():
    def made(seed: int) -> tuple[np.ndarray, list[str]]:
        rng = random(seed)
        scenes = worn(draw_scenes(WORLD, 20, rng), 0.5, rng)
        return render(scenes, SIZE, rng), draw_captions(WORLD, scenes, rng)

    assert (made(3)[0] == made(3)[0]).all()
    assert made(3)[1] == made(3)[1]
    assert (made(3)[0] != made(4)[0]).any()


def test_diversity_of_identical_pictures_is_zero():
    image = render(one_scene(), SIZE)
    assert oracle.attribute_diversity(np.repeat(image, 6, 0)) == 0
    assert oracle.attribute_diversity(image) == 0


def test_diversity_counts_what_differs():
    pair = np.concatenate([render(one_scene(x=-0.3), SIZE), render(one_scene(x=0.3), SIZE)])
    apart = 0.6 / oracle.WORLD_STD[0] / np.sqrt(7)  # only x differs
    assert oracle.attribute_diversity(pair) == pytest.approx(apart, rel=0.05)


def test_scale_of_diversity_is_that_of_the_world(drawn):
    spread = oracle.attributes(oracle.parse(drawn[2])).std(0)
    assert spread == pytest.approx(oracle.WORLD_STD, rel=0.15)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"radius": 0.7}, {"radius": 0.4}),
        ({"x": 0.0}, {"x": 0.4}),
        ({"blur": 0.0}, {"blur": 1.2}),
        ({"grain": 0.0}, {"grain": 0.1}),
        ({"texture": 0}, {"texture": 2, "texture_strength": 0.2}),
    ],
)
def test_annotators_like_what_is_said_of_them(better, worse):
    images = np.concatenate([render(one_scene(**changes), SIZE, random()) for changes in (better, worse)])
    first, second = oracle.utility(images, ["a red square"] * 2)
    assert first > second + 0.05


def test_the_caption_matters_most(drawn):
    scenes, _, images = drawn
    gap = oracle.utility(images, shifted(scenes)) - oracle.utility(images, shifted(scenes, shape=2))
    assert gap.mean() == pytest.approx(1.5, abs=0.05)


def test_votes_follow_bradley_and_terry():
    gap = np.full(20000, 0.45)
    votes = annotator.prefers_first(gap, np.zeros_like(gap), 0.3, random())
    assert votes.mean() == pytest.approx(1 / (1 + np.exp(-1.5)), abs=0.01)


def test_votes_agree_with_the_utility_as_documented():
    rng = random(2)
    shown = annotator.draw_comparisons(WORLD, all_prompts(), 1500, rng)
    a, b = (oracle.utility(render(scenes, SIZE, rng), shown.prompts) for scenes in (shown.a, shown.b))
    assert annotator.agreement(a, b, annotator.prefers_first(a, b, WORLD.annotator_noise, rng)) == pytest.approx(
        0.88, abs=0.03
    )


def test_hues_are_far_enough_apart():
    gaps = np.abs((HUES[:, None] - HUES[None] + 180) % 360 - 180) + 360 * np.eye(len(HUES))
    assert gaps.min() > 2 * 12  # twice the jitter of an object's hue either way
