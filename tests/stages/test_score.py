"""The score stage on a made-up world of a few images and pairs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from stages import tables
from stages.errors import InputError
from stages.models.record import ModelRecord, save
from stages.pictures import encode
from stages.rewards.base import load_reward
from stages.rewards.shapes_oracle import ShapesOracle
from stages.runtime import run_stage
from stages.score.__main__ import main
from stages.score.accuracy import agreement, pair_accuracy
from stages.score.scoring import Pairs
from stages.world.render import render
from stages.world.scene import draw_captions, draw_scenes
from stages.world.settings import WorldSettings
from tests.tiny import clip_folder

COUNT = 17


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study with images of two sizes, pairs, a CLIP model and the oracle."""
    monkeypatch.setenv("LINEAGE", "off")
    settings, rng = WorldSettings(), np.random.default_rng(0)
    scenes = draw_scenes(settings, COUNT, rng)
    captions = draw_captions(settings, scenes, rng)
    pixels = [*render(scenes.take(slice(0, 12)), 32, rng), *render(scenes.take(slice(12, COUNT)), 24, rng)]
    images = [
        {
            "image_id": f"i{n}", "caption": captions[n], "image": encode(pixels[n]), "width": pixels[n].shape[1],
            "height": pixels[n].shape[0], "split": "pairs" if n == 16 else "train", "group": f"g{n}",
            "source": "test", "attributes": None,
        }
        for n in range(COUNT)
    ]  # fmt: skip
    tables.write(tmp_path / "images.parquet", tables.table(tables.IMAGES, images), tables.IMAGES)
    ends = [(0, 1, 1.0), (2, 13, 0.0), (1, 2, 0.7), (5, 5, 1.0), (16, 4, 0.5), (3, 0, 0.2)]
    write_pairs(tmp_path, captions, ends)
    save(clip_folder(tmp_path / "clip", name="proxy"), tmp_path / "proxy.json")
    save(ModelRecord(name="oracle", kind="shapes_oracle"), tmp_path / "oracle.json")
    study = {"study": {"name": "t"}, "score": {"rewards": ["proxy", "oracle"], "batch_size": 64}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(study))
    return tmp_path


def write_pairs(folder: Path, captions: list[str], ends: list[tuple[int, int, float]], split: str = "val") -> None:
    rows = [
        {
            "pair_id": f"p{n}", "prompt": captions[n % 4], "image_a": f"i{a}", "image_b": f"i{b}", "preference": share,
            "split": "train" if n == len(ends) - 1 else split, "source": "test",
        }
        for n, (a, b, share) in enumerate(ends)
    ]  # fmt: skip
    tables.write(folder / "pairs.parquet", tables.table(tables.PAIRS, rows), tables.PAIRS)


def score(
    folder: Path, reward: str = "proxy", out: str = "scores"
) -> tuple[list[dict[str, object]], dict[str, object]]:
    import sys

    sys.argv = [
        "score", "--params", f"{folder}/params.yaml", "--reward", reward, "--model", f"{folder}/{reward}.json",
        "--images", f"{folder}/images.parquet", "--pairs", f"{folder}/pairs.parquet",
        "--scores", f"{folder}/{out}.parquet", "--accuracy", f"{folder}/{out}.json",
    ]  # fmt: skip
    main()
    rows = tables.read(folder / f"{out}.parquet", tables.SCORES).to_pylist()
    return rows, json.loads((folder / f"{out}.json").read_text())


def direct(folder: Path, reward: str) -> Callable[[str, str], float]:
    """The reward of one image alone."""
    from stages.models.record import load

    model = load_reward(load(folder / f"{reward}.json"))
    images = {
        row["image_id"]: row["image"] for row in tables.read(folder / "images.parquet", tables.IMAGES).to_pylist()
    }

    def of(image: str, text: str) -> float:
        from stages.pictures import tensor

        with torch.no_grad():
            return float(model(tensor([images[image]], image), [text]))

    return of


@pytest.mark.parametrize("reward", ["proxy", "oracle"])
def test_every_image_and_both_sides_of_every_pair_get_their_own_score(world: Path, reward: str) -> None:
    rows, _ = score(world, reward)
    of = direct(world, reward)
    every = tables.read(world / "images.parquet", tables.IMAGES).to_pylist()
    images = {row["image_id"]: row["caption"] for row in every if row["split"] == "train"}
    assert len(images) == COUNT - 1
    pairs = {row["pair_id"]: row for row in tables.read(world / "pairs.parquet", tables.PAIRS).to_pylist()}
    assert [row["item_id"] for row in rows if row["kind"] == "image"] == list(images)
    assert [(row["item_id"], row["side"]) for row in rows if row["kind"] == "pair"] == [
        (pair, side) for pair in pairs for side in "ab"
    ]
    for row in rows:
        item = str(row["item_id"])
        if row["kind"] == "image":
            wanted = of(item, images[item])
        else:
            wanted = of(pairs[item][f"image_{row['side']}"], pairs[item]["prompt"])
        assert row["score"] == pytest.approx(wanted, abs=1e-5)
        assert row["reward"] == reward


