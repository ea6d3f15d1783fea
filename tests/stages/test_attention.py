"""EBAMA: energies of maps, the maps that networks give, phrases, and latents moved on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_sample import model as model  # a fixture
from test_search import BOTH, STEPS, column, job, made, pixels
from torch import Tensor

from stages.errors import InputError
from stages.models.bases.words import words_of
from stages.models.diffusion import DiffusionModel
from stages.sample.attention import CrossAttention, Layer, descending, recorded, share
from stages.sample.attention_energy import attribution, dimness, energy, smoothed
from stages.sample.context import Context
from stages.sample.phrases import phrases_of
from tests import tiny

ENTRY: dict[str, Any] = {"kind": "ebama", "a": [0.0, 30.0], "apply_to": BOTH}


@pytest.fixture
def context(model: DiffusionModel, tmp_path: Path) -> Context:
    work, _ = job(model, tmp_path, {}, batch_size=64)
    return work.context(work.suite.groups()[0])


@pytest.fixture(scope="module")
def plain(model: DiffusionModel, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], list[Any]]:
    folder = tmp_path_factory.mktemp("attention")
    strategies = {"tuned": {"kind": "tuned"}, "ebama": ENTRY, "never": {**ENTRY, "a": [30.0], "until": 0.0}}
    return made(job(model, folder, strategies)[0], folder)


def test_size_zero_and_no_step_are_plain_sampling(plain):
    for name, setting in (("ebama", "a=0"), ("never", "a=30")):
        assert np.array_equal(pixels(plain["base", name, setting]), pixels(plain["base", "guidance", "g=1"]))
        assert np.array_equal(pixels(plain["run", name, setting]), pixels(plain["run", "tuned", "tuned"]))
        assert set(column(plain["base", name, setting], "nfe")) == {STEPS}


def test_latents_move_over_the_first_half_of_the_steps(plain):
    for run, same in (("base", ("guidance", "g=1")), ("run", ("tuned", "tuned"))):
        rows = plain[run, "ebama", "a=30"]
        assert not np.array_equal(pixels(rows), pixels(plain[run, *same]))
        assert {(r["nfe"], r["nfe_backward"], r["queries"]) for r in rows} == {(STEPS + STEPS // 2, STEPS // 2, 0)}


def test_counts_are_those_of_executed_calls_and_prompts_without_phrases_cost_nothing(
    model: DiffusionModel, tmp_path: Path
):
    work, _ = job(model, tmp_path, {}, batch_size=64)
    first = work.suite.groups()[0].items[0].text
    entry = {**ENTRY, "a": [30.0], "apply_to": ["base"], "phrases": {first: []}}
    work, _ = job(model, tmp_path, {"ebama": entry}, batch_size=64)
    sizes: list[int] = []
    hook = model.unet.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    found = made(work, tmp_path)
    hook.remove()
    rows, plain_rows = found["base", "ebama", "a=30"], found["base", "guidance", "g=1"]
    assert sum(column(rows, "nfe") + column(plain_rows, "nfe")) == sum(sizes)
    still = [row["prompt"] == first for row in rows]
    assert [row["nfe"] for row in rows] == [STEPS if rests else STEPS + STEPS // 2 for rests in still]
    assert any(still) and np.array_equal(pixels(rows)[still], pixels(plain_rows)[still])


@pytest.mark.parametrize("size", [3, 64])
def test_images_do_not_depend_on_the_batch_size(model: DiffusionModel, tmp_path: Path, plain, size: int):
    work, _ = job(model, tmp_path, {"ebama": {**ENTRY, "a": [30.0], "apply_to": ["base"]}}, batch_size=size)
    found = made(work, tmp_path)
    assert np.abs(pixels(found["base", "ebama", "a=30"]) - pixels(plain["base", "ebama", "a=30"])).max() <= 1


def test_maps_are_the_attention_of_the_network(model: DiffusionModel, context: Context):
    """Against diffusers' own scores, layer by layer; hooks are gone afterwards."""
    x = context.noise.initial()
    inputs: list[tuple[Any, Tensor, Tensor]] = []

    def keep(module: Any, given: tuple[Tensor, ...], named: dict[str, Any]) -> None:
        inputs.append((module, given[0], named["encoder_hidden_states"]))

    layers = [module for module in model.unet.modules() if getattr(module, "is_cross_attention", False)]
    hooks = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in layers]
    with torch.no_grad():
        with recorded(model.unet) as found:
            context.networks.base(1.0)(x, 1)
        for hook in hooks:
            hook.remove()
        assert len(found) == len(inputs) == len(layers) > 1
        by_size = {}
        for module, hidden, text in inputs:
            query, key = module.head_to_batch_dim(module.to_q(hidden)), module.head_to_batch_dim(module.to_k(text))
            scores = module.get_attention_scores(query, key).unflatten(0, (len(x), -1)).mean(1)
            by_size.setdefault(hidden.shape[1], []).append(scores)
        for layer in found:
            mine = share(layer, None)
            assert any(torch.allclose(mine, other, atol=1e-5) for other in by_size[layer.query.shape[1]])
    before = len(found)
    with torch.no_grad():
        context.networks.base(1.0)(x, 1)
    assert len(found) == before and not any(vars(module.to_q)["_forward_hooks"] for module in layers)


def test_maps_of_words_are_means_of_their_tokens(model: DiffusionModel, context: Context):
    with torch.no_grad():
        maps = CrossAttention(model).maps(context, context.noise.initial(), 0)
    for row, prompt in zip(maps, context.prompts, strict=True):
        assert row.shape == (4, 4, len(prompt.split()))  # 4 of 8 is nearest to a quarter
        assert bool((row > 0).all()) and bool((row.sum(-1) < 1).all())


