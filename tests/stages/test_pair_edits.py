"""Pairs of critique and editing: what the oracle criticises, what the renderer changes, and functions of one's own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages import pictures
from stages.curate.settings import CurateSettings
from stages.errors import InputError
from stages.params import validate
from stages.world.annotator import draw_comparisons
from stages.world.editor import criticise, edited, wanted
from stages.world.oracle import caption_match, parse, utility
from stages.world.render import render
from stages.world.scene import Scenes, all_prompts, draw_scenes, read_caption
from stages.world.settings import WorldSettings
from tests.stages.curating import SHAPES_PROMPTS, curate

WORLD = WorldSettings()
PAIRS = {"kind": "shapes", "count": 60}
EDITED = {"kind": "edited", "of": "shapes"}


def scene(seed: int = 0, **attributes: Any) -> tuple[Scenes, np.ndarray]:
    """One red circle with these attributes, and its picture."""
    rng = np.random.default_rng(seed)
    drawn = draw_scenes(WORLD, 1, rng, np.array([0]), np.array([0]))
    for name, value in attributes.items():
        getattr(drawn, name)[:] = value
    return drawn, render(drawn, 64)


@pytest.fixture(scope="module")
def judged() -> tuple[np.ndarray, list[str], list[str]]:
    """Pictures as annotators see them, prompts, and critiques, of those that have one."""
    rng = np.random.default_rng(3)
    shown = draw_comparisons(WORLD, all_prompts(WORLD), 300, rng)
    images = render(shown.a, 32, rng)
    said = criticise(images, shown.prompts)
    rows = [n for n, text in enumerate(said) if text]
    assert 60 < len(rows) < 240
    return images[rows], [shown.prompts[n] for n in rows], [said[n] for n in rows]


def test_a_critique_names_what_the_picture_lacks() -> None:
    _, image = scene(radius=0.4, background=np.array([0.1, 0.1, 0.1]), texture_strength=0.0)
    said = criticise(
        np.repeat(image, 4, 0),
        ["a red circle", "a blue circle", "a large red star on a light background", "any other text"],
    )
    assert said == ["", "colour blue", "shape star, size large, background light", ""]
    assert wanted(said[2]) == {"shape": "star", "size": "large", "background": "light"}


def test_an_edited_picture_shows_what_it_lacked(judged: tuple[np.ndarray, list[str], list[str]]) -> None:
    images, prompts, said = judged
    made = edited(images, said, WORLD)
    assert made.shape == images.shape and made.dtype == np.uint8
    left = criticise(made, prompts)
    assert np.mean([not text for text in left]) > 0.85
    before, after = utility(images, prompts), utility(made, prompts)
    assert np.mean(after > before) > 0.9 and np.mean(after - before) > 1
    for name in ("colour", "shape", "size", "background"):
        asked = np.array([name in text.split() or f"{name} " in text for text in said])
        fits = getattr(caption_match(made, prompts), name)
        assert asked.sum() >= 5 and fits[asked].mean() > 0.8, name


def test_what_a_critique_does_not_ask_for_stays() -> None:
    """Another colour: place, size and shape stay, and so does every pixel away from the object."""
    _, image = scene(x=0.3, y=-0.2, radius=0.4, texture_strength=0.1)
    made = edited(image, ["colour blue"], WORLD)
    before, after = parse(image), parse(made)
    assert read_caption("a blue circle") and caption_match(after, ["a blue circle"]).both[0]
    assert abs(after.x[0] - before.x[0]) < 0.05 and abs(after.y[0] - before.y[0]) < 0.05
    assert abs(after.log_size[0] - before.log_size[0]) < 0.1
    axis = (np.arange(64) + 0.5) / 32 - 1
    away = np.hypot(axis[None] - 0.3, axis[:, None] + 0.2) > 0.6
    assert np.array_equal(made[0][away], image[0][away]) and not np.array_equal(made, image)


def test_a_picture_without_an_object_gets_one() -> None:
    grey = np.full((1, 32, 32, 3), 120, np.uint8)
    assert criticise(grey, ["a red star"]) == ["colour red, shape star"]
    made = edited(grey, ["colour red, shape star"], WORLD)
    assert criticise(made, ["a red star"]) == [""]


def test_pairs_of_a_source_of_pairs(tmp_path: Path) -> None:
    """Every image in which something is wrong is a loser, once; the curated pairs stay as they are without the
    editor's.
    """
    plain = curate(tmp_path / "plain", {"pairs": PAIRS, "prompts": SHAPES_PROMPTS, "val_share": 0.2})
    found = curate(tmp_path / "both", {"pairs": [PAIRS, EDITED], "prompts": SHAPES_PROMPTS, "val_share": 0.2})
    mine = [row for row in found.pairs if row["source"] == "edited"]
    assert [row for row in found.pairs if row["source"] == "shapes"] == plain.pairs
    images = {row["image_id"]: row for row in found.images}
    assert len({row["image_b"] for row in mine}) == len(mine) > 10
    originals = {row["image_id"] for row in plain.images}
    for row in mine:
        winner, loser = images[row["image_a"]], images[row["image_b"]]
        assert row["preference"] == 1 and row["image_b"] in originals and row["image_a"] not in originals
        assert winner["split"] == loser["split"] == "pairs" and winner["group"] == loser["group"]
        arrays = [pictures.decode(one["image"], "an image")[None] for one in (winner, loser)]
        assert criticise(arrays[1], [row["prompt"]]) != [""]
    left = {one["reason"]: one for one in found.manifest["tables"]["pairs"]["left_out"]}
    nothing = left["an image in which the critic finds nothing wrong"]
    assert nothing["source"] == "edited" and nothing["count"] > 10
    entered = found.manifest["tables"]["pairs"]["in"] - plain.manifest["tables"]["pairs"]["in"]
    assert entered + nothing["count"] == 2 * PAIRS["count"]
    few = curate(tmp_path / "few", {"pairs": [PAIRS, EDITED | {"limit": 20}], "prompts": SHAPES_PROMPTS})
    assert 0 < sum(row["source"] == "edited" for row in few.pairs) < 20


def test_functions_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They see images and prompts, and what they give is what counts: a critic's silence, and an editor's None."""
    (tmp_path / "editing.py").write_text(
        "import io\nimport numpy as np\nfrom PIL import Image\n"
        "def harsh(images, prompts):\n"
        "    return [f'not {prompt}' if n % 2 else '' for n, prompt in enumerate(prompts)]\n"
        "def invert(images, prompts, critiques, seed):\n"
        "    assert all(said == f'not {text}' for said, text in zip(critiques, prompts)) and seed == 5\n"
        "    found = []\n"
        "    for n, data in enumerate(images):\n"
        "        out = io.BytesIO()\n"
        "        Image.fromarray(255 - np.asarray(Image.open(io.BytesIO(data)))).save(out, 'PNG')\n"
        "        found.append(out.getvalue() if n else None)\n"
        "    return found\n"
        "def few(images, prompts, *more):\n    return []\n"
        "def numbers(images, prompts, *more):\n    return [1] * len(images)\n"
        "def fails(images, prompts, *more):\n    raise KeyError('x')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    own = EDITED | {"among": "images", "critic": "editing:harsh", "editor": "editing:invert", "seed": 5}
    section = {"images": {"kind": "shapes", "count": 20}, "prompts": SHAPES_PROMPTS, "val_share": 0}
    found = curate(tmp_path, section | {"pairs": own})
    images = {row["image_id"]: row for row in found.images}
    assert 0 < len(found.pairs) <= 9
    for row in found.pairs:
        made, before = (pictures.decode(images[row[side]]["image"], "an image") for side in ("image_a", "image_b"))
        assert np.array_equal(made, 255 - before) and images[row["image_b"]]["split"] == "train"
    left = {one["reason"]: one["count"] for one in found.manifest["tables"]["pairs"]["left_out"]}
    assert left == {
        "an image in which the critic finds nothing wrong": 10, "an image that the editor left as it was": 1,
    }  # fmt: skip
    for key, function, said in (
        ("critic", "few", "critic 'editing:few' returned 0 entries, expected 20"),
        ("critic", "numbers", "something else than texts"), ("editor", "numbers", "something else than bytes"),
        ("critic", "fails", "critic 'editing:fails': KeyError"), ("editor", "none", "cannot be imported"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said) as refusal:
            curate(tmp_path, section | {"pairs": own | {key: f"editing:{function}"}})
        assert "\n" not in str(refusal.value)
    renderer = {key: value for key, value in own.items() if key != "editor"}
    with pytest.raises(InputError, match="the renderer of the shapes world: expected critiques such as"):
        curate(tmp_path, section | {"pairs": renderer})
    sys.modules.pop("editing")


@pytest.mark.parametrize("more, said", [
    ({"of": "shaps"}, "unknown source of pairs that brings images 'shaps'.*'shapes'"),
    ({"of": "edited"}, "unknown source of pairs that brings images 'edited'"),
    ({"among": "images"}, "unknown source of images that brings images 'shapes'"),
    ({"critic": "here"}, "expected package.module:function"),
    ({"limit": 0}, "limit"),
])  # fmt: skip
def test_settings_that_are_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as refusal:
        validate(CurateSettings, {"pairs": [PAIRS, EDITED | more], "prompts": SHAPES_PROMPTS}, "curate")
    assert "\n" not in str(refusal.value)


def test_functions_are_known_to_the_planner() -> None:
    settings = validate(
        CurateSettings,
        {"pairs": [PAIRS, EDITED | {"critic": "mine:see", "editor": "mine:draw"}], "prompts": SHAPES_PROMPTS}, "curate",
    )  # fmt: skip
    assert settings.functions == {"pairs.1.critic": "mine:see", "pairs.1.editor": "mine:draw"}
