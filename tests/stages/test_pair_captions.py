"""Captions of the images of pairs: read from a table, written by the oracle, perturbed by a rule; kept by encode."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from stages import pictures, tables
from stages.curate import perturb
from stages.curate.settings import CurateSettings
from stages.encode.pairs import Pairs
from stages.errors import InputError
from stages.finetune.batch import LatentPairs
from stages.finetune.data import Data, suitable
from stages.models.diffusion import DiffusionModel, load_diffusion
from stages.params import validate
from stages.select import run as selection
from stages.select.pairs import Table
from stages.select.settings import SelectSettings, steps
from stages.study import load
from stages.world.captioner import describe
from stages.world.oracle import caption_match, parse
from stages.world.scene import read_caption
from stages.world.settings import WorldSettings
from tests import tiny
from tests.stages.curating import ROOT, SHAPES_PROMPTS, curate, photos, prompt_list, write_table
from tests.stages.test_encode_pairs import made, write_images

SHAPES = {"kind": "shapes", "count": 80}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    record = tiny.diffusion_folder(tmp_path_factory.mktemp("base") / "base")
    return load_diffusion(record, tiny.CPU, ("vae", "text_encoder"))


def section(**more: Any) -> dict[str, Any]:
    return {"prompts": SHAPES_PROMPTS, "val_share": 0.2, **more}


# perturbed captions


def test_a_perturbed_caption_of_the_world_differs_in_one_word(tmp_path: Path) -> None:
    found = curate(tmp_path, section(images=SHAPES, pairs={"kind": "perturbed", "each": 2}))
    images = {row["image_id"]: row for row in found.images}
    assert {row["image_a"] for row in found.pairs} <= {*images}
    for row in found.pairs:
        assert row["image_a"] == row["image_b"] and row["preference"] == 1 and row["caption_a"] == ""
        assert row["split"] == images[row["image_a"]]["split"]
        own, other = read_caption(row["prompt"]), read_caption(row["caption_b"])
        assert own is not None and other is not None
        differ = [
            name for name in ("colour", "shape", "size", "background") if getattr(own, name) != getattr(other, name)
        ]
        assert len(differ) == 1 and getattr(own, differ[0]) and getattr(other, differ[0])
    assert len({row["pair_id"] for row in found.pairs}) == len(found.pairs) > 1.5 * len(images)
    # a perturbed caption that is an evaluation prompt is one that no training may see
    leaks, rules = found.removed("pairs").get("captions", 0), found.manifest["tables"]["pairs"]
    evaluation = {row["prompt"] for row in found.prompts if row["split"] == "eval"}
    trained = {row["caption_b"] for row in found.pairs if row["split"] == "train"}
    assert leaks > 0 and not trained & evaluation and rules["in"] == leaks + len(found.pairs)


def test_a_word_of_free_text_takes_the_place_of_one_between_the_same_words() -> None:
    captions = ["a red cup on a table", "a blue cup on a table", "two dogs", "Two cats", "nothing like it"]
    world = WorldSettings()
    first = perturb.by_rule(captions, 2, 0, world)
    assert first[0] == ["a blue cup on a table"] and first[1] == ["a red cup on a table"]
    assert first[2] == ["two cats"] and first[3] == ["Two dogs"] and first[4] == []
    backwards = perturb.by_rule(captions[::-1], 2, 0, world)
    assert backwards[::-1] == first


def test_captions_without_another_word_are_counted(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    (folder / "cat.txt").write_text("some other words entirely")
    images = {"kind": "folder", "path": str(folder)}
    prompts = {
        split: {"kind": "file", "path": prompt_list(tmp_path / f"{split}.txt", [split])} for split in ("train", "eval")
    }
    found = curate(tmp_path, {"images": images, "pairs": {"kind": "perturbed"}, "prompts": prompts, "val_share": 0})
    assert len(found.pairs) == 5
    [left] = found.manifest["tables"]["pairs"]["left_out"]
    assert (left["source"], left["count"]) == ("perturbed", 1)
    words = {row["caption_b"].split()[-1] for row in found.pairs}
    assert words <= {"dog", "hen", "owl", "fox", "bee"}


def test_a_function_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "writing.py").write_text(
        "def shout(captions, each, seed):\n    return [[f'{c} and {seed}'] * each for c in captions]\n"
        "def few(captions, each, seed):\n    return []\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    pairs = {"kind": "perturbed", "function": "writing:shout", "seed": 7}
    found = curate(tmp_path, section(images=SHAPES, pairs=pairs))
    assert {row["caption_b"] for row in found.pairs} == {f"{row['prompt']} and 7" for row in found.pairs}
    for function, said in (("few", "returned 0 entries, expected"), ("none", "cannot be imported")):
        with pytest.raises(InputError, match=said) as refusal:
            curate(tmp_path, section(images=SHAPES, pairs=pairs | {"function": f"writing:{function}"}))
        assert "\n" not in str(refusal.value)
    sys.modules.pop("writing")


@pytest.mark.parametrize("more, said", [
    ({"pairs": {"kind": "perturbed"}}, "perturbed.* `images` names no source"),
    ({"images": SHAPES, "pairs": {"kind": "perturbed", "of": "shaps"}}, "unknown source of images 'shaps'.*'shapes'"),
    ({"images": SHAPES, "pairs": {"kind": "perturbed", "function": "here"}}, "expected package.module:function"),
    ({"images": SHAPES, "pairs": {"kind": "perturbed", "each": 0}}, "each"),
])  # fmt: skip
def test_settings_that_are_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as refusal:
        validate(CurateSettings, section(**more), "curate")
    assert "\n" not in str(refusal.value)


# captions of a table, and of the oracle


def test_captions_of_a_table(tmp_path: Path) -> None:
    """Empty cells are the prompt; one image under two captions is a pair, under one it is none; no leak."""
    root = photos(tmp_path / "photos", captions=False)
    rows = [
        {"prompt": "x", "chosen": a, "rejected": b, "good": first, "bad": second}
        for a, b, first, second in (
            ("cat.png", "dog.png", "a cat", "a dog"), ("cat.png", "dog.png", "a cat", "a wolf"),
            ("cat.png", "dog.png", "", ""), ("cat.png", "cat.png", "a cat", "A cat!"),
            ("cat.png", "cat.png", "a cat", ""), ("dog.png", "cat.png", "a dog", "a cat"),
            ("hen.png", "bee.png", "a prompt for EVAL", "a bee"), ("hen.png", "bee.png", "\x1b[hen", "a bee"),
        )
    ]  # fmt: skip
    prompts = {
        split: {"kind": "file", "path": prompt_list(tmp_path / f"{split}.txt", [f"a prompt for {split}"])}
        for split in ("train", "eval")
    }
    keys = {"caption_a": "good", "caption_b": "bad"}
    pairs = {"kind": "file", "path": write_table(tmp_path / "p.jsonl", rows), "folder": str(root), **keys}
    found = curate(tmp_path, {"pairs": pairs, "prompts": prompts, "val_share": 0})
    assert [(row["caption_a"], row["caption_b"]) for row in found.pairs] == [
        ("a cat", "a dog"), ("a cat", "a wolf"), ("", ""), ("a cat", "")
    ]  # fmt: skip
    assert found.removed("pairs") == {"captions": 2, "one_image": 1, "duplicates": 1}
    assert len({row["pair_id"] for row in found.pairs}) == 4
    plain = {key: value for key, value in pairs.items() if key not in keys}
    assert "captions" not in [
        each["filter"] for each in _filters(curate(tmp_path, {"pairs": plain, "prompts": prompts}))
    ]
    with pytest.raises(InputError, match="there is no 'goood' here"):
        curate(tmp_path, {"pairs": pairs | {"caption_a": "goood"}, "prompts": prompts})


def _filters(found: Any) -> list[dict[str, Any]]:
    return found.manifest["tables"]["pairs"]["filters"]


def test_the_oracle_writes_captions_of_what_it_sees(tmp_path: Path) -> None:
    plain = curate(tmp_path / "plain", section(pairs=SHAPES))
    found = curate(tmp_path / "said", section(pairs=SHAPES | {"captions": True}))
    pixels = {row["image_id"]: pictures.decode(row["image"], "test") for row in found.images}
    drawn = {(row["image_a"], row["image_b"], row["preference"]) for row in plain.pairs}
    assert {(row["image_a"], row["image_b"], row["preference"]) for row in found.pairs} <= drawn  # as without captions
    for side in "ab":
        images = np.stack([pixels[row[f"image_{side}"]] for row in found.pairs])
        said = [row[f"caption_{side}"] for row in found.pairs]
        assert said == describe(parse(images))
        match = caption_match(images, said)
        assert match.colour.mean() > 0.95 and match.size.mean() > 0.95 and match.background.mean() > 0.95
        assert np.mean([bool(read_caption(text)) for text in said]) > 0.95
    # what the annotators saw besides the prompt: the captions say it
    assert np.mean([row["caption_a"] != row["prompt"] for row in found.pairs]) > 0.5


# encode, select, score


def captioned_pairs(folder: Path) -> None:
    rows: list[dict[str, object]] = [
        {"pair_id": name, "prompt": prompt, "image_a": a, "image_b": b, "preference": share, "split": "train",
         "source": "s", "weight": 1.0, "annotator": "", "caption_a": first, "caption_b": second}
        for name, prompt, a, b, share, first, second in (
            ("q0", "a red circle", "x0", "x1", 1.0, "a round thing", "a dull thing"),
            ("q1", "a red circle", "x0", "x1", 0.25, "a round thing", "a dull thing"),
            ("q2", "a green square", "x1", "x1", 1.0, "", "a blue square"),
        )
    ]  # fmt: skip
    tables.write(folder / "pairs.parquet", tables.table(tables.CAPTIONED_PAIRS, rows), tables.CAPTIONED_PAIRS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    prompts: list[dict[str, object]] = [
        {"prompt_id": f"p{n}", "prompt": text, "split": split, "group": text, "source": "test"}
        for n, (text, split) in enumerate([("a red circle", "train"), ("an odd one", "eval")])
    ]
    tables.write(tmp_path / "prompts.parquet", tables.table(tables.PROMPTS, prompts), tables.PROMPTS)
    write_images(tmp_path, {"i0": "train", "x0": "pairs", "x1": "pairs"})
    captioned_pairs(tmp_path)
    return tmp_path


def test_encode_keeps_the_caption_of_each_image(model: DiffusionModel, folder: Path) -> None:
    encodings = made(model, folder)
    pairs = encodings.pairs("train")
    expected = [
        ("a round thing", "a dull thing"),
        ("a dull thing", "a round thing"),
        ("a green square", "a blue square"),
    ]
    for pair, texts in zip(pairs, expected, strict=True):
        assert pair.captioned
        given, _ = model.text.encode([pair.text, *texts])
        torch.testing.assert_close(encodings.text([pair, pair.winner, pair.loser]).text, given.text)
    assert [pair.winner.item_id for pair in pairs] == ["x0", "x1", "x1"]
    data = Data(
        encodings=encodings, items=encodings.prompts("train"), seed=0, batch_size=2, accumulate=1, scale=1.0,
        device=tiny.CPU, posterior=False, pairs=pairs[:2],
    )  # fmt: skip
    batch = data.batch(0, 0)
    found = batch.preferences()
    assert found.captions is not None and found.loser_text is None
    drawn = [data._drawn(data.pairs, place).item_id for place in range(2)]
    order = [[pair.item_id for pair in pairs[:2]].index(name) for name in drawn]
    given, _ = model.text.encode([expected[place][0] for place in order])
    torch.testing.assert_close(found.captions[0].text, given.text)
    assert len(suitable(pairs, True, "run")) == 3 and len(suitable(pairs, False, "run")) == 2
    with pytest.raises(InputError, match="run 'r': none of 1 training pairs has two images"):
        suitable(pairs[2:], False, "run 'r'")


def test_plain_tables_have_no_captions(model: DiffusionModel, folder: Path) -> None:
    rows = tables.read(folder / "pairs.parquet", tables.CAPTIONED_PAIRS).drop_columns(["caption_a", "caption_b"])
    plain = tables.table(tables.JUDGED_PAIRS, rows.slice(0, 2).to_pylist())
    tables.write(folder / "pairs.parquet", plain, tables.JUDGED_PAIRS)
    assert not Pairs.read(folder / "pairs.parquet").captioned
    pairs = made(model, folder).pairs("train")
    assert not any(pair.captioned for pair in pairs)
    assert {pair.winner.text_row for pair in pairs} == {pair.text_row for pair in pairs}
    with pytest.raises(InputError, match="run: none of 2 training pairs has captions of the images' own"):
        suitable(pairs, True, "run")


def test_select_passes_captions_on(folder: Path) -> None:
    table = Table(folder / "pairs.parquet")
    pairs = table.training({}, folder / "images.parquet")
    [swap] = steps(SelectSettings(steps=({"kind": "swap"},)), "select")
    selection.write(selection.select(pairs, [swap]), table, folder / "chosen.parquet", folder / "manifest.json")
    rows = tables.read(folder / "chosen.parquet", tables.CAPTIONED_PAIRS).to_pylist()
    assert [(row["preference"], row["caption_b"]) for row in rows] == [
        (0.0, "a dull thing"), (0.75, "a dull thing"), (0.0, "a blue square")
    ]  # fmt: skip


def test_batches_without_captions_are_no_batches_of_such_a_method() -> None:
    from stages.finetune.families.text_preference import captioned

    one = torch.zeros(1, 4, 8, 8)
    with pytest.raises(ValueError, match="no captions"):
        captioned(LatentPairs(one, one, one[:, 0, 0, 0], one[:, 0, 0, 0]))


# the study


@pytest.mark.parametrize("kind, pairs, said", [
    ("dcpo", {"kind": "shapes"}, "captions: is curated, but source 'shapes' of curate.pairs gives no captions"),
    ("tdpo", [{"kind": "perturbed"}, {"kind": "shapes"}], "source 'shapes' of curate.pairs gives no captions"),
    ("diffusion_dpo", {"kind": "perturbed"}, "source 'perturbed' of curate.pairs has one image with two captions"),
])  # fmt: skip
def test_methods_and_pairs_that_do_not_go_together(
    kind: str, pairs: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    content = copy.deepcopy(yaml.safe_load((ROOT / "studies" / "smoke.yaml").read_text()))
    name = next(iter(content["runs"].values()))["method"]
    curated = {} if kind == "diffusion_dpo" else {"captions": "curated"}
    content["methods"][name] = {"kind": kind, **curated}
    known, content["curate"]["pairs"] = content["curate"]["pairs"], pairs
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=said) as refusal:
        load(tmp_path / "study.yaml")
    assert "\n" not in str(refusal.value)
    content["methods"][name]["source"] = "shapes" if kind == "diffusion_dpo" else "good"
    more = [{"kind": "perturbed"}, {"kind": "shapes"}, {"kind": "shapes", "name": "good", "captions": True}]
    content["curate"]["pairs"] = [*more, *known]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    load(tmp_path / "study.yaml")
