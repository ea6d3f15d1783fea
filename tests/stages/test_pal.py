"""Annotators of several tastes, and the reward that learns a mixture of prototypes for each of them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from stages import tables
from stages.errors import InputError
from stages.models.plural import Form, PluralScorer
from stages.models.record import ModelRecord, describe
from stages.params import validate
from stages.prepare import pal
from stages.prepare.pal_settings import PalSettings
from stages.prepare.pictures import read_pictures
from stages.prepare.quality import Pairs
from stages.rewards.base import load_reward, require_text
from stages.study import load
from stages.world.oracle import parse, utility
from stages.world.render import render
from stages.world.scene import all_prompts, draw_scenes
from stages.world.settings import WorldSettings
from stages.world.tastes import liked, term
from tests import tiny_judges
from tests.refusals import said_of
from tests.stages.curating import ROOT, SHAPES_PROMPTS, curate
from workflow import dvc_file
from workflow.files import Files
from workflow.jobs import STAGES
from workflow.layout import Layout
from workflow.plan import Plan

JUDGED = {"kind": "shapes", "count": 1500, "annotators": 6}
PAL = next(stage for stage in STAGES if stage.name == "prepare_pal")


# annotators of the shapes world


def test_tastes_are_about_size_and_background() -> None:
    scenes = draw_scenes(WorldSettings(), 300, np.random.default_rng(0))
    seen = parse(render(scenes, 32))
    for taste, value in (("large", scenes.radius), ("light", scenes.background.mean(1))):
        assert np.corrcoef(term(seen, taste), value)[0, 1] > 0.8, taste
    opposite = {"large": "small", "light": "dark"}
    assert all(np.allclose(term(seen, one), -term(seen, other)) for one, other in opposite.items())
    assert abs(term(seen, "large").mean()) < 0.3 and abs(term(seen, "light").mean()) < 0.3
    texts = all_prompts(WorldSettings())[:300]
    mixed = liked(seen, texts, ["large", "small"] * 150)
    assert np.allclose(mixed - utility(seen, texts), np.where(np.arange(300) % 2, -1, 1) * term(seen, "large"))


@pytest.mark.parametrize("taste", ["large", "small", "light", "dark"])
def test_oracle_judges_as_annotators_of_a_taste_do(taste: str) -> None:
    images = render(draw_scenes(WorldSettings(), 20, np.random.default_rng(1)), 32)
    texts, seen = all_prompts(WorldSettings())[:20], parse(images)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    record = ModelRecord(name=taste, kind="shapes_oracle", options={"taste": taste})
    judge = load_reward(record)
    assert np.allclose(judge(pixels, texts).numpy(), liked(seen, texts, [taste] * 20), atol=1e-5)
    assert not np.allclose(judge(pixels, texts).numpy(), utility(seen, texts))


def test_each_pair_is_judged_by_one_of_several_tastes(tmp_path: Path) -> None:
    """The same pictures as without names; annotators of one taste agree with its utility, and not with the other."""
    section = {"prompts": SHAPES_PROMPTS, "val_share": 0}
    few = JUDGED | {"count": 500}
    named = curate(tmp_path / "named", section | {"pairs": few})
    plain = curate(tmp_path / "plain", section | {"pairs": {key: few[key] for key in ("kind", "count")}})
    sides = [[(row["prompt"], row["image_a"], row["image_b"]) for row in found.pairs] for found in (named, plain)]
    assert sides[0] == sides[1] and "annotator" not in plain.pairs[0]
    assert {row["annotator"] for row in named.pairs} == {f"annotator {n}" for n in range(6)}
    pictures = read_pictures(tmp_path / "named" / "images.parquet", "pairs")
    seen, place = parse(pictures.images), {name: n for n, name in enumerate(pictures.ids)}
    agree: dict[str, list[bool]] = {"own": [], "other": []}
    for row in named.pairs:
        own = ("large", "small")[int(row["annotator"].split()[1]) % 2]
        a, b = (place[row[side]] for side in ("image_a", "image_b"))
        for whose, taste in (("own", own), ("other", {"large": "small", "small": "large"}[own])):
            values = term(seen, taste)
            agree[whose].append(bool((values[a] > values[b]) == (row["preference"] == 1)))
    assert np.mean(agree["own"]) > 0.65 > 0.5 > np.mean(agree["other"])


def test_named_annotators_vote_alone() -> None:
    from stages.curate.settings import CurateSettings

    with pytest.raises(InputError, match="with named annotators one judges each pair"):
        validate(CurateSettings, {"pairs": JUDGED | {"votes": 3}, "prompts": SHAPES_PROMPTS}, "curate")


# the model


def test_a_mixture_is_what_an_annotator_is() -> None:
    torch.manual_seed(0)
    scorer = PluralScorer(Form(6, 5, 3, ("ann", "bob")))
    images, texts = torch.randn(2, 7, 6)
    assert [scorer.row(name) for name in ("ann", "bob", "eve")] == [1, 2, 0]
    shares = scorer.shares(torch.tensor([1, 2, 0]))
    assert torch.allclose(shares.sum(1), torch.ones(3)) and bool((shares > 0).all())
    assert torch.allclose(scorer.shares(), shares[:2].mean(0, keepdim=True))
    every = torch.stack([scorer.scores(images, texts, one[None]) for one in torch.eye(3)], 1)
    mixed = scorer.scores(images, texts, shares[:1])  # linear in the mixture
    assert torch.allclose(mixed, (every * shares[:1]).sum(1), atol=1e-5)
    assert torch.allclose(scorer.scores(3 * images, 2 * texts, shares[:1]), mixed, atol=1e-5)
    assert torch.allclose(scorer.prototypes(texts).norm(dim=-1), torch.ones(7, 3))


@pytest.fixture(scope="module")
def frozen() -> ModelRecord:
    return describe("clip", "open_clip", ROOT / "shipped" / "shapes" / "clip")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, frozen: ModelRecord) -> Path:
    """A model of two prototypes for six annotators of two opposite tastes."""
    folder = tmp_path_factory.mktemp("pal")
    curate(folder, {"pairs": JUDGED, "prompts": SHAPES_PROMPTS, "val_share": 0.25})
    settings = validate(PalSettings, {"features": "clip", "steps": 400}, "pal")
    pictures = [read_pictures(folder / "images.parquet", split, pairs=True) for split in ("pairs", "pairs")]
    model = require_text(load_reward(frozen))
    log = pal.train(settings, model, (pictures[0], pictures[1]), folder / "pairs.parquet", folder / "model", "pal")
    log.write(folder / "model" / "train_log.parquet")
    return folder


def test_held_out_pairs_are_predicted_better_than_by_one_taste(trained: Path) -> None:
    rows = tables.read(trained / "model" / "train_log.parquet", tables.TRAIN_LOG).to_pylist()
    last = {row["term"]: row["value"] for row in rows if row["step"] == 400}
    assert last["probe_pairs"] > last["probe_pairs_pooled"] + 0.05
    assert last["probe_pairs"] > 0.65


def test_tastes_are_found(trained: Path, frozen: ModelRecord) -> None:
    """Annotators of one taste have mixtures alike, and prefer large or small objects as rewards too."""
    record = describe("plural", "pal", trained / "model", parts={"features": frozen})

    def reward(annotator: str | None) -> Any:
        options = {} if annotator is None else {"annotator": annotator}
        return load_reward(ModelRecord(**{**vars(record), "options": options}))

    shares = np.array([reward(f"annotator {n}").shares[0].tolist() for n in range(6)])
    own, other = shares[::2], shares[1::2]
    assert abs(own.mean(0) - other.mean(0)).max() > 3 * max(np.ptp(own[:, 0]), np.ptp(other[:, 0]), 0.02)
    rng = np.random.default_rng(5)
    size = []
    for radius in (0.38, 0.68):
        scenes = draw_scenes(WorldSettings(radius_low=radius, radius_high=radius + 0.01), 64, rng)
        scenes.shape[:], scenes.colour[:] = 1, 0
        size.append(torch.from_numpy(render(scenes, 32)).permute(0, 3, 1, 2).float() / 255)
    small, large = size
    texts = ["a red square"] * 64
    gap = {name: float((reward(name)(large, texts) - reward(name)(small, texts)).mean())
           for name in ("annotator 0", "annotator 1", None)}  # fmt: skip
    assert gap["annotator 1"] < gap["annotator 0"]  # 0 likes large objects, 1 small ones
    assert gap["annotator 1"] < gap[None] < gap["annotator 0"]


def test_the_reward_has_a_gradient_and_knows_its_annotators(tmp_path: Path) -> None:
    record = tiny_judges.pal(tmp_path)
    images = torch.rand(3, 3, 16, 16, requires_grad=True)
    texts = ["a red circle", "a blue cross", "a red circle"]
    made = load_reward(record)
    made(images, texts).sum().backward()
    assert images.grad is not None and float(images.grad.abs().sum()) > 0
    alone = torch.cat([made(images[n : n + 1], texts[n : n + 1]) for n in range(3)])
    assert torch.allclose(made(images, texts), alone, atol=1e-5)
    chosen = ModelRecord(**{**vars(record), "options": {"annotator": "bob"}})
    assert not torch.allclose(load_reward(chosen)(images, texts), made(images, texts))
    with pytest.raises(InputError, match=r"no annotator 'eve'; expected one such as 'ann', 'bob'"):
        load_reward(ModelRecord(**{**vars(record), "options": {"annotator": "eve"}}))
    config = tmp_path / "model" / "pal.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prototypes": 3}))
    other = describe("pal", "pal", tmp_path / "model", parts=record.parts)
    with pytest.raises(InputError, match=r"does not fit pal\.json"):
        load_reward(other)


def judged(*names: str) -> Pairs:
    count = len(names)
    return Pairs(["x"] * count, np.zeros(count, int), np.ones(count, int), np.ones(count, np.float32), list(names))


def test_an_annotator_with_one_pair() -> None:
    settings = validate(PalSettings, {"features": "clip"}, "pal")
    assert pal.annotators(settings, judged("b", "a", "b", "a", ""), "here") == ("a", "b")
    with pytest.raises(InputError, match=r"here: annotator 'c' has one training pair \(1 of 3 annotators have\)"):
        pal.annotators(settings, judged("b", "a", "b", "a", "c"), "here")
    pooled = settings.model_copy(update={"lone": "pool"})
    assert pal.annotators(pooled, judged("b", "a", "b", "a", "c"), "here") == ("a", "b")
    with pytest.raises(InputError, match="no training pair names an annotator"):
        pal.annotators(settings, judged("", ""), "here")
    for_c = pooled.model_copy(update={"annotator": "c"})
    with pytest.raises(InputError, match=r"here\.annotator: 'c' has no mixture; expected one such as 'a', 'b'"):
        pal.annotators(for_c, judged("b", "a", "b", "a", "c"), "here")


# the study


def study(**more: Any) -> dict[str, Any]:
    content = copy.deepcopy(yaml.safe_load((ROOT / "studies" / "smoke.yaml").read_text()))
    content["curate"]["pairs"][0] |= {"annotators": 4}
    content["prepare"]["train"]["pal"] = {
        "plural": {"features": "heldout", "steps": 4, "source": "annotators-a"} | more
    }
    content["score"]["rewards"].append("plural")
    return content


@pytest.mark.parametrize("more, said", [
    ({"source": "annotators-b"}, "plural: learns the tastes of annotators, but source 'annotators-b' of curate.pairs"),
    ({"source": "annotators"}, "prepare.train.pal.plural.source: unknown source of curate.pairs 'annotators'"),
    ({"features": "plural"}, "plural.features: 'plural' is a reward of several tastes itself"),
    ({"features": "oracle"}, "plural.features: expected a comparison of images with texts, but model 'oracle'"),
    ({"features": "hold"}, "plural.features: unknown model 'hold'"),
    ({"prototypes": 0}, "prototypes"),
])  # fmt: skip
def test_studies_that_are_refused(
    more: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert said in said_of(study(**more), tmp_path)


def test_an_annotator_with_one_pair_is_refused_before_the_first_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    table = tmp_path / "pairs.csv"
    rows = [f"a.png,b.png,a cat,1,{who}" for who in ("ann", "ann", "bob", "eve", "eve")]
    table.write_text("left,right,prompt,p,rater\n" + "\n".join(rows) + "\n")
    content = study(source="mine")
    content["curate"]["pairs"].append(
        {"kind": "file", "name": "mine", "path": str(table), "image_a": "left", "image_b": "right", "preference": "p",
         "annotator": "rater"}
    )  # fmt: skip
    said = said_of(content, tmp_path)
    assert "prepare.train.pal.plural: annotator 'bob' has one pair in source 'mine' of curate.pairs (1 of 3" in said
    content["prepare"]["train"]["pal"]["plural"]["lone"] = "pool"
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    assert load(tmp_path / "study.yaml")
    table.write_text("\n".join(table.read_text().splitlines()[:3] + rows[3:]) + "\n")  # without bob
    content["prepare"]["train"]["pal"]["plural"]["lone"] = "refuse"
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    assert load(tmp_path / "study.yaml")


def test_the_job_reads_the_features_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both runners name its record, and who scores by the reward executes the code of the features' kind too."""
    monkeypatch.chdir(ROOT)
    content = study()
    layout = Layout("study.yaml", content)
    files = Files(layout)
    assert layout.out("models/heldout.json") in files.inputs(PAL) and "plural" in layout.models
    assert f"--features {layout.out('models/heldout.json')}" in files.command(PAL)
    stages = yaml.safe_load(dvc_file.of(layout))["stages"]
    assert stages["prepare_pal"]["foreach"] == "${prepare.train.pal}"
    assert "--features out/${study.name}/models/${item.features}.json" in stages["prepare_pal"]["do"]["cmd"][-1]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    plan = Plan.read(tmp_path / "study.yaml")
    score = next(stage for stage in STAGES if stage.name == "score")
    executed = plan.stamps(score, "plural")["code"]
    assert {"stages/rewards/pal.py", "stages/rewards/open_clip.py"} <= executed.keys()
    assert "stages/rewards/pal.py" not in plan.stamps(score, "proxy")["code"]
    assert "stages/rewards/open_clip.py" in plan.stamps(PAL, "plural")["code"]
    without = {**content, "prepare": {**content["prepare"], "train": {**content["prepare"]["train"], "pal": {}}}}
    assert PAL not in Files(Layout("study.yaml", without)).stages


@pytest.mark.slow
def test_a_miniature_study_scores_and_trains_by_it(tmp_path: Path) -> None:
    from tests.stages.test_docs_preference import run

    content = study()
    content["study"] |= {"name": "plural", "reward": "plural"}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    for name in ("Snakefile", "workflow", "stages", "profiles", "pyproject.toml", "params.yaml", "slurm"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "data").mkdir()
    out = tmp_path / "out" / "plural"
    targets = (f"out/plural/{name}" for name in ("scores/plural.json", "runs/refl-s0/policy.safetensors"))
    run(tmp_path, "-m", "snakemake", "--cores", "1", "--config", "study=study.yaml", "--", *targets)
    found = json.loads((out / "scores/plural.json").read_text())
    assert found["pairs"] > 0 and 0 <= found["accuracy"] <= 1
