"""Images that a server judges: a bad answer names the image, and what was answered is not asked again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_measure import made_images, measure, samples_of, write_samples, write_study

from stages.errors import InputError
from stages.measure.evaluation import evaluation_of, ids_of
from stages.models.record import save
from stages.params import validate
from stages.prepare.import_settings import ImportSettings
from stages.prepare.source import import_model
from tests.scorers import Scorer, expected, scorer, sent

RUN = "refl-s0"


def judged_by(server: Scorer, folder: Path) -> None:
    """The reward of the server, and twice itself within another kind."""
    http = {"kind": "http", "options": {"url": server.url, "reward": "bright", "version": "v7", "batch": 2}}
    doubled = {"kind": "weighted_sum", "of": {"inner": http}, "options": {"weights": {"inner": 2.0}}}
    for name, values in (("judge", http), ("doubled", doubled)):
        save(import_model(name, validate(ImportSettings, values, name), name), folder / f"{name}.json")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LINEAGE", "off")
    write_study(
        tmp_path, rewards=["judge", "doubled"], text_image=None, features={}, set_metrics=[], passing=None, batch_size=5
    )
    write_samples(tmp_path, made_images(RUN, [("tuned", "tuned", 0.0)], 6), RUN)
    (tmp_path / "reference.safetensors").touch()
    return tmp_path


def test_measuring_goes_on_behind_a_bad_answer_that_it_names(world: Path) -> None:
    images = samples_of(world, RUN)

    def bad(body: dict[str, Any]) -> Any:
        return sent({"results": [{"bright": {"bright": 1.0}}, {"bright": {"bright": float("nan")}}], "errors": []})

    with scorer(*[None] * 6, bad) as server:
        judged_by(server, world)
        with pytest.raises(InputError) as error:
            measure(world, world, RUN)
        place = images.iloc[sum(len(body["requests"]) for body in server.bodies[:6]) + 1]
        where = f"strategy tuned, tuned, prompt {place['prompt_id']}, sample {place['sample']}: model 'judge': "
        assert str(error.value).startswith(where)
        rows, _ = measure(world, world, RUN)
        assert server.answered == list(images["prompt"])
    for name, factor in (("judge", 1.0), ("doubled", 2.0)):
        found = rows[rows["metric"] == name].merge(images, on=["prompt_id", "sample"])
        wanted = [
            factor * expected(image, prompt) for image, prompt in zip(found["image"], found["prompt"], strict=True)
        ]
        assert len(found) == len(images)
        assert found["score"].tolist() == pytest.approx(wanted, rel=1e-6)


def test_an_evaluation_is_the_same_one_at_another_server(world: Path) -> None:
    found = []
    for _ in range(2):
        with scorer() as server:
            judged_by(server, world)
            measure(world, world, RUN)
            found.append(
                (evaluation_of(world / f"{RUN}.parquet"), ids_of(world / f"{RUN}.summary.parquet"), server.url)
            )
    (one, ids, url), (other, more, moved) = found
    assert url != moved
    assert (one, ids) == (other, more)
    assert ids["judge"] == "judge: bright@v7"
