"""SGT: the formula against sums by hand, limits, counts, and how work is cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_sample import STEPS, sampling
from test_search import BOTH, column, made, pixels
from torch import Tensor

from stages.errors import InputError
from stages.models.conditioning import Conditioning
from stages.models.diffusion import DiffusionModel, load_diffusion
from stages.sample import concepts
from stages.sample.concepts import Rule, Watched, perpendicular, steered, strongest, with_rest
from stages.sample.context import embedded
from stages.sample.further_texts import FurtherTexts
from stages.sample.job import Sampling
from stages.sample.resolve import strategy
from stages.sample.settings import SampleSettings
from stages.sample.strategies.sgt import Settings
from tests import tiny

ENTRY: dict[str, Any] = {"kind": "sgt", "c": [0.0, 5.5], "guidance": 2.0, "window": [0.0, 1.0], "apply_to": BOTH}
RULE = Rule(quantile=0.5, threshold=0.5, momentum=0.7, decay=0.2)


@pytest.fixture(scope="module")
def worded(tmp_path_factory: pytest.TempPathFactory) -> DiffusionModel:
    """The tiny base with its text encoder."""
    record = tiny.diffusion_folder(tmp_path_factory.mktemp("models") / "base")
    return load_diffusion(record, tiny.CPU, parts=("unet", "vae", "text_encoder"))


def job(model: DiffusionModel, folder: Path, entries: dict[str, Any], **more: Any) -> Sampling:
    return sampling(model, folder, strategies=entries, guidance=[1.0, 2.0], **more)


def settings(**entry: Any) -> Settings:
    found = strategy("s", {**ENTRY, **entry}, SampleSettings(steps=STEPS), "test").settings
    assert isinstance(found, Settings)
    return found


def counts(rows: list[dict[str, Any]]) -> list[int]:
    """Evaluations of each image: with the prompt, without it, and one for each phrase of it."""
    return [(2 + len(settings().concepts_of(row["prompt"], row["prompt"].split()))) * STEPS for row in rows]


@pytest.fixture(scope="module")
def found(worded: DiffusionModel, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], list[Any]]:
    folder = tmp_path_factory.mktemp("sgt")
    prompts = [item.text for item in job(worded, folder, {}).suite.encodings.prompts("eval")]
    none: dict[str, list[str]] = {prompt: [] for prompt in prompts}
    entries = {
        "scaled": {"kind": "tuned", "guidance": 2.0}, "sgt": ENTRY, "none": {**ENTRY, "c": [5.5], "concepts": none},
        "late": {**ENTRY, "c": [5.5], "window": [0.0, 0.0]},
    }  # fmt: skip
    return made(job(worded, folder, entries), folder)


@pytest.mark.parametrize(("name", "setting"), [("sgt", "c=0"), ("none", "c=5.5")])
def test_no_weight_and_no_concept_are_guidance_by_the_prompt(found, name: str, setting: str):
    for run, same in (("base", ("guidance", "g=2")), ("run", ("scaled", "tuned"))):
        away = np.abs(pixels(found[run, name, setting]) - pixels(found[run, *same]))
        assert away.max() <= (0 if name == "sgt" else 1)
        assert set(column(found[run, name, setting], "nfe")) == {2 * STEPS}


def test_a_concept_costs_an_evaluation_a_step_and_changes_the_image(found):
    for run in ("base", "run"):
        rows, late = found[run, "sgt", "c=5.5"], found[run, "late", "c=5.5"]
        assert column(rows, "nfe") == counts(rows) and len(set(counts(rows))) > 1
        assert {(r["nfe_backward"], r["queries"], r["decodes"]) for r in rows} == {(0, 0, 1)}
        assert not np.array_equal(pixels(rows), pixels(found[run, "sgt", "c=0"]))
        assert not np.array_equal(pixels(rows), pixels(late))


def test_concepts_act_strictly_between_the_shares(
    worded: DiffusionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four steps with shares 1/4 and 3/4 in the third alone."""
    acted: list[bool] = []

    def recorded(prompt: Tensor, own: Tensor, before: Watched | None, rule: Rule, acting: bool) -> Any:
        acted.append(acting)
        return steered(prompt, own, before, rule, acting)

    monkeypatch.setattr(concepts, "steered", recorded)
    entry = {**ENTRY, "c": [5.5], "window": [0.25, 0.75], "apply_to": ["base"]}
    made(job(worded, tmp_path, {"sgt": entry}, batch_size=64), tmp_path)
    images = len(acted) // STEPS
    assert acted == [step == 2 for step in range(STEPS) for _ in range(images)]