def test_batch_size_does_not_change_scores(world: Path) -> None:
    whole, accuracy = score(world)
    study = yaml.safe_load((world / "params.yaml").read_text())
    study["score"]["batch_size"] = 3
    (world / "params.yaml").write_text(yaml.safe_dump(study))
    pieces, again = score(world, out="pieces")
    assert [(r["kind"], r["item_id"], r["side"]) for r in whole] == [
        (r["kind"], r["item_id"], r["side"]) for r in pieces
    ]
    np.testing.assert_allclose(
        np.array([r["score"] for r in whole], float), np.array([r["score"] for r in pieces], float), atol=1e-6
    )
    assert again["accuracy"] == pytest.approx(accuracy["accuracy"])


def test_accuracy_is_the_weighted_share_of_agreement(world: Path) -> None:
    rows, found = score(world)
    scores = {(r["item_id"], r["side"]): float(str(r["score"])) for r in rows if r["kind"] == "pair"}
    total = weights = 0.0
    for row in tables.read(world / "pairs.parquet", tables.PAIRS).to_pylist():
        gap = scores[row["pair_id"], "a"] - scores[row["pair_id"], "b"]
        weight = abs(2 * row["preference"] - 1)
        agrees = 0.5 if gap == 0 else float((gap > 0) == (row["preference"] > 0.5))
        if row["split"] == "val" and row["image_a"] != row["image_b"]:
            total, weights = total + weight * agrees, weights + weight
    assert found["accuracy"] == pytest.approx(total / weights)
    assert (found["pairs"], found["train_pairs"], found["reward"]) == (
        3,
        1,
        "proxy",
    )  # of five, one is undecided and one is of an image with itself
    low, high = float(str(found["low"])), float(str(found["high"]))
    assert 0 <= low <= float(str(found["accuracy"])) <= high <= 1


def test_agreement_of_ties_and_soft_votes() -> None:
    scores = np.array([[2.0, 1.0], [2.0, 1.0], [1.0, 1.0], [0.0, 3.0], [0.0, 3.0]])
    agrees, weights = agreement(scores, np.array([1.0, 0.1, 0.9, 0.5, 0.25]))
    assert agrees[[0, 1, 2, 4]].tolist() == [1.0, 0.0, 0.5, 1.0]
    assert weights.tolist() == pytest.approx([1.0, 0.8, 0.8, 0.0, 0.5])


def test_a_reward_that_knows_the_votes_is_right_and_one_that_does_not_is_not() -> None:
    rng = np.random.default_rng(0)
    votes = rng.integers(0, 2, 400).astype(float)
    pairs = Pairs(
        Path("p"),
        [str(n) for n in range(400)],
        [str(n % 40) for n in range(400)],
        ["val"] * 400,
        votes,
        [("a", "b")] * 400,
    )
    pairs.scores = np.stack([votes, 1 - votes], 1)
    assert pair_accuracy(pairs)["accuracy"] == 1.0
    pairs.scores = rng.normal(size=(400, 2))
    found = pair_accuracy(pairs)
    mean, low, high = (float(str(found[name])) for name in ("accuracy", "low", "high"))
    assert abs(mean - 0.5) < 0.08 and 0.06 < high - low < 0.14  # 2 * 1.96 * 0.5 / sqrt(400) = 0.098


def test_without_pairs_there_is_no_accuracy(world: Path) -> None:
    write_pairs(world, ["a red circle"] * 4, [])
    rows, found = score(world)
    assert len(rows) == COUNT - 1
    assert (found["pairs"], found["accuracy"], found["low"], found["train_accuracy"]) == (0, None, None, None)


def refused(world: Path, message: str, **more: str) -> None:
    with pytest.raises(InputError, match=message):
        score(world, out="refused", **more)
    assert not list(world.glob("refused*")) and not list(world.glob(".refused*"))


def test_a_pair_that_names_a_missing_image_is_refused(world: Path) -> None:
    write_pairs(world, ["a red circle"] * 4, [(0, 1, 1.0), (2, 99, 1.0), (3, 4, 1.0)])
    refused(world, r"pairs.parquet: pair p1 names image 'i99', which is not in .*images.parquet")


def test_votes_outside_the_range_are_refused(world: Path) -> None:
    write_pairs(world, ["a red circle"] * 4, [(0, 1, 1.5), (3, 4, 1.0)])
    refused(world, r"pair p0: preference 1.5, expected a share of votes in \[0, 1\]")


def test_an_unreadable_image_is_refused_by_name(world: Path) -> None:
    rows = tables.read(world / "images.parquet", tables.IMAGES).to_pylist()
    rows[7]["image"] = b"no image"
    tables.write(world / "images.parquet", tables.table(tables.IMAGES, rows), tables.IMAGES)
    refused(world, r"images.parquet: image i7: not a readable image")


def test_a_reward_that_gives_no_number_is_refused(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = lambda self, images, prompts: torch.full((len(prompts),), torch.nan)  # noqa: E731
    monkeypatch.setattr(ShapesOracle, "__call__", broken)
    refused(world, "reward 'oracle': gave no finite number for image i0", reward="oracle")


def test_an_unknown_reward_ends_with_one_line_and_code_2(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_stage(lambda: score(world, "proxi"))  # type: ignore[arg-type]
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: --reward: 'proxi' is not in score.rewards; did you mean 'proxy'?\n"
