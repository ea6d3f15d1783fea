"""The emoji world: what codes say, statistics in closed form, what the oracle sees, and what annotators prefer."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stages import sight
from stages.curate.left_out import LeftOut
from stages.emoji import annotator, statistics, taste
from stages.emoji.names import EVALUATION, Meaning, caption, meaning
from stages.emoji.oracle import Oracle, Seen
from stages.emoji.packages import Wanted, entries
from stages.errors import InputError
from stages.models.record import ModelRecord, describe
from stages.nearest import entropy
from stages.prepare import quality
from stages.rewards.base import load_reward, require_oracle
from tests import emoji_packages
from tests.emoji_packages import FOOD, PEOPLE
from tests.stages.curating import curate


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return emoji_packages.write(tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="module")
def oracle(root: Path) -> Oracle:
    return Oracle(entries(root, Wanted(["google", "twitter"], [PEOPLE, FOOD]), LeftOut()))


def rows(oracle: Oracle, **known: str) -> list[int]:
    """Real images of which all this is known."""
    return [
        n for n, each in enumerate(oracle.about) if all(getattr(each, key) == value for key, value in known.items())
    ]


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("WOMAN: RED HAIR", "woman red hair"),
        ("BREAST-FEEDING", "breast feeding"),
        ("FAMILY: MAN, WOMAN, BOY", "family man woman boy"),
        ("COUPLE_WITH  HEART", "couple with heart"),
    ],
)
def test_captions_have_words_only(name: str, text: str) -> None:
    assert caption(name) == text


@pytest.mark.parametrize(
    ("code", "text", "concept", "gender"),
    [
        ("1F469-200D-2708-FE0F", "woman pilot", "1F9D1-200D-2708", "woman"),
        ("1F9D1-200D-2708-FE0F", "pilot", "1F9D1-200D-2708", ""),
        ("1F3C3-200D-2640-FE0F", "woman running", "1F3C3", "woman"),
        ("1F3C3-200D-2642-FE0F-200D-27A1-FE0F", "man running facing right", "1F3C3-200D-27A1", "man"),
        ("1F3C3", "runner", "1F3C3", ""),
        ("1F466", "boy", "1F9D2", "man"),
        ("1F473", "man with turban", "1F473", "man"),
        ("1F468-200D-2764-FE0F-200D-1F468", "couple with heart man man", "1F468-200D-2764-200D-1F468", ""),
        ("1F468-200D-1F467", "family man girl", "1F468-200D-1F467", ""),
        ("1F350", "pear", "1F350", ""),
    ],
)
def test_a_code_says_concept_and_gender(code: str, text: str, concept: str, gender: str) -> None:
    assert meaning(code, text) == Meaning(concept, gender)


# --- statistics -----------------------------------------------------------------------------------------------------


def test_colourfulness_of_two_halves_is_the_published_formula() -> None:
    image = np.zeros((1, 4, 4, 3), np.uint8)
    image[:, :, 2:] = (200, 100, 40)
    rg, yb = (200 - 100) / 2, (150 - 40) / 2  # mean and deviation alike, since half of the pixels are 0
    expected = math.hypot(rg, yb) + 0.3 * math.hypot(rg, yb)
    assert statistics.colourfulness(image) == pytest.approx([expected], rel=1e-5)
    assert statistics.colourfulness(np.full((1, 4, 4, 3), 90, np.uint8)) == pytest.approx([0])


def test_contrast_is_the_deviation_of_brightness() -> None:
    image = np.zeros((1, 2, 2, 3), np.uint8)
    image[0, 0] = 255
    assert statistics.contrast(image) == pytest.approx([0.5], rel=1e-5)


@pytest.mark.parametrize("factor", [0.25, 0.5, 1.0])
def test_sharpness_is_the_share_of_the_edges_that_is_there(factor: float) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1)).repeat(3, -1)
    faded = (levels * factor).astype(np.uint8)
    sharpness, excess = statistics.agreement(faded, levels.astype(np.uint8))
    assert sharpness == pytest.approx(np.full(3, factor), abs=0.01)
    assert excess == pytest.approx(np.zeros(3), abs=0.02)


def test_grain_is_excess_and_not_sharpness(oracle: Oracle) -> None:
    clean = oracle.images[:4]
    grain = np.random.default_rng(1).normal(0, 12, clean.shape)
    sharpness, excess = statistics.agreement(np.clip(clean + grain, 0, 255).astype(np.uint8), clean)
    assert abs(sharpness - 1).max() < 0.15
    assert excess.min() > 0.2


# --- the oracle -----------------------------------------------------------------------------------------------------


def test_real_images_are_seen_as_what_they_are(oracle: Oracle) -> None:
    captions = [about.caption for about in oracle.about]
    seen = oracle.see(oracle.images, captions)
    assert (seen.nearest == np.arange(len(captions))).all()
    assert (seen.distance == 0).all()
    assert seen.right.all()
    assert seen.sharpness == pytest.approx(np.ones(len(captions)))
    assert seen.excess == pytest.approx(np.zeros(len(captions)), abs=1e-6)


def test_distance_is_the_root_mean_square_of_pixels(oracle: Oracle) -> None:
    darker = np.maximum(oracle.images[:1].astype(np.int16) - 3, 0).astype(np.uint8)
    apart = (darker.astype(float) - oracle.images[:1]) / 255
    assert oracle.see(darker, ["pear"]).distance == pytest.approx([np.sqrt(np.square(apart).mean())])


def test_a_name_without_gender_is_shown_by_every_gender_and_one_with_it_by_one(oracle: Oracle) -> None:
    shown = [rows(oracle, caption=name)[0] for name in ("pilot", "man pilot", "woman pilot", "raised hand")]
    images = oracle.images[shown]
    assert oracle.see(images, ["pilot"] * 4).right.tolist() == [True, True, True, False]
    assert oracle.see(images, ["woman pilot"] * 4).right.tolist() == [False, False, True, False]
    assert not oracle.see(images, ["no emoji at all"] * 4).right.any()


def test_diversity_is_the_entropy_of_what_the_name_leaves_open(oracle: Oracle) -> None:
    google = rows(oracle, caption="woman pilot", vendor="google")
    twitter = rows(oracle, caption="woman pilot", vendor="twitter")
    four = len(google)
    found = oracle.see(oracle.images[google + twitter], ["woman pilot"] * 2 * four).diversity()
    assert found["tone_entropy"] == pytest.approx(math.log(four))
    assert found["style_entropy"] == pytest.approx(math.log(2))
    assert "gender_entropy" not in found
    assert found["attribute_diversity"] == pytest.approx(math.log(four) + math.log(2))
    people = [rows(oracle, caption=name, vendor="google", tone="dark")[0] for name in ("man pilot", "woman pilot")]
    found = oracle.see(oracle.images[people], ["pilot"] * 2).diversity()
    assert (found["tone_entropy"], found["style_entropy"]) == (0, 0)
    assert found["gender_entropy"] == pytest.approx(math.log(2))
    pear = rows(oracle, caption="pear")
    assert set(oracle.see(oracle.images[pear], ["pear"] * 2).diversity()) == {"style_entropy", "attribute_diversity"}


def test_open_attributes_are_one_hot(oracle: Oracle) -> None:
    shown = [rows(oracle, caption="pilot", tone=tone)[0] for tone in ("dark", "dark", "light")]
    found = oracle.see(oracle.images[shown], ["pilot"] * 3).open_attributes()
    assert set(found) == {"style", "tone", "gender"}
    assert all((values.sum(1) == 1).all() for values in found.values())
    apart = np.square(found["tone"][:, None] - found["tone"]).sum(-1) / 2
    assert apart.tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 0]]


def test_entropy_of_shares() -> None:
    assert entropy(np.array([1, 1, 2, 2])) == pytest.approx(math.log(2))
    assert entropy(np.array([3, 3, 3])) == 0


def test_images_of_another_size_are_refused(oracle: Oracle) -> None:
    with pytest.raises(InputError, match="16x16 pixels, but the real ones"):
        oracle.see(np.zeros((1, 16, 16, 3), np.uint8), ["pear"])


# --- taste ----------------------------------------------------------------------------------------------------------


def seen_pair(oracle: Oracle, **change: float) -> Seen:
    """A real image twice, the second time with other statistics."""
    seen = oracle.see(oracle.images[[0, 0]], ["man pilot"] * 2)
    return replace(seen, **{name: np.array([getattr(seen, name)[0], value]) for name, value in change.items()})


@pytest.mark.parametrize("chosen", taste.TASTES)
@pytest.mark.parametrize("change", [{"right": False}, {"distance": 0.25}])
def test_every_taste_dislikes_what_is_wrong_or_broken(oracle: Oracle, chosen, change) -> None:
    first, second = taste.utility(seen_pair(oracle, **change), chosen)
    assert first > second + 1


@pytest.mark.parametrize(
    ("change", "liked_by"),
    [
        ({"colourfulness": 150.0}, {"coarse", "both"}),
        ({"contrast": 0.38}, {"coarse", "both"}),
        ({"sharpness": 1.15}, {"fine", "both"}),
        ({"tone": 1}, set()),
        ({"gender": 1}, set()),
        ({"vendor": 1}, set()),
    ],
)
def test_a_taste_has_its_own_terms_and_none_of_tone_gender_or_vendor(oracle: Oracle, change, liked_by) -> None:
    moved = {name for name in taste.TASTES if np.ptp(taste.utility(seen_pair(oracle, **change), name)) > 1e-9}
    assert moved == liked_by


def test_annotators_vote_as_bradley_and_terry_say() -> None:
    rng = np.random.default_rng(0)
    shares = annotator.preference(np.full(4000, 1.0), np.zeros(4000), 0.7, 1, rng)
    expected = 1 / (1 + math.exp(-1 / 0.7))
    assert shares.mean() == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 4000))
    assert set(annotator.preference(np.zeros(50), np.zeros(50), 1.0, 2, rng)) <= {0.0, 0.5, 1.0}


def test_annotators_are_shown_no_evaluation_prompt_and_mostly_what_is_asked(oracle: Oracle) -> None:
    shown = annotator.draw_comparisons(oracle, 300, np.random.default_rng(0))
    assert not {*shown.prompts} & {*EVALUATION}
    assert shown.a.shape == (300, 64, 64, 3)
    wrong = [~oracle.see(side, shown.prompts).right for side in (shown.a, shown.b)]
    assert 0.05 < (wrong[0] | wrong[1]).mean() < 0.5


def test_a_base_is_judged_by_the_oracle(record: ModelRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base that draws women for every pilot, each time in another tone, and pears."""
    model = require_oracle(load_reward(record))
    real = Oracle.load(record.path + "/images.parquet")
    women = rows(real, caption="woman pilot", vendor="google")
    shown = [*women, *rows(real, caption="pear")[:1] * len(women)]
    monkeypatch.setattr(quality, "draw", lambda pipeline, prompts, guidance, steps, seed: real.images[shown])
    judge = quality.by_oracle(model, ["pilot", "raised hand"])
    found = quality.base_scores(None, judge, [1.0], len(women))["1"]  # type: ignore[arg-type]
    assert found["caption_accuracy"] == 0.5
    assert found["tone_entropy"] == pytest.approx(math.log(len(women)) / 2)
    assert found["gender_entropy"] == 0


