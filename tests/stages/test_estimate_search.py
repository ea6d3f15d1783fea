"""The study of searches on Stable Diffusion 1.5, estimated on tiny networks in the files that the real ones have."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from stages.estimate import __main__ as command
from stages.estimate.counting import with_gradient
from stages.models import record
from stages.sample.resolve import sampling_plan
from tests import bases, tiny, tiny_judges

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "studies/sd15-search.yaml"
HELD, EACH = 3, 4
"""Evaluation prompts of the encodings here, and the study's images of each."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's own settings of sampling; short training of one method, and tiny models."""
    folder = tmp_path_factory.mktemp("search")
    study = yaml.safe_load(STUDY.read_text())
    study["methods"] = {"refl": study["methods"]["refl"]}
    study["runs"] = {f"refl-s{seed}": {"method": "refl", "seed": seed} for seed in (1, 2)}
    study["finetune"] |= {"batch_size": 2, "accumulate": 1, "steps": 3}
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    record.save(bases.record(bases.make("sd15", folder / "base")), folder / "base.json")
    judge = tiny_judges.clip_folder(folder / "hps", "pickscore")  # a file that is no released HPS is refused
    record.save(replace(judge, name="hps"), folder / "hps.json")
    tiny.encodings(folder, held=HELD)
    return folder


def documented(target: str) -> tuple[int, ...]:
    """Sums over the settings of an image's evaluations, those with gradient, and queries in docs/scale.md."""
    text = (ROOT / "docs/scale.md").read_text()
    rows = re.findall(rf"^\| [\w =.]+ \| {target} \|((?: [\d,]+ \|){{3}})", text, re.MULTILINE)
    numbers = [[int(cell.replace(",", "")) for cell in re.findall(r"[\d,]+", row)] for row in rows]
    return tuple(map(sum, zip(*numbers, strict=True)))


def test_evaluations_queries_and_hours_of_the_searches(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"params": "study.yaml", "base": "base.json", "reward": "hps.json", "models": ".", "predictors": "."}
    files |= {"tensors": "encodings.safetensors", "index": "index.parquet"}
    monkeypatch.setattr(
        sys, "argv", ["x", *(w for name, file in files.items() for w in (f"--{name}", str(place / file)))]
    )
    command.main()
    lines = capsys.readouterr().out.splitlines()
    heading = next(line for line in lines if line.startswith("sampling"))
    assert heading.split()[-4:] == ["evaluations", "with", "gradient", "queries"]
    for name, target in (("base", "base"), ("each run", "tuned")):
        (line,) = [line for line in lines if line.startswith(f"{name}  ")]
        said = [int(cell.replace(",", "")) for cell in line.split()[-3:]]
        images = HELD * EACH
        assert said == [images * each for each in documented(target)] and said[0] > 0 and said[2] > 0
    (whole,) = [line for line in lines if line.startswith("in all ")]
    assert re.match(r"in all [\d.]+ (s|min|h) ", whole)


def test_only_the_search_along_a_gradient_goes_back_through_decoder_and_reward(place: Path) -> None:
    plan, process = sampling_plan(place / "study.yaml"), tiny.schedule()
    found = with_gradient(plan, process, "base")
    assert found.nfe == found.nfe_backward == 2 * 100 * 4  # DAS: guided, of 100 steps, with four particles
    assert found.queries == 100 * 4 + 4
    assert found.decodes == found.queries + 1  # the one that is chosen, once more
    assert with_gradient(plan, process, "tuned") == (0, 0, 0, 0)