def test_masked_tokens_have_no_share():
    layer = Layer(torch.randn(1, 4, 6), torch.randn(1, 3, 6), 2, 0.5)
    found = share(layer, torch.tensor([[1, 1, 0]]))
    torch.testing.assert_close(found.sum(-1), torch.ones(1, 4))
    assert bool((found[..., 2] == 0).all())
    torch.testing.assert_close(found[..., :2], share(Layer(layer.query, layer.key[:, :2], 2, 0.5), None))


def test_a_network_without_cross_attention_is_refused():
    with pytest.raises(InputError, match="no cross-attention to align"), recorded(torch.nn.Linear(2, 2)):
        pass


def test_words_stand_where_the_tokenizer_puts_them(model: DiffusionModel):
    """Of a word that is spelt, every token; the start of the text is token 0."""
    words = words_of(model.layout)
    assert words.places("red circle") == [[1], [2]]
    places = words.places("a zebra circle")
    spelt = words.tokenizer.tokenize("zebra")
    assert len(spelt) > 1 and places == [[1], list(range(2, 2 + len(spelt))), [2 + len(spelt)]]
    assert words.places("") == []


def test_words_that_are_cut_off_have_no_maps(model: DiffusionModel, context: Context):
    long = " ".join(["red"] * (tiny.LENGTH + 3))
    with torch.no_grad():
        one = context.take([0])
        found = CrossAttention(model).maps(
            Context(one.networks, one.noise, [long], [0], "ddpm", one.decoder), one.noise.initial(), 0
        )
    assert found[0].shape[-1] == tiny.LENGTH - 1


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("a large red circle and a blue square", [["large", "red", "circle"], ["blue", "square"]]),
        ("Two red circles, blue squares.", [["red", "circles,"], ["blue", "squares."]]),
        ("cat", [["cat"]]),
        ("the and of", []),
        ("", []),
    ],
)
def test_phrases_stand_between_function_words_and_punctuation(prompt: str, found: list[list[str]]):
    words = prompt.split()
    assert [[words[n] for n in phrase] for phrase in phrases_of(words)] == found


def maps_of(seed: int = 0) -> Tensor:
    return torch.rand(5, 4, 6, generator=torch.Generator().manual_seed(seed)) + 0.01


@pytest.mark.parametrize("distance", ["cosine", "kl", "variation"])
def test_equal_maps_of_a_phrase_leave_only_the_distance_to_others(distance: Any):
    maps = maps_of()
    maps[..., 1] = 3 * maps[..., 2]  # shares count, not sizes
    others = [0, 3, 4, 5]
    pairs = torch.stack([attribution(maps[..., [other, 2]], [[0, 1]], distance) for other in others])
    torch.testing.assert_close(attribution(maps, [[1, 2]], distance), -pairs.mean(), rtol=1e-4, atol=1e-6)
    assert float(attribution(maps, [[2]], distance)) == 0.0
    assert float(energy(maps, [[2]], distance, 0.5)) == pytest.approx(0.5 * float(dimness(maps, [[2]])))


def test_half_the_l1_distance_of_maps_that_do_not_meet_is_one():
    maps = torch.zeros(2, 2, 2)
    maps[0, 0, 0] = maps[1, 1, 1] = 2.0
    assert float(attribution(maps, [[0, 1]], "variation")) == pytest.approx(1.0)
    assert float(attribution(maps, [[0, 1]], "cosine")) == pytest.approx(1.0)


def test_smoothing_keeps_a_constant_and_spreads_a_point_by_the_released_weights():
    torch.testing.assert_close(smoothed(torch.full((4, 3), 0.3)), torch.full((4, 3), 0.3))
    point = torch.zeros(5, 5)
    point[2, 2] = 1.0
    found = smoothed(point)
    assert float(found[2, 3] / found[2, 2]) == pytest.approx(np.exp(-1), rel=1e-5)
    assert float(found[3, 3] / found[2, 2]) == pytest.approx(np.exp(-2), rel=1e-5)


def test_nouns_that_are_seen_have_a_lower_energy():
    """Of constant maps the largest smoothed share is the share itself, softmax over the words."""
    maps = torch.tensor([0.2, 0.9, 0.5]).expand(4, 4, 3)
    shares = torch.tensor([0.2, 0.9, 0.5]).softmax(0)
    assert float(dimness(maps, [[0, 1]])) == pytest.approx(-float(shares[1]))
    assert float(dimness(maps, [[0, 1], [2]])) == pytest.approx(-float(shares[1] + shares[2]))
    assert float(dimness(maps, [])) == 0.0
    seen = maps.clone()
    seen[1:, 1:, 1] = 3.0
    assert dimness(seen, [[0, 1]]) < dimness(maps, [[0, 1]])


def test_a_small_step_lowers_the_energy_of_every_moving_row(model: DiffusionModel, context: Context):
    phrases = [[0, 1], [2]]

    def of(_: str, maps: Tensor) -> Tensor:
        return energy(maps, phrases, "kl", 0.5)

    def energies(x: Tensor) -> Tensor:
        maps = CrossAttention(model).maps(context, x, 1)
        return torch.stack([of("", each) for each in maps])

    with torch.no_grad():
        x = context.noise.initial()
        moved = descending(context, of, [0.0, 1.0], [0, 2])(x, 1)
        rises = energies(moved) - energies(x)
        assert torch.equal(moved[[1, 3]], x[[1, 3]]) and torch.equal(descending(context, of, [1.0], [0])(x, 1), x)
        assert bool((rises[[0, 2]] < 0).all()) and rises[[1, 3]].abs().max() < 1e-6