# --- the reward -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def record(root: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelRecord:
    folder = tmp_path_factory.mktemp("world")
    source = {"kind": "emoji", "path": str(root), "categories": [PEOPLE, FOOD], "subcategories": None}
    prompts = {part: source | {"part": part} for part in ("train", "eval")}
    curate(folder, {"images": source, "prompts": prompts, "filters": {"leakage": False}, "val_share": 0})
    return describe("oracle", "nearest_image", folder / "images.parquet")


def test_the_reward_is_the_utility_and_says_its_taste(record: ModelRecord) -> None:
    images = torch.rand((3, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    prompts = ["pear", "pilot", "raised hand"]
    found = {}
    for name in taste.TASTES:
        model = require_oracle(load_reward(replace(record, options={"taste": name})))
        seen = model.see(images, prompts)
        found[name] = model(images, prompts)
        assert torch.equal(found[name], model.utility(seen, prompts))
        assert not model.differentiable
    assert not torch.equal(found["coarse"], found["fine"])
    with pytest.raises(InputError, match=r"options\.taste"):
        load_reward(replace(record, options={"taste": "sour"}))


def test_what_was_seen_survives_being_taken_apart(record: ModelRecord) -> None:
    model = require_oracle(load_reward(record))
    images = torch.rand((4, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    seen = model.see(images, ["pear"] * 4)
    halves = [sight.take(seen, np.arange(*part)) for part in ((0, 2), (2, 4))]
    again = sight.restore("nearest_image", sight.arrays(sight.join(halves)))
    assert type(again) is Seen
    for name, values in sight.arrays(seen).items():
        assert (values == sight.arrays(again)[name]).all()
    with pytest.raises(InputError, match="run measure judge again"):
        sight.restore("shapes_oracle", sight.arrays(seen))
    with pytest.raises(InputError, match="says nothing of what it sees"):
        sight.restore("open_clip", {})
