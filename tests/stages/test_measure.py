"""The measure stage on made-up images of two runs."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from stages import tables
from stages.errors import InputError
from stages.measure.__main__ import main
from stages.measure.bootstrap import interval
from stages.measure.evaluation import evaluation_of
from stages.measure.expected import expected
from stages.measure.metrics import fid, kid
from stages.measure.metrics.diversity import pairwise_diversity
from stages.measure.settings import PASSED, PASSED_IMAGES
from stages.measure.statistics import directions, reference
from stages.models.record import ModelRecord, load, save
from stages.pictures import encode, tensor
from stages.rewards.base import load_reward
from stages.world import oracle
from stages.world.render import render
from stages.world.scene import all_minimal_prompts, draw_captions, draw_scenes
from stages.world.settings import WorldSettings
from tests.samples import PLAIN
from tests.tiny import clip_folder

PROMPTS, SAMPLES = all_minimal_prompts()[:40:8], 3
MEASURE = {
    "rewards": ["proxy", "oracle", "clip"], "text_image": "clip",
    "features": {"patch": "patches", "clip": "embedding", "proxy": "embedding"},
    "set_metrics": ["fid", "kid", "precision", "recall", "coverage", "vendi"],
    "neighbours": 2, "bootstrap": 200, "batch_size": 64,
}  # fmt: skip
KEYS = ["strategy", "setting", "metric", "prompt_id", "sample"]


def write_images(folder: Path, count: int = 30) -> None:
    settings, rng = WorldSettings(), np.random.default_rng(1)
    scenes = draw_scenes(settings, count, rng)
    pixels, captions = render(scenes, 32, rng), draw_captions(settings, scenes, rng)
    rows = [
        {
            "image_id": f"i{n}", "caption": captions[n], "image": encode(pixels[n] if n % 5 else pixels[n, 2:]),
            "width": 32, "height": 32 if n % 5 else 30, "split": "pairs" if n == 1 else "train", "group": f"g{n}",
            "source": "test", "attributes": None,
        }
        for n in range(count)
    ]  # fmt: skip
    tables.write(folder / "images.parquet", tables.table(tables.IMAGES, rows), tables.IMAGES)


def made_images(run: str, settings: Sequence[tuple[str, str, float]], seed: int) -> list[dict[str, Any]]:
    """Rows of a samples table, in no particular order."""
    world, rng = WorldSettings(), np.random.default_rng(seed)
    pixels = render(draw_scenes(world, len(settings) * len(PROMPTS) * SAMPLES, rng), 32, rng)
    rows = []
    for strategy, setting, value in settings:
        for number, prompt in enumerate(PROMPTS):
            for sample in range(SAMPLES):
                image = encode(pixels[len(rows)])
                rows.append({
                    "run": run, "method": run, "train_seed": 0, "strategy": strategy, "setting": setting,
                    "value": value, "prompt_id": f"p{number}", "prompt": prompt, "sample": sample, "image": image,
                    "nfe": 20, "seconds": 0.1, **PLAIN,
                })  # fmt: skip
    return [rows[index] for index in rng.permutation(len(rows))]


def write_samples(folder: Path, rows: list[dict[str, Any]], run: str) -> None:
    tables.write(folder / f"{run}.samples.parquet", tables.table(tables.SAMPLES, rows), tables.SAMPLES)


def write_study(folder: Path, **changes: object) -> None:
    study = {
        "study": {"name": "t", "seed": 3}, "sample": {"steps": 20, "sampler": "ddpm", "guidance": [1.0]},
        "measure": MEASURE | changes,
    }  # fmt: skip
    (folder / "params.yaml").write_text(yaml.safe_dump(study))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("proxy", "clip", "patch")):
        save(clip_folder(folder / name, seed, name), folder / f"{name}.json")
    save(ModelRecord(name="oracle", kind="shapes_oracle"), folder / "oracle.json")
    return folder


@pytest.fixture
def world(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LINEAGE", "off")
    write_study(tmp_path)
    write_images(tmp_path)
    write_samples(tmp_path, made_images("base", [("guidance", "g=1", 1.0), ("guidance", "g=2", 2.0)], 5), "base")
    write_samples(tmp_path, made_images("refl-s0", [("tuned", "tuned", 0.0), ("combined", "k=4", 4.0)], 6), "refl-s0")
    return tmp_path


def call(folder: Path, *words: str) -> None:
    sys.argv = ["measure", *words, "--params", f"{folder}/params.yaml"]
    main()


def make_reference(folder: Path, models: Path) -> None:
    call(
        folder, "reference", "--images", f"{folder}/images.parquet", "--models", str(models),
        "--features", f"{folder}/reference.safetensors",
    )  # fmt: skip


def measure(folder: Path, models: Path, run: str = "base", out: str | None = None) -> tuple[Any, Any]:
    out = out or run
    call(
        folder, "samples", "--run", run, "--samples", f"{folder}/{run}.samples.parquet", "--models", str(models),
        "--reference", f"{folder}/reference.safetensors", "--measures", f"{folder}/{out}.parquet",
        "--summary", f"{folder}/{out}.summary.parquet",
    )  # fmt: skip
    rows = tables.read(folder / f"{out}.parquet", tables.MEASURES).to_pandas()
    return rows, tables.read(folder / f"{out}.summary.parquet", tables.SUMMARY).to_pandas()


def samples_of(folder: Path, run: str = "base") -> Any:
    return tables.read(folder / f"{run}.samples.parquet", tables.SAMPLES).to_pandas()


def test_values_of_every_image_are_those_of_the_models(world: Path, models: Path) -> None:
    make_reference(world, models)
    rows, _ = measure(world, models)
    samples = samples_of(world)
    images = tensor(samples["image"], "samples")
    with torch.no_grad():
        for metric, name in (("proxy", "proxy"), ("oracle", "oracle"), ("clip", "clip"), ("clipscore", "clip")):
            wanted = load_reward(load(models / f"{name}.json"))(images, list(samples["prompt"])).double().numpy()
            found = rows[rows["metric"] == metric].merge(
                samples.assign(wanted=wanted)[["setting", "prompt_id", "sample", "wanted"]],
                on=["setting", "prompt_id", "sample"],
            )
            assert len(found) == len(samples)
            np.testing.assert_allclose(found["score"], found["wanted"], atol=2e-6)
    seen = oracle.caption_match((images.permute(0, 2, 3, 1) * 255).round().byte().numpy(), list(samples["prompt"]))
    assert rows.loc[rows["metric"] == "caption_accuracy", "score"].sum() == seen.both.sum()


def test_values_of_every_prompt_come_from_its_images_alone(world: Path, models: Path) -> None:
    make_reference(world, models)
    rows, _ = measure(world, models)
    clip: Any = load_reward(load(models / "clip.json"))
    patch: Any = load_reward(load(models / "patch.json"))
    for (setting, prompt), group in samples_of(world).groupby(["setting", "prompt_id"]):
        images = tensor(group["image"], "samples")
        with torch.no_grad():
            wanted = {
                "clip_diversity": pairwise_diversity(clip.embed(images)[:, None].numpy()),
                "patch_diversity": pairwise_diversity(patch.patches(images).numpy()),
                "attribute_diversity": oracle.attribute_diversity(
                    (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
                ),
            }
        mine = rows[(rows["setting"] == setting) & (rows["prompt_id"] == prompt) & rows["sample"].isna()]
        found = dict(zip(mine["metric"], mine["score"], strict=True))
        passed = {name for name in found if name.endswith(PASSED)}
        assert found.keys() - passed == {*wanted, "proxy_diversity", "vendi", PASSED_IMAGES}
        for name, value in wanted.items():
            assert found[name] == pytest.approx(value, abs=1e-6)


def test_diversity_of_images_that_pass_is_that_of_these_alone(world: Path, models: Path) -> None:
    """A floor at the median of a reward, so that prompts keep none to all of their three images."""
    make_reference(world, models)
    rows, _ = measure(world, models)
    floor = float(rows.loc[rows["metric"] == "proxy", "score"].median())
    write_study(world, passing={"metric": "proxy", "least": floor})
    rows, _ = measure(world, models)
    clip: Any = load_reward(load(models / "clip.json"))
    counts = []
    for (setting, prompt), group in samples_of(world).groupby(["setting", "prompt_id"]):
        mine = rows[(rows["setting"] == setting) & (rows["prompt_id"] == prompt)]
        scores = mine[mine["metric"] == "proxy"].set_index("sample")["score"]
        kept = group[[scores[sample] >= floor for sample in group["sample"]]]
        found = mine[mine["sample"].isna()].set_index("metric")["score"]
        assert found[PASSED_IMAGES] == len(kept)
        counts.append(len(kept))
        if len(kept) < 2:
            assert f"clip_diversity{PASSED}" not in found
            continue
        with torch.no_grad():
            wanted = pairwise_diversity(clip.embed(tensor(kept["image"], "samples"))[:, None].numpy())
        assert found[f"clip_diversity{PASSED}"] == pytest.approx(wanted, abs=1e-6)
    assert min(counts) < 2 <= max(counts)
    write_study(world, passing=None)
    assert not [name for name in measure(world, models)[0]["metric"].unique() if "passed" in name]
    write_study(world, passing={"metric": "sharpness"})
    with pytest.raises(InputError, match=r"measure.passing.metric: 'sharpness' is no measured value of an image"):
        measure(world, models)
    write_study(world)


def test_summary_is_the_mean_over_prompts_with_its_interval(world: Path, models: Path) -> None:
    make_reference(world, models)
    rows, summary = measure(world, models, "refl-s0")
    assert set(summary["setting"]) == {"tuned", "k=4"} and set(summary["run"]) == {"refl-s0"}
    for row in summary.itertuples():
        mine = rows[(rows["setting"] == row.setting) & (rows["metric"] == row.metric)]
        if mine["prompt_id"].isna().all():
            assert len(mine) == 1 and row.mean == mine["score"].iloc[0]
            assert row.low <= row.mean <= row.high
            assert row.metric == "kid" or (row.low >= 0 and (row.metric == "fid" or row.high <= 1))
        else:
            wanted = interval({p: g["score"].tolist() for p, g in mine.groupby("prompt_id")}, 200, 0.95, seed=3)
            assert (row.mean, row.low, row.high) == pytest.approx((wanted.mean, wanted.low, wanted.high))
        assert row.n_prompts == len(PROMPTS) or row.metric.endswith(PASSED)
    order = list(summary.loc[summary["setting"] == "tuned", "metric"])
    assert order[:4] == ["proxy", "oracle", "clip", "clipscore"] and order[-5:] == [
        "fid", "kid", "precision", "recall", "coverage",
    ]  # fmt: skip


def test_intervals_of_set_metrics_leave_out_whole_prompts(world: Path, models: Path) -> None:
    """The jackknife over the five prompts, from embeddings of the images and those of the reference."""
    from safetensors.numpy import load_file

    make_reference(world, models)
    _, summary = measure(world, models, "refl-s0")
    mine = samples_of(world, "refl-s0").query("strategy == 'tuned'").reset_index(drop=True)
    found = load_reward(load(models / "clip.json"), torch.device("cpu")).embed(tensor(list(mine["image"]), "test"))  # type: ignore[attr-defined]
    features = directions(found.detach().numpy())
    real = reference(load_file(world / "reference.safetensors")["features"], 2)
    prompts = sorted(set(mine["prompt_id"]))
    for name, metric in (("fid", fid.metric), ("kid", kid.metric)):
        without = [metric(features, real)(np.flatnonzero(mine["prompt_id"] != prompt)) for prompt in prompts]
        error = np.sqrt(4 / 5 * np.square(np.array(without) - np.mean(without)).sum())
        row = summary[(summary["strategy"] == "tuned") & (summary["metric"] == name)].iloc[0]
        assert row["high"] - row["mean"] == pytest.approx(2.7764 * error, rel=2e-3)  # Student's quantile of 4 degrees


def test_curated_images_as_samples_are_at_no_distance(world: Path, models: Path) -> None:
    """Set metrics of the very images of the reference: nothing is lost between the two subcommands."""
    make_reference(world, models)
    real: Any = tables.read(world / "images.parquet", tables.IMAGES).to_pandas()
    real = real[real["height"] == 32].reset_index()
    write_images(world, 24)
    rows = made_images("base", [("guidance", "g=1", 1.0), ("guidance", "g=2", 2.0)], 5)[: len(real)]
    for number, row in enumerate(rows):
        row |= {"image": real["image"][number], "setting": "g=1", "value": 1.0, "sample": number}
        row |= {"prompt_id": "p0", "prompt": PROMPTS[0]}
    write_samples(world, rows, "base")
    found = measure(world, models)[1].set_index("metric")["mean"]
    assert found["precision"] == 1.0
    assert found["coverage"] > 0.9 and found["fid"] < 0.05 * float(np.square(tables_spread(world)).sum())


def test_features_may_be_compared_as_they_are(world: Path, models: Path) -> None:
    from safetensors.numpy import load_file

    lengths = []
    for scaled in (True, False):
        write_study(world, directions=scaled)
        make_reference(world, models)
        measure(world, models)
        lengths.append(np.linalg.norm(load_file(world / "reference.safetensors")["features"], axis=1))
    np.testing.assert_allclose(lengths[0], np.sqrt(8), rtol=1e-6)
    assert lengths[1].std() > 0.01


def tables_spread(folder: Path) -> np.ndarray:
    from safetensors.numpy import load_file

    return load_file(folder / "reference.safetensors")["features"].std(0)


def test_batch_size_and_order_of_rows_do_not_matter(world: Path, models: Path) -> None:
    make_reference(world, models)
    whole, summary = measure(world, models)
    write_study(world, batch_size=7)
    write_samples(world, samples_of(world).sort_values(["prompt_id", "sample"]).to_dict("records"), "base")
    pieces, again = measure(world, models, out="pieces")
    first, second = (frame.sort_values(KEYS).reset_index(drop=True) for frame in (whole, pieces))
    pd.testing.assert_frame_equal(first, second, atol=1e-5, rtol=1e-5)
    order = ["setting", "metric"]
    pd.testing.assert_frame_equal(
        summary.sort_values(order).reset_index(drop=True), again.sort_values(order).reset_index(drop=True),
        atol=1e-4, rtol=1e-4,
    )  # fmt: skip


def test_what_measures_is_part_of_the_evaluation(world: Path, models: Path) -> None:
    make_reference(world, models)
    measure(world, models)
    measure(world, models, "refl-s0")
    first = evaluation_of(world / "base.parquet")
    assert first == evaluation_of(world / "base.summary.parquet") == evaluation_of(world / "refl-s0.summary.parquet")
    write_study(world, rewards=["proxy", "clip"])
    measure(world, models, out="fewer")
    write_study(world)
    write_images(world, 25)
    make_reference(world, models)
    measure(world, models, out="others")
    study = world / "params.yaml"
    study.write_text(study.read_text().replace("seed: 3", "seed: 4"))
    measure(world, models, out="seed")
    assert len({first, *(evaluation_of(world / f"{name}.parquet") for name in ("fewer", "others", "seed"))}) == 4
    with pytest.raises(InputError, match="carries no evaluation id"):
        evaluation_of(world / "images.parquet")


def test_final_measures_are_kept_with_the_run(world: Path, models: Path) -> None:
    make_reference(world, models)
    _, summary = measure(world, models, "refl-s0")
    records = [json.loads(path.read_text()) for path in world.rglob("lineage/*.json")]
    kept = next(record["evaluations"]["refl-s0"] for record in records if record.get("evaluations"))
    means = summary.set_index(["strategy", "metric"])["mean"]
    assert kept["tuned/proxy"] == pytest.approx(means["tuned", "proxy"])
    assert kept["combined/clip_diversity"] == pytest.approx(means["combined", "clip_diversity"])


def test_other_worlds_have_no_oracle_metrics(world: Path, models: Path) -> None:
    write_study(world, rewards=["proxy"], text_image=None, features={"patch": "patches"}, set_metrics=[])
    make_reference(world, models)
    rows, _ = measure(world, models)
    assert set(rows["metric"]) == {"proxy", "patch_diversity"}


def test_settings_and_prompts_are_counted_as_they_stand(tmp_path: Path) -> None:
    rows = made_images("base", [("guidance", "g=1", 1.0), ("guidance", "g=2", 2.0)], 5)[:-4]
    write_samples(tmp_path, rows, "base")
    counts, suite = expected(tmp_path / "base.samples.parquet", "base")
    names = ("run", "method", "train_seed", "strategy", "setting", "value")
    wanted: dict[tuple[object, ...], Counter[str]] = {}
    for row in rows:
        wanted.setdefault(tuple(row[name] for name in names), Counter())[row["prompt_id"]] += 1
    assert list(counts.items()) == list(wanted.items())
    assert suite == {(row["prompt_id"], row["prompt"]) for row in rows}


def refused(world: Path, models: Path, message: str, run: str = "base") -> None:
    with pytest.raises(InputError, match=message):
        measure(world, models, run, out="refused")
    assert not list(world.glob("refused*")) and not list(world.glob(".refused*"))


def test_foreign_or_broken_samples_are_refused(world: Path, models: Path) -> None:
    make_reference(world, models)
    rows = samples_of(world).to_dict("records")
    write_samples(world, rows, "refl-s0")
    refused(world, models, r"holds images of run 'base', expected only 'refl-s0'", "refl-s0")
    write_samples(world, [*rows, rows[0]], "base")
    refused(world, models, r"stands twice under")
    write_samples(world, [*rows[1:], rows[0] | {"image": b"no image"}], "base")
    refused(world, models, r"sample \d of prompt p\d: not a readable image")
    write_samples(world, [*rows[1:], rows[0] | {"image": encode(np.zeros((8, 8, 3), np.uint8))}], "base")
    refused(world, models, r"sample \d of prompt p\d: \d+x\d+ pixels, expected \d+x\d+")
    write_samples(world, [*rows[1:], rows[0] | {"prompt": "another"}], "base")
    refused(world, models, r"prompt p\d is both '.*' and '.*'; run sample again")
    write_samples(world, [], "base")
    refused(world, models, r"holds no images")


def test_a_metric_that_gives_no_number_is_named(world: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_reference(world, models)
    monkeypatch.setattr("stages.measure.metrics.vendi.vendi_score", lambda features: float("nan"))
    refused(world, models, r"metric 'vendi': .* prompt 'p\d' average to nan")


def test_two_metrics_of_one_name_are_refused(world: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_reference(world, models)
    again = lambda images: {"clip_diversity": 0.0}  # noqa: E731
    monkeypatch.setattr("stages.measure.metrics.vendi.metric", again)
    refused(world, models, "metric 'vendi': 'clip_diversity' is measured already")


def test_reference_of_another_model_or_setting_is_refused(world: Path, models: Path) -> None:
    make_reference(world, models)
    write_study(world, features={"proxy": "embedding"})
    refused(world, models, r"reference.safetensors: features of another model or other settings")
    write_study(world, directions=False)
    refused(world, models, r"run measure reference again")
    write_study(world, neighbours=4)
    refused(world, models, r"run measure reference again")
    write_study(world)
    (world / "reference.safetensors").write_text("nonsense")
    refused(world, models, r"not readable as reference features")


def test_reference_needs_more_images_than_neighbours(world: Path, models: Path) -> None:
    write_images(world, 3)
    with pytest.raises(InputError, match=r"2 captioned images, expected over measure.neighbours \(2\)"):
        make_reference(world, models)


def test_reference_takes_no_more_images_than_allowed(world: Path, models: Path) -> None:
    from safetensors.numpy import load_file

    make_reference(world, models)
    everything = load_file(world / "reference.safetensors")["features"]
    write_study(world, reference_images=12)
    make_reference(world, models)
    some = load_file(world / "reference.safetensors")["features"]
    assert (len(everything), len(some)) == (29, 12)  # one image of thirty came with a pair
    assert all(np.isclose(everything, row, atol=1e-5).all(1).any() for row in some)


def test_models_that_cannot_do_what_is_asked_are_refused(world: Path, models: Path) -> None:
    make_reference(world, models)
    write_study(world, text_image="oracle")
    refused(world, models, "model 'oracle' does not compare images with texts")
    write_study(world, features={"oracle": "patches"}, set_metrics=[])
    refused(world, models, "model 'oracle' has no features of patches")
    write_study(world, rewards=["proxi"])
    refused(world, models, r"proxi.json: no such model record")


def test_the_reference_is_the_same_bytes_in_every_process(world: Path, models: Path) -> None:
    """The library writes several keys of metadata in an order that changes from process to process: there is one."""
    from safetensors import safe_open

    make_reference(world, models)
    with safe_open(world / "reference.safetensors", "np") as file:
        assert list(file.metadata()) == ["about"]