def test_counts_are_those_of_executed_calls_by_prompt(worded: DiffusionModel, tmp_path: Path):
    """Prompts with two, one and no concepts in one batch."""
    first, second = (item.text for item in job(worded, tmp_path, {}).suite.encodings.prompts("eval"))
    given = {first: ["red circle", "blue square"], second: []}
    entry = {**ENTRY, "c": [5.5], "concepts": given, "apply_to": ["base"]}
    sizes: list[int] = []
    hook = worded.unet.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    found = made(job(worded, tmp_path, {"sgt": entry}, batch_size=64), tmp_path)
    hook.remove()
    rows = found["base", "sgt", "c=5.5"]
    assert [row["nfe"] for row in rows] == [{first: 4, second: 2}[row["prompt"]] * STEPS for row in rows]
    assert sum(column([row for some in found.values() for row in some if row["run"] == "base"], "nfe")) == sum(sizes)


@pytest.mark.parametrize("size", [3, 64])
def test_images_do_not_depend_on_the_batch_size(worded: DiffusionModel, tmp_path: Path, found, size: int):
    again = made(job(worded, tmp_path, {"sgt": ENTRY}, batch_size=size), tmp_path)
    for run in ("base", "run"):
        assert np.abs(pixels(again[run, "sgt", "c=5.5"]) - pixels(found[run, "sgt", "c=5.5"])).max() <= 1


def test_within_combined_generation(worded: DiffusionModel, tmp_path: Path):
    """Every prediction is that of the mixing strategy: the base's at first, then the tuned network's."""
    combined = {"kind": "combined", "k": [2]}
    entry = {**ENTRY, "guidance": 1.0, "apply_to": ["tuned"], "prediction": combined}
    found = made(job(worded, tmp_path, {"combined": combined, "sgt": entry}), tmp_path)
    assert np.abs(pixels(found["run", "sgt", "c=0"]) - pixels(found["run", "combined", "k=2"])).max() <= 1
    assert not np.array_equal(pixels(found["run", "sgt", "c=5.5"]), pixels(found["run", "sgt", "c=0"]))
    assert column(rows := found["run", "sgt", "c=5.5"], "nfe") == counts(rows)


def by_hand(prompt: np.ndarray, concepts: list[np.ndarray], history: list[np.ndarray], momenta: list[np.ndarray],
            acting: bool) -> np.ndarray:  # fmt: skip
    """The release's sums in plain loops, of one image; `history` and `momenta` go on from step to step."""
    kept = []
    for score in concepts:
        own = score.copy()
        for channel in own:
            channel[np.abs(channel) < np.quantile(np.abs(channel), 0.5)] = 0
        kept.append(own)
    rest = prompt.copy()
    for score in kept:
        rest = rest - (rest * score).sum() / (score * score).sum() * score
    every = [*kept, rest]
    norms = [np.sqrt((prompt**2).sum()) * np.sqrt((score**2).sum()) for score in every]
    history.append(np.array([abs((prompt * s).sum()) / n for s, n in zip(every, norms, strict=True)]))
    total = -(prompt - rest) / len(every)
    for place, score in enumerate(every):
        turn = score - (score * prompt).sum() / (prompt * prompt).sum() * prompt
        if len(momenta) <= place:
            momenta.append(np.zeros_like(prompt))
        turn = turn + 0.7 * momenta[place]
        momenta[place] = 0.2 * momenta[place] + 0.8 * turn
        if acting and len(history) > 1 and history[-2][place] < 0.5:
            total = total + turn
    return total


