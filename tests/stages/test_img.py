"""IMG: a critic names what an image does not show, and the image is made again with another condition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_sample import model as model  # a fixture
from test_sample import sampling
from test_search import BOTH, STEPS, column, made, pixels
from torch import Tensor

from stages.errors import InputError
from stages.models.conditioning import Conditioning
from stages.models.diffusion import DiffusionModel
from stages.rewards.shapes_oracle import ShapesOracle
from stages.sample.criticism import Aligner, Critic, criticised, emphasised
from stages.sample.job import RecordedReward, Sampling
from stages.sample.resolve import strategy
from stages.sample.settings import SampleSettings
from stages.world.criticism import wrong_words
from stages.world.oracle import parse
from stages.world.render import render
from stages.world.scene import Caption, all_prompts, background_words, draw_scenes, size_words
from stages.world.settings import COLOURS, SHAPES, WorldSettings
from tests import tiny

ENTRY: dict[str, Any] = {"kind": "img", "n": [0, 1, 3], "critic": "critic", "apply_to": BOTH}


@dataclass
class Picky:
    """A critic that finds the first word missing in images with a reward below a bound, by default in all."""

    bound: float = 1e9
    name: str = "critic"
    differentiable: bool = False
    asked: list[int] = field(default_factory=list)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return tiny.reward(images, prompts)

    def criticise(self, images: Tensor, prompts: Sequence[str]) -> list[list[int]]:
        self.asked.append(len(images))
        return [[0] if score < self.bound else [] for score in tiny.reward(images, prompts).tolist()]


class Reversing:
    """An aligner that turns the embeddings round."""

    name, differentiable = "aligner", False

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images.sum((1, 2, 3))

    def align(self, text: Conditioning, images: Tensor, prompts: Sequence[str], faults: Any) -> Conditioning:
        assert len(text) == len(images) == len(prompts) == len(faults)
        return replace(text, text=-text.text)


def job(model: DiffusionModel, folder: Path, entries: dict[str, Any], bound: float = 1e9, **more: Any) -> Sampling:
    work = sampling(model, folder, strategies=entries, guidance=[1.0], **more)
    return replace(
        work, rewards={"critic": RecordedReward(Picky(bound), "c"), "aligner": RecordedReward(Reversing(), "a")}
    )


@pytest.fixture(scope="module")
def found(model: DiffusionModel, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], list[Any]]:
    folder = tmp_path_factory.mktemp("img")
    entries = {
        "tuned": {"kind": "tuned"}, "img": ENTRY, "still": {**ENTRY, "n": [2], "strength": 0.0},
        "aligned": {**ENTRY, "n": [1, 2], "aligner": "aligner"},
    }  # fmt: skip
    return made(job(model, folder, entries), folder)


@pytest.mark.parametrize(("name", "setting"), [("img", "n=0"), ("still", "n=2"), ("aligned", "n=2")])
def test_no_round_no_strength_and_a_change_taken_back_are_plain_sampling(found, name: str, setting: str):
    """The noise of every round is the same."""
    for run, same in (("base", ("guidance", "g=1")), ("run", ("tuned", "tuned"))):
        assert np.abs(pixels(found[run, name, setting]) - pixels(found[run, *same])).max() <= 1


def test_every_round_costs_a_sampling_and_a_question(found):
    for run in ("base", "run"):
        for n in (0, 1, 3):
            rows = found[run, "img", f"n={n}"]
            expected = {((n + 1) * STEPS, 0, n, n + 1)}
            assert {(r["nfe"], r["nfe_backward"], r["queries"], r["decodes"]) for r in rows} == expected
        zero, one, three = (pixels(found[run, "img", f"n={n}"]) for n in (0, 1, 3))
        assert not np.array_equal(zero, one) and not np.array_equal(one, three)
        assert not np.array_equal(pixels(found[run, "aligned", "n=1"]), zero)


def test_images_without_a_fault_stay_and_cost_one_question(model: DiffusionModel, tmp_path: Path):
    work = job(model, tmp_path / "plain", {})
    first = made(work, tmp_path / "plain")["base", "guidance", "g=1"]
    scores = tiny.reward(torch.from_numpy(pixels(first)).permute(0, 3, 1, 2) / 255, column(first, "prompt")).tolist()
    bound = float(np.median(scores))
    work = job(model, tmp_path / "img", {"img": {**ENTRY, "n": [3]}}, bound=bound, batch_size=64)
    rows = made(work, tmp_path / "img")["base", "img", "n=3"]
    good = [score > bound for score in scores]
    assert 0 < sum(good) < len(good)
    assert np.array_equal(pixels(rows)[good], pixels(first)[good])
    assert {(r["nfe"], r["queries"]) for r, fine in zip(rows, good, strict=True) if fine} == {(STEPS, 1)}
    assert all(r["nfe"] >= 2 * STEPS for r, fine in zip(rows, good, strict=True) if not fine)
    for row in rows:  # the last image of three is not asked about
        assert row["nfe"] == STEPS * row["queries"] or (row["queries"], row["nfe"]) == (3, 4 * STEPS)


def test_images_do_not_depend_on_the_batch_size(model: DiffusionModel, tmp_path: Path, found):
    work = job(model, tmp_path, {"img": ENTRY}, batch_size=64)
    again = made(work, tmp_path)
    for key, rows in again.items():
        assert np.abs(pixels(rows) - pixels(found[key])).max() <= 1, key
    critic = work.rewards["critic"].reward
    assert isinstance(critic, Picky) and max(critic.asked) == 4


def test_the_critic_sees_no_more_images_at_a_time_than_a_batch_has(model: DiffusionModel, tmp_path: Path):
    work = job(model, tmp_path, {}, batch_size=3)
    ctx = work.context(work.suite.groups()[0]).branch(4)
    images = torch.rand(len(ctx), 3, 16, 16)
    assert criticised(ctx, images, "critic") == [[0]] * len(ctx)
    critic = work.rewards["critic"].reward
    assert isinstance(critic, Picky) and max(critic.asked) == 3 and sum(critic.asked) == len(ctx)


def test_only_the_tokens_of_named_words_are_emphasised(model: DiffusionModel, tmp_path: Path):
    """Twice as much where a word was named twice; a word has its own tokens, after the start of the text."""
    work = job(model, tmp_path, {}, batch_size=64)
    ctx = work.context(work.suite.groups()[0])
    text, empty = ctx.networks.text.text, ctx.networks.empty.text
    found = emphasised(ctx, [[0], [], [1, 1], []], 0.5).text
    changed = (found - text).abs().amax(2) > 0
    assert changed.nonzero().tolist() == [[0, 1], [2, 2]]
    torch.testing.assert_close(found[0, 1], text[0, 1] + 0.5 * (text[0, 1] - empty[0, 1]))
    torch.testing.assert_close(found[2, 2], text[2, 2] + 1.0 * (text[2, 2] - empty[0, 2]))


def test_what_is_no_critic_and_words_that_are_not_there_are_refused(model: DiffusionModel, tmp_path: Path):
    work = job(model, tmp_path, {}, batch_size=64)
    ctx, images = work.context(work.suite.groups()[0]), torch.rand(4, 3, 16, 16)
    with pytest.raises(InputError, match="model 'aligner' criticises no images"):
        criticised(ctx, images, "aligner")

    class Beyond(Picky):
        def criticise(self, images: Tensor, prompts: Sequence[str]) -> list[list[int]]:
            return [[99]] * len(images)

    with pytest.raises(InputError, match="critic 'critic': no word 99 in"):
        criticised(replace(ctx, rewards={"critic": Beyond()}), images, "critic")
    with pytest.raises(InputError, match="n -1 is below 0"):
        strategy("s", {**ENTRY, "n": [-1]}, SampleSettings(steps=STEPS), "test")
    assert isinstance(Picky(), Critic) and isinstance(Reversing(), Aligner) and not isinstance(Reversing(), Critic)


def test_within_combined_generation(model: DiffusionModel, tmp_path: Path):
    combined = {"kind": "combined", "k": [2]}
    entry = {**ENTRY, "n": [0, 1], "apply_to": ["tuned"], "prediction": combined}
    found = made(job(model, tmp_path, {"combined": combined, "img": entry}), tmp_path)
    plain = pixels(found["run", "combined", "k=2"])
    assert np.abs(pixels(found["run", "img", "n=0"]) - plain).max() <= 1
    assert np.abs(pixels(found["run", "img", "n=1"]) - plain).max() > 1


def scenes(count: int = 40) -> Any:
    return draw_scenes(WorldSettings(), count, np.random.default_rng(4))


def test_the_oracle_of_the_shapes_world_names_wrong_words():
    """A true caption has none; of a caption with one word changed, that word."""
    drawn = scenes()
    seen = parse(render(drawn, 64))
    names, colours = list(SHAPES), list(COLOURS)
    for change in ("", "shape", "colour", "size", "background"):
        said, numbers = [], []
        for row in range(len(drawn)):
            words = {
                "colour": colours[drawn.colour[row]], "shape": names[drawn.shape[row]],
                "size": size_words(drawn)[row], "background": background_words(drawn)[row],
            }  # fmt: skip
            true = dict(words)
            other = {
                "shape": names[(drawn.shape[row] + 1) % len(names)],
                "colour": colours[(drawn.colour[row] + 1) % len(colours)],
                "size": {"small": "large", "large": "small"}.get(words["size"], ""),
                "background": {"dark": "light", "light": "dark"}.get(words["background"], ""),
            }  # fmt: skip
            if change:
                words[change] = other[change]
            text = str(Caption(**words))
            said.append(text)
            wrong = words[change] if change and words[change] != true[change] else ""
            numbers.append([n for n, word in enumerate(text.split()) if wrong and word == wrong])
        found = wrong_words(seen, said)
        agree = np.mean([one == other for one, other in zip(found, numbers, strict=True)])
        assert agree > 0.9, change  # the oracle misreads a few pictures
    assert wrong_words(seen, ["something else"] * len(drawn)) == [[]] * len(drawn)


def test_the_oracle_is_a_critic_whatever_the_other_images_are():
    images = torch.from_numpy(render(scenes(6), 64)).permute(0, 3, 1, 2) / 255
    critic, prompts = ShapesOracle("oracle"), all_prompts()[:6]
    together = critic.criticise(images, prompts)
    assert isinstance(critic, Critic) and any(together)
    assert together == [critic.criticise(images[[n]], [prompts[n]])[0] for n in range(6)]
