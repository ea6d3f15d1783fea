"""Conditions of rows, each held once: every row has its own, and a text that is learnt keeps its gradient."""

from __future__ import annotations

import pytest
import torch

from stages.models.conditioning import Conditioning
from stages.sample.texts import Texts
from tests import tiny


def texts(count: int) -> Conditioning:
    """Conditions with all that a base may be told."""
    text = tiny.text(count, 3)
    return Conditioning(text, text[:, 0], torch.ones(text.shape[:2]), torch.arange(6.0 * count).view(count, 6))


@pytest.mark.parametrize("places", [[0, 1, 2, 3], [1, 2], [0, 0, 1, 1, 3], [3, 2, 1, 0], [2], []])
def test_rows_have_the_conditions_of_their_places(places: list[int]) -> None:
    own = texts(4)
    taken, expected = Texts.of(own).take(places), own[places]
    assert len(taken) == len(places)
    for found in (taken.whole, taken.call(slice(0, 9)), taken.changed(lambda each: each.map(lambda x: x)).whole):
        for name, value in expected.tensors().items():
            assert torch.equal(found.tensors()[name], value), name
    for row in range(len(places)):
        assert torch.equal(taken.call(slice(row, row + 1)).text, expected.text[row : row + 1])


@pytest.mark.parametrize("grad", [False, True])
def test_a_call_that_is_repeated_has_the_same_tensors(grad: bool) -> None:
    taken = Texts.of(texts(2)).take([0, 1, 0, 1])
    with torch.set_grad_enabled(grad):
        first = taken.call(slice(0, 3))
        assert taken.call(slice(0, 3)) is first
        assert torch.equal(taken.call(slice(3, 6)).text, taken.own.text[[1]])


@pytest.mark.parametrize("places", [[0, 1, 2], [0, 0, 2]])
def test_a_text_that_is_learnt_has_its_gradient_after_calls_without_one(places: list[int]) -> None:
    """As when a search judges before it moves: the rows of a call were kept without a way back to the text."""
    own = tiny.text(4, 3).requires_grad_()
    taken = Texts.of(Conditioning(own)).take(places)
    for step in range(2):
        with torch.no_grad():
            before = taken.call(slice(0, 2)).text
        with torch.enable_grad():
            found = taken.call(slice(0, 2)).text
            assert torch.equal(found, before)
            (gradient,) = torch.autograd.grad(found.sum(), own)
        assert float(gradient.sum()) == found.numel(), step


@pytest.mark.parametrize("grad", [False, True])
def test_a_text_that_is_learnt_is_told_as_it_is(grad: bool) -> None:
    own = tiny.text(2, 3).requires_grad_()
    taken = Texts.of(Conditioning(own)).take([0, 0, 1])
    with torch.set_grad_enabled(grad):
        before = taken.call(slice(0, 2)).text.detach().clone()
        with torch.no_grad():
            own += 1.0
        torch.testing.assert_close(taken.call(slice(0, 2)).text.detach(), before + 1.0)