def test_every_step_is_that_of_the_release():
    """Four steps of two concepts, of which the first and the last do not act."""
    draw = torch.Generator().manual_seed(3)
    before: Watched | None = None
    history: list[np.ndarray] = []
    momenta: list[np.ndarray] = []
    for step in range(4):
        prompt = torch.randn(4, 6, 6, generator=draw, dtype=torch.float64)
        concepts = torch.randn(2, 4, 6, 6, generator=draw, dtype=torch.float64)
        concepts[0] += 2 * prompt  # near the prompt, so that it never acts
        acting = step in (1, 2)
        found, before = steered(prompt, concepts, before, RULE, acting)
        expected = by_hand(prompt.numpy(), [c.numpy() for c in concepts], history, momenta, acting)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-12)
    assert [bool(h[0] > 0.5) for h in history] == [True] * 4 and all(h[1] < 0.5 for h in history)


def scores(seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(4, 5, 5, generator=draw), torch.randn(3, 4, 5, 5, generator=draw)


def test_the_rest_is_perpendicular_to_the_last_concept_and_nothing_without_concepts_changes():
    prompt, concepts = scores()
    rest = with_rest(prompt, concepts)[-1]
    assert abs(float((rest * concepts[-1]).sum())) < 1e-3
    found, watched = steered(prompt, concepts[:0], None, RULE, True)
    assert float(found.abs().max()) == 0 and watched.cosines.tolist() == pytest.approx([1.0])


def test_what_is_added_where_nothing_acts_is_less_than_the_part_along_concepts():
    prompt, concepts = scores()
    found, before = steered(prompt, concepts, None, RULE, True)  # nothing was watched before
    rest = with_rest(prompt, strongest(concepts, 0.5))[-1]
    torch.testing.assert_close(found, (rest - prompt) / 4)
    quiet, _ = steered(prompt, concepts, before, replace(RULE, threshold=0.0), True)
    torch.testing.assert_close(quiet, found)
    loud, _ = steered(prompt, concepts, before, replace(RULE, threshold=2.0, momentum=0.0), True)
    turn = loud - found
    assert abs(float((turn * prompt).sum())) < 1e-3 * float(turn.norm() * prompt.norm())


def test_a_concept_that_says_nothing_is_left_alone():
    """Its score is 0 where it is embedded as the empty prompt is."""
    prompt, concepts = scores()
    assert torch.equal(perpendicular(prompt, torch.zeros_like(prompt)), prompt)
    found, watched = steered(prompt, torch.zeros_like(concepts[:1]), None, RULE, False)
    assert bool(torch.isfinite(found).all()) and watched.cosines[0] == 0


def test_half_of_the_numbers_of_every_channel_are_left_out():
    _, concepts = scores()
    kept = strongest(concepts, 0.5)
    assert (kept != 0).sum((2, 3)).unique().tolist() == [13]  # of 25, the median among them
    assert torch.equal(strongest(concepts, 0.0), concepts)


def test_concepts_are_phrases_or_given():
    rule = settings(concepts={"a dog runs": ["a dog", "running"]})
    words = ["a", "large", "red", "circle,", "and", "a", "blue", "square."]
    assert rule.concepts_of("", words) == ["large red circle", "blue square"]
    assert rule.concepts_of("a dog runs", ["a", "dog", "runs"]) == ["a dog", "running"]


def test_texts_are_embedded_as_prompts_are_and_once(worded: DiffusionModel, tmp_path: Path):
    texts, encoded = FurtherTexts(worded), worded.text.encode(["red circle", "blue"])[0].text
    torch.testing.assert_close(texts(["blue", "red circle", "blue"]).text, encoded[[1, 0, 1]])
    assert list(texts.known) == ["blue", "red circle"]
    ctx = job(worded, tmp_path, {}, batch_size=64)
    row = ctx.context(ctx.suite.groups()[0]).take([0])
    sized = replace(row, networks=row.networks.conditioned(replace(row.networks.text, size=torch.ones(1, 6))))
    assert torch.equal(embedded(sized, ["red"]).size, torch.ones(1, 6))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="embeds no further texts"):
        embedded(replace(row, embed=None), ["red"])
    assert isinstance(embedded(row, ["red"]), Conditioning)


def test_a_window_out_of_order_is_refused():
    with pytest.raises(InputError, match=r"window \[0.5, 0.2\]: expected two shares of the steps, in order"):
        settings(window=[0.5, 0.2])
