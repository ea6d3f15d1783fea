"""PPD: what the policy is told of annotators, and how a chosen one's images are sampled."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from stages.encode.store import Item, Pair
from stages.errors import InputError
from stages.export.merge import merged
from stages.finetune.data import of_annotators
from stages.finetune.settings import FinetuneSettings
from stages.models import annotators
from stages.models.conditioning import Conditioning
from stages.models.diffusion import Denoiser
from stages.models.policy import Trainable, load_policy, make_policy
from stages.sample.networks import Networks, Rows
from stages.sample.strategies import for_annotator
from stages.sample.texts import Texts
from stages.study import load
from tests import tiny, tiny_methods
from tests.refusals import said_of
from tests.stages.curating import ROOT

TRAIN = FinetuneSettings.model_validate({"sampling_steps": 6, "batch_size": 6, "optimizer": {"lr": 1e-2}})


def errors(made: Any, names: list[str]) -> Any:
    """The errors of one micro-batch judged by these annotators."""
    own = tiny_methods.settings("ppd", {"drop": 0.0})
    batch = tiny_methods.batch(own, 0, len(names))
    [found] = made.objective.errors([replace(batch, pairs=replace(batch.preferences(), annotators=names))])
    return found


def test_the_policy_is_told_and_the_reference_is_not() -> None:
    made = tiny_methods.trainer("ppd", {"drop": 0.0}, TRAIN)
    names = ["ann", "bob", ""]
    start = errors(made, names)
    assert torch.allclose(start.margin, torch.zeros(3, dtype=start.margin.dtype), atol=1e-12)  # as the base is
    with torch.no_grad():
        made.parameters["annotators.weight"].normal_(generator=torch.Generator().manual_seed(0))
    told, plain = errors(made, names), errors(made, ["", "", ""])
    assert torch.equal(told.winner.base, start.winner.base)
    differ = (told.winner.policy - plain.winner.policy).abs() > 1e-9
    assert differ.tolist() == [True, True, False]
    other = errors(made, ["bob", "bob", "bob"])
    assert abs(float((other.winner.policy[0] - told.winner.policy[0]).detach())) > 1e-9
    assert torch.allclose(other.winner.policy[1], told.winner.policy[1], rtol=1e-12)


def test_a_share_of_pairs_names_nobody() -> None:
    """With drop 1 the policy learns from pairs as Diffusion-DPO does, to the bit."""
    weights = []
    for kind, values in (("ppd", {"drop": 1.0}), ("diffusion_dpo", {})):
        made = tiny_methods.trainer(kind, values, TRAIN)
        own = tiny_methods.settings(kind, values)
        for step in range(2):
            given = tiny_methods.batches(own, step, TRAIN)
            made.step(given)
        weights.append({name: value for name, value in made.parameters.items() if name != annotators.WEIGHT})
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_opposite_tastes_are_learnt_apart() -> None:
    """Two annotators judge the same pairs the other way round: the margin of each rises, while without annotators no
    loss below log 2 can be had on such pairs.
    """
    own = tiny_methods.settings("ppd", {"drop": 0.0, "beta": 50.0})
    made: Any = tiny_methods.trainer("ppd", {"drop": 0.0, "beta": 50.0}, TRAIN)
    batch = tiny_methods.batch(own, 0, 6)
    pairs = batch.preferences()
    first = [0, 1, 2, 0, 1, 2]
    winner, loser = pairs.winner[first].clone(), pairs.loser[first].clone()
    winner[3:], loser[3:] = pairs.loser[:3], pairs.winner[:3]
    text = Conditioning.of(batch.text)[first]
    given = replace(
        batch, text=text,
        pairs=replace(pairs, winner=winner, loser=loser, label=torch.ones_like(pairs.label),
                      weight=torch.ones_like(pairs.weight), annotators=["ann"] * 3 + ["bob"] * 3),
    )  # fmt: skip
    for _ in range(150):
        given.rng.seed(1)
        made.step([given])
    given.rng.seed(1)
    margins = made.objective.errors([given])[0].margin
    assert float(margins[:3].mean()) > 0 and float(margins[3:].mean()) > 0


def test_codes_are_the_names_own() -> None:
    module = annotators.Annotators(8, 32)
    codes = module.codes(["ann", "bob", "", "ann"])
    assert torch.equal(codes[0], codes[3]) and float(codes[2].abs().sum()) == 0
    assert codes[:2].norm(dim=1).tolist() == pytest.approx([1, 1]) and abs(float(codes[0] @ codes[1])) < 0.6
    assert torch.equal(codes[0], annotators.Annotators(8, 32).codes(["ann"])[0])


@pytest.mark.parametrize("kind", ["full", "lora", "norm_affine"])
def test_what_it_is_told_is_saved_with_a_policy(kind: Trainable, tmp_path: Path) -> None:
    base = tiny.unet()
    policy = make_policy(base, kind)
    module = annotators.attach(policy.network, tiny.WIDTH, 5)
    with torch.no_grad():
        for _, parameter in policy.parameters():
            parameter.add_(0.1)
    assert annotators.of(base) is None
    policy.save(tmp_path / "policy.safetensors", "digest")
    again = load_policy(base, tmp_path / "policy.safetensors", "digest")
    found = annotators.of(again.network)
    assert found is not None and torch.equal(found.weight, module.weight)
    one, other = merged(base, policy), make_policy(base, "full").network
    assert annotators.of(one) is None and one.state_dict().keys() == other.state_dict().keys()
    plain = make_policy(base, kind)
    plain.save(tmp_path / "plain.safetensors", "digest")
    assert annotators.of(load_policy(base, tmp_path / "plain.safetensors", "digest").network) is None


def predicted(network: Any, strategy: for_annotator.Settings, value: float | None, x: Tensor) -> Tensor:
    """The prediction at one point of the strategy; None: that of plain sampling."""
    schedule = tiny.schedule()
    base = Denoiser(tiny.unet(), schedule)
    rows = Rows.of(len(x))
    text = Conditioning(tiny.text(len(x), 3))
    empty = Conditioning(tiny.text(1, 9))
    networks = Networks(schedule.grid(6), Texts.of(text), empty, base, Denoiser(network, schedule), rows)
    with torch.no_grad():
        found = networks.tuned(1.0) if value is None else strategy.predict(networks, value)
        return found(x, 2)


def test_a_chosen_annotator_is_sampled_for() -> None:
    network = make_policy(tiny.unet(), "full").network
    strategy = for_annotator.Settings(kind="for_annotator", names=("ann", "bob"))
    assert [point.label for point in strategy.points()] == ["annotator=ann", "annotator=bob"]
    x = torch.randn(3, *tiny.LATENT, generator=torch.Generator().manual_seed(1))
    plain = predicted(network, strategy, None, x)
    assert torch.equal(predicted(network, strategy, 1.0, x), plain)  # it knows of nobody
    module = annotators.attach(network, tiny.WIDTH, 16)
    assert torch.equal(predicted(network, strategy, 0.0, x), plain)
    with torch.no_grad():
        module.weight.normal_(generator=torch.Generator().manual_seed(2))
    ann, bob = (predicted(network, strategy, value, x) for value in (0.0, 1.0))
    assert torch.equal(predicted(network, strategy, None, x), plain)
    assert not torch.allclose(ann, plain) and not torch.allclose(ann, bob)


def pair(name: str, number: int) -> Pair:
    image = Item("i", "", 0, number)
    return Pair(f"p{number}", "x", 0, image, image, 1.0, 1.0, name)


def test_an_annotator_with_one_pair() -> None:
    pairs = [pair(name, number) for number, name in enumerate(["ann", "ann", "bob", ""])]
    with pytest.raises(InputError, match=r"run: annotator 'bob' has one training pair \(1 of 2 annotators have\)"):
        of_annotators(pairs, "refuse", "run")
    assert [one.annotator for one in of_annotators(pairs, "pool", "run")] == ["ann", "ann", "", ""]
    assert of_annotators(pairs[:2], "refuse", "run") == pairs[:2]
    with pytest.raises(InputError, match="none of 1 training pairs says who judged"):
        of_annotators(pairs[3:], "refuse", "run")


# the study


def study(**more: Any) -> dict[str, Any]:
    content = copy.deepcopy(yaml.safe_load((ROOT / "studies" / "smoke.yaml").read_text()))
    content["curate"]["pairs"][0] |= {"annotators": 4}
    content["methods"]["refl"] = {"kind": "ppd", "source": "annotators-a"} | more
    content["sample"]["strategies"]["whose"] = {"kind": "for_annotator", "names": ["annotator 0", "annotator 3"]}
    return content


def test_studies_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    content = study()
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    assert load(tmp_path / "study.yaml")
    said = said_of(study(source="annotators-b"), tmp_path)
    assert "methods.refl: learns who likes what, but source 'annotators-b' of curate.pairs names no annotators" in said
    content["sample"]["strategies"]["whose"]["names"] = ["annotator 4"]
    assert "sample.strategies.whose: unknown annotator 'annotator 4'" in said_of(content, tmp_path)
    plain = study(kind="diffusion_dpo")
    assert "sample.strategies.whose: draws for annotators, but no trained method is told" in said_of(plain, tmp_path)
    table = tmp_path / "pairs.csv"
    lines = [f"a.png,b.png,a cat,1,{who}" for who in ("ann", "ann", "bob")]
    table.write_text("left,right,prompt,p,rater\n" + "\n".join(lines) + "\n")
    content = study(source="mine")
    content["sample"]["strategies"]["whose"]["names"] = ["ann"]
    content["curate"]["pairs"].append(
        {"kind": "file", "name": "mine", "path": str(table), "image_a": "left", "image_b": "right", "preference": "p",
         "annotator": "rater"}
    )  # fmt: skip
    assert "methods.refl: annotator 'bob' has one pair in source 'mine'" in said_of(content, tmp_path)
    content["methods"]["refl"]["lone"] = "pool"
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    assert load(tmp_path / "study.yaml")


@pytest.mark.slow
def test_a_miniature_study_samples_for_annotators(tmp_path: Path) -> None:
    from stages import tables
    from tests.stages.test_docs_preference import run

    content = study()
    content["decided"], content["study"]["name"] = None, "personal"
    content["methods"] = {"ppd": content["methods"]["refl"]}
    content["runs"], content["study"]["reference"] = {"ppd-s0": {"method": "ppd", "seed": 0}}, "ppd"
    content["sample"]["strategies"] = {name: content["sample"]["strategies"][name] for name in ("tuned", "whose")}
    content["report"].pop("figures")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    for name in ("Snakefile", "workflow", "stages", "profiles", "pyproject.toml", "params.yaml", "slurm"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "data").mkdir()
    target = "out/personal/samples/ppd-s0.parquet"
    run(tmp_path, "-m", "snakemake", "--cores", "1", "--config", "study=study.yaml", "--", target)
    rows = tables.read(tmp_path / target, tables.SAMPLES).to_pylist()
    images = {
        setting: [row["image"] for row in rows if row["setting"] == setting]
        for setting in ("tuned", "annotator=annotator 0", "annotator=annotator 3")
    }
    assert len({len(found) for found in images.values()}) == 1 and all(images.values())
